// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {Content, Grant, IContentRegistry} from "./interfaces/IContentRegistry.sol";
import {IERC3009} from "./interfaces/IERC3009.sol";
import {ALL_USES, BPS, Terms} from "./types/Terms.sol";

/// @title Works, their license terms, grants and withdrawal
/// @dev Invariants: a work is never burned, so ownerOf never reverts for a registered id; withdrawnAt is
///      set once; a terms set never changes under its hash; a grant's terms change only when its trainer
///      acquires again; the registry's token balance is what strangers sent it, before and after
///      every transaction.
contract ContentRegistry is IContentRegistry, ERC721, EIP712, Nonces, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint32 public constant MAX_NOTICE = 90 days;

    string private constant TERMS_TYPE =
        "Terms(uint96 trainingFee,uint16 minRoyaltyBps,uint32 grantDuration,uint32 notice,uint8 revocationClass,uint8 uses,bool approvalRequired)";
    bytes32 private constant TERMS_TYPEHASH = keccak256(bytes(TERMS_TYPE));
    bytes32 private constant REGISTER_TYPEHASH = keccak256(
        abi.encodePacked(
            "Register(address creator,bytes32 commitment,bytes32 licenseHash,Terms terms,uint256 nonce,uint64 deadline)",
            TERMS_TYPE
        )
    );
    bytes32 private constant SET_TERMS_TYPEHASH = keccak256(
        abi.encodePacked(
            "SetTerms(uint256 contentId,bytes32 licenseHash,Terms terms,uint256 nonce,uint64 deadline)", TERMS_TYPE
        )
    );
    bytes32 private constant APPROVE_TYPEHASH =
        keccak256("Approve(uint256 contentId,address trainer,bool allowed,uint256 nonce,uint64 deadline)");
    bytes32 private constant WITHDRAW_TYPEHASH = keccak256("Withdraw(uint256 contentId,uint256 nonce,uint64 deadline)");
    bytes32 private constant GRANT_KIND = keccak256("Viz.AcquireGrant");

    struct TermsRecord {
        Terms terms;
        bytes32 licenseHash;
    }

    struct GrantRecord {
        bytes32 termsHash;
        uint64 acquiredAt;
        uint64 expiresAt;
    }

    /// @notice The token that training fees are paid in.
    IERC20 public immutable token;

    uint256 public contentCount;
    mapping(uint256 contentId => Content) private _contents;
    mapping(bytes32 termsHash => TermsRecord) private _terms;
    mapping(uint256 contentId => mapping(address owner => mapping(address trainer => bool))) private _approved;
    mapping(uint256 contentId => mapping(address trainer => GrantRecord)) private _grants;

    constructor(IERC20 token_) ERC721("Viz Content", "VIZ-C") EIP712("Viz ContentRegistry", "1") {
        token = token_;
    }

    // Registration and terms

    /// @inheritdoc IContentRegistry
    function register(bytes32 commitment, bytes32 licenseHash, Terms calldata terms) external returns (uint256) {
        return _register(msg.sender, commitment, licenseHash, terms);
    }

    /// @inheritdoc IContentRegistry
    function registerFor(
        address creator,
        bytes32 commitment,
        bytes32 licenseHash,
        Terms calldata terms,
        uint256 nonce,
        uint64 deadline,
        bytes calldata signature
    ) external returns (uint256) {
        bytes32 structHash = keccak256(
            abi.encode(REGISTER_TYPEHASH, creator, commitment, licenseHash, _structHash(terms), nonce, deadline)
        );
        _useSignature(creator, structHash, nonce, deadline, signature);
        return _register(creator, commitment, licenseHash, terms);
    }

    /// @inheritdoc IContentRegistry
    function setTerms(uint256 contentId, bytes32 licenseHash, Terms calldata terms) external {
        _requireOwner(contentId);
        _setTerms(contentId, licenseHash, terms);
    }

    /// @inheritdoc IContentRegistry
    function setTermsFor(
        uint256 contentId,
        bytes32 licenseHash,
        Terms calldata terms,
        uint256 nonce,
        uint64 deadline,
        bytes calldata signature
    ) external {
        bytes32 structHash = keccak256(
            abi.encode(SET_TERMS_TYPEHASH, contentId, licenseHash, _structHash(terms), nonce, deadline)
        );
        _useSignature(ownerOf(contentId), structHash, nonce, deadline, signature);
        _setTerms(contentId, licenseHash, terms);
    }

    /// @inheritdoc IContentRegistry
    function approveTrainer(uint256 contentId, address trainer, bool allowed) external {
        _requireOwner(contentId);
        _approveTrainer(contentId, msg.sender, trainer, allowed);
    }

    /// @inheritdoc IContentRegistry
    function approveTrainerFor(
        uint256 contentId,
        address trainer,
        bool allowed,
        uint256 nonce,
        uint64 deadline,
        bytes calldata signature
    ) external {
        address owner = ownerOf(contentId);
        bytes32 structHash = keccak256(abi.encode(APPROVE_TYPEHASH, contentId, trainer, allowed, nonce, deadline));
        _useSignature(owner, structHash, nonce, deadline, signature);
        _approveTrainer(contentId, owner, trainer, allowed);
    }

    /// @inheritdoc IContentRegistry
    function withdraw(uint256 contentId) external {
        _requireOwner(contentId);
        _withdraw(contentId);
    }

    /// @inheritdoc IContentRegistry
    function withdrawFor(uint256 contentId, uint256 nonce, uint64 deadline, bytes calldata signature) external {
        bytes32 structHash = keccak256(abi.encode(WITHDRAW_TYPEHASH, contentId, nonce, deadline));
        _useSignature(ownerOf(contentId), structHash, nonce, deadline, signature);
        _withdraw(contentId);
    }

    // Grants

    /// @inheritdoc IContentRegistry
    function acquireGrant(uint256 contentId, bytes32 expectedTermsHash) external nonReentrant {
        (address owner, uint96 fee) = _grant(contentId, msg.sender, expectedTermsHash);
        if (fee != 0) token.safeTransferFrom(msg.sender, owner, fee);
    }

    /// @inheritdoc IContentRegistry
    function acquireGrantWithAuthorization(
        address trainer,
        uint256 contentId,
        bytes32 expectedTermsHash,
        bytes32 salt,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external nonReentrant {
        (address owner, uint96 fee) = _grant(contentId, trainer, expectedTermsHash);
        // Also where the fee is 0: the authorisation is what shows that the trainer wants the grant.
        bytes32 nonce = grantNonce(contentId, expectedTermsHash, salt);
        _pull(trainer, fee, validAfter, validBefore, nonce, signature);
        if (fee != 0) token.safeTransfer(owner, fee);
    }

    // Views

    /// @inheritdoc IContentRegistry
    function contentOf(uint256 contentId) external view returns (Content memory) {
        _requireOwned(contentId);
        return _contents[contentId];
    }

    /// @inheritdoc IContentRegistry
    function termsOf(bytes32 termsHash) external view returns (Terms memory terms, bytes32 licenseHash) {
        TermsRecord storage record = _terms[termsHash];
        return (record.terms, record.licenseHash);
    }

    /// @inheritdoc IContentRegistry
    function isTrainerApproved(uint256 contentId, address owner, address trainer) external view returns (bool) {
        return _approved[contentId][owner][trainer];
    }

    /// @inheritdoc IContentRegistry
    function ownersOf(uint256[] calldata contentIds) external view returns (address[] memory) {
        // Written as the ABI wants it, 0x20 | count | owners: to encode an array of them would cost as much again.
        uint256[] memory answer = new uint256[](2 + contentIds.length);
        (answer[0], answer[1]) = (0x20, contentIds.length);
        uint256 next;
        assembly ("memory-safe") {
            next := add(answer, 0x60)
        }
        for (uint256 i; i < contentIds.length; ++i) {
            address owner = ownerOf(contentIds[i]);
            assembly ("memory-safe") {
                mstore(next, owner)
                next := add(next, 0x20)
            }
        }
        assembly ("memory-safe") {
            return(add(answer, 0x20), shl(5, mload(answer)))
        }
    }

    /// @inheritdoc IContentRegistry
    function grantOf(uint256 contentId, address trainer) external view returns (Grant memory grant) {
        GrantRecord storage record = _grants[contentId][trainer];
        grant.termsHash = record.termsHash;
        if (grant.termsHash == 0) return grant;
        grant.terms = _terms[grant.termsHash].terms;
        grant.acquiredAt = record.acquiredAt;
        grant.expiresAt = record.expiresAt;
        grant.withdrawnAt = _contents[contentId].withdrawnAt;
        grant.registersUntil = grant.expiresAt;
        if (grant.withdrawnAt != 0 && grant.terms.revocationClass != 0) {
            uint64 noticeEnd = grant.withdrawnAt + grant.terms.notice;
            if (noticeEnd < grant.registersUntil) grant.registersUntil = noticeEnd;
        }
    }

    /// @inheritdoc IContentRegistry
    function hashTerms(Terms calldata terms, bytes32 licenseHash) public pure returns (bytes32) {
        return keccak256(abi.encode(terms, licenseHash));
    }

    /// @inheritdoc IContentRegistry
    function grantNonce(uint256 contentId, bytes32 termsHash, bytes32 salt) public pure returns (bytes32) {
        return keccak256(abi.encode(GRANT_KIND, contentId, termsHash, salt));
    }

    // Rules

    function _register(address creator, bytes32 commitment, bytes32 licenseHash, Terms calldata terms)
        private
        returns (uint256 contentId)
    {
        if (commitment == 0) revert CommitmentEmpty();
        contentId = ++contentCount;
        Content storage content = _contents[contentId];
        content.creator = creator;
        content.registeredAt = uint48(block.timestamp);
        content.commitment = commitment;
        emit ContentRegistered(contentId, creator, commitment);
        _setTerms(contentId, licenseHash, terms);
        // Not _safeMint: a callback would hand control to the creator in the middle of a relayed call, and
        // a contract wallet that can sign for the work needs no receiver hook to own it.
        _mint(creator, contentId);
    }

    function _setTerms(uint256 contentId, bytes32 licenseHash, Terms calldata terms) private {
        _requireNotWithdrawn(contentId);
        if (terms.minRoyaltyBps > BPS) revert MinRoyaltyTooHigh(terms.minRoyaltyBps);
        if (terms.notice > MAX_NOTICE) revert NoticeTooLong(terms.notice);
        if (terms.revocationClass > 2) revert UnknownRevocationClass(terms.revocationClass);
        if (terms.uses == 0 || terms.uses > ALL_USES) revert UnknownUses(terms.uses);
        bytes32 termsHash = hashTerms(terms, licenseHash);
        TermsRecord storage record = _terms[termsHash];
        // A stored set always has a use, so this tells a known hash from an unknown one.
        if (record.terms.uses == 0) {
            record.terms = terms;
            record.licenseHash = licenseHash;
            emit TermsDefined(termsHash, licenseHash, terms);
        }
        _contents[contentId].termsHash = termsHash;
        emit TermsSet(contentId, termsHash);
    }

    function _approveTrainer(uint256 contentId, address owner, address trainer, bool allowed) private {
        _approved[contentId][owner][trainer] = allowed;
        emit TrainerApproved(contentId, owner, trainer, allowed);
    }

    function _withdraw(uint256 contentId) private {
        _requireNotWithdrawn(contentId);
        _contents[contentId].withdrawnAt = uint48(block.timestamp);
        emit ContentWithdrawn(contentId);
    }

    /// @dev Checks and records; the caller moves the fee afterwards.
    function _grant(uint256 contentId, address trainer, bytes32 expectedTermsHash)
        private
        returns (address owner, uint96 fee)
    {
        owner = ownerOf(contentId);
        _requireNotWithdrawn(contentId);
        bytes32 termsHash = _contents[contentId].termsHash;
        if (termsHash != expectedTermsHash) revert TermsChanged(contentId, termsHash);
        Terms memory terms = _terms[termsHash].terms;
        if (terms.approvalRequired && trainer != owner && !_approved[contentId][owner][trainer]) {
            revert TrainerNotApproved(contentId, trainer);
        }
        GrantRecord storage record = _grants[contentId][trainer];
        if (record.termsHash == termsHash && record.expiresAt == type(uint64).max) {
            revert GrantIsPerpetual(contentId, trainer);
        }
        // A renewal runs from now, not from the old end: else a trainer could pile up years at today's
        // fee (or for nothing, where it is 0) and outlive every change of terms.
        uint64 expiresAt = terms.grantDuration == 0 ? type(uint64).max : uint64(block.timestamp) + terms.grantDuration;
        fee = terms.trainingFee;
        record.termsHash = termsHash;
        record.acquiredAt = uint64(block.timestamp);
        record.expiresAt = expiresAt;
        emit GrantAcquired(contentId, trainer, termsHash, owner, fee, expiresAt);
    }

    function _pull(
        address from,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) private {
        IERC3009(address(token))
            .receiveWithAuthorization(from, address(this), value, validAfter, validBefore, nonce, signature);
    }

    function _requireOwner(uint256 contentId) private view {
        if (ownerOf(contentId) != msg.sender) revert NotOwner(contentId, msg.sender);
    }

    function _requireNotWithdrawn(uint256 contentId) private view {
        if (_contents[contentId].withdrawnAt != 0) revert AlreadyWithdrawn(contentId);
    }

    /// @dev Checks a relayed action and uses up the signer's nonce. A key first, then a contract wallet: an
    ///      account with delegated code (EIP-7702) still has its key.
    function _useSignature(address signer, bytes32 structHash, uint256 nonce, uint64 deadline, bytes calldata signature)
        private
    {
        if (block.timestamp > deadline) revert SignatureExpired(deadline);
        _useCheckedNonce(signer, nonce);
        bytes32 digest = _hashTypedDataV4(structHash);
        (address recovered, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (failure == ECDSA.RecoverError.NoError && recovered == signer) return;
        if (!SignatureChecker.isValidERC1271SignatureNow(signer, digest, signature)) revert SignatureInvalid(signer);
    }

    function _structHash(Terms calldata terms) private pure returns (bytes32) {
        return keccak256(abi.encode(TERMS_TYPEHASH, terms));
    }
}
