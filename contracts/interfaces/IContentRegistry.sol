// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {Terms} from "../types/Terms.sol";

/// @notice A registered work, without what ERC-721 already says (its owner).
struct Content {
    /// Who registered it; the commitment is bound to this address, whoever owns the work now.
    address creator;
    /// When it was first registered, in chain seconds; nothing changes it.
    uint48 registeredAt;
    /// When it was withdrawn; 0 while it is not.
    uint48 withdrawnAt;
    /// keccak256(abi.encode(creator, salt, merkleRoot)); the salt stays off chain.
    bytes32 commitment;
    /// The terms on offer to new grants.
    bytes32 termsHash;
}

/// @notice A trainer's license to one work, with the terms it was acquired under.
/// @dev All zero when there never was one (`termsHash` is 0 only then).
struct Grant {
    bytes32 termsHash;
    Terms terms;
    uint64 acquiredAt;
    /// The agreed end; type(uint64).max when perpetual. A withdrawal does not change it.
    uint64 expiresAt;
    /// New adapters may be registered under it strictly before this: the agreed end, or in classes
    /// 1 and 2 the end of the notice after a withdrawal where that is earlier.
    uint64 registersUntil;
    /// When the work was withdrawn; 0 while it is not.
    uint64 withdrawnAt;
}

/// @title Works, their license terms, grants and withdrawal
/// @notice A work is an ERC-721 token: its owner sets terms for new grants, approves trainers,
///         withdraws, and is paid. No administrator. The registry holds no money between
///         transactions: a fee goes from the trainer to the owner in the transaction that grants.
/// @dev Every creator's action has a relayed form, authorised by an EIP-712 signature of the creator
///      or owner (ERC-1271 for contract wallets), with the signer's next nonce and a deadline.
///      Domain: name "Viz ContentRegistry", version "1". Types:
///      Terms(uint96 trainingFee,uint16 minRoyaltyBps,uint32 grantDuration,uint32 notice,uint8 revocationClass,uint8 uses,bool approvalRequired)
///      Register(address creator,bytes32 commitment,bytes32 licenseHash,Terms terms,uint256 nonce,uint64 deadline)
///      SetTerms(uint256 contentId,bytes32 licenseHash,Terms terms,uint256 nonce,uint64 deadline)
///      Approve(uint256 contentId,address trainer,bool allowed,uint256 nonce,uint64 deadline)
///      Withdraw(uint256 contentId,uint256 nonce,uint64 deadline)
///      ERC-721 operators may move a work (that is what approving one means), and nothing else.
///      tokenURI is empty: where a work or its license text can be read is said off chain.
interface IContentRegistry {
    /// @notice A terms set was seen for the first time.
    event TermsDefined(bytes32 indexed termsHash, bytes32 indexed licenseHash, Terms terms);
    /// @notice A work was registered and minted to its creator. Followed by `TermsSet`.
    event ContentRegistered(uint256 indexed contentId, address indexed creator, bytes32 indexed commitment);
    /// @notice The terms for new grants are now these; grants given keep theirs.
    event TermsSet(uint256 indexed contentId, bytes32 indexed termsHash);
    /// @notice `owner` (while it owns the work) approves, or no longer approves, a trainer.
    event TrainerApproved(uint256 indexed contentId, address indexed owner, address indexed trainer, bool allowed);
    /// @notice `trainer` paid `fee` to `owner` and holds a grant until `expiresAt`.
    event GrantAcquired(
        uint256 indexed contentId,
        address indexed trainer,
        bytes32 indexed termsHash,
        address owner,
        uint96 fee,
        uint64 expiresAt
    );
    /// @notice The work was withdrawn, for ever.
    event ContentWithdrawn(uint256 indexed contentId);

    error CommitmentEmpty();
    error MinRoyaltyTooHigh(uint16 minRoyaltyBps);
    error NoticeTooLong(uint32 notice);
    error UnknownRevocationClass(uint8 revocationClass);
    error UnknownUses(uint8 uses);
    error NotOwner(uint256 contentId, address caller);
    error SignatureExpired(uint64 deadline);
    error SignatureInvalid(address signer);
    /// @notice The terms on offer are not the ones the trainer agreed to.
    error TermsChanged(uint256 contentId, bytes32 termsHash);
    error TrainerNotApproved(uint256 contentId, address trainer);
    error AlreadyWithdrawn(uint256 contentId);
    /// @notice The trainer holds a perpetual grant under these very terms: nothing to buy.
    error GrantIsPerpetual(uint256 contentId, address trainer);

    /// @notice Registers a work of the caller and mints it to the caller.
    /// @param commitment keccak256(abi.encode(caller, salt, merkleRoot of the chunks)).
    /// @param licenseHash The hash of the license text that the terms summarise.
    /// @return contentId Sequential from 1; rely on it only after its confirmations.
    function register(bytes32 commitment, bytes32 licenseHash, Terms calldata terms)
        external
        returns (uint256 contentId);

    /// @notice The same for `creator`, who signed `Register`; anyone may submit it.
    function registerFor(
        address creator,
        bytes32 commitment,
        bytes32 licenseHash,
        Terms calldata terms,
        uint256 nonce,
        uint64 deadline,
        bytes calldata signature
    ) external returns (uint256 contentId);

    /// @notice Offers other terms to new grants. Grants already given keep theirs. Owner only.
    function setTerms(uint256 contentId, bytes32 licenseHash, Terms calldata terms) external;

    /// @notice The same by the owner's signature `SetTerms`.
    function setTermsFor(
        uint256 contentId,
        bytes32 licenseHash,
        Terms calldata terms,
        uint256 nonce,
        uint64 deadline,
        bytes calldata signature
    ) external;

    /// @notice Says whether a trainer may acquire a grant where the terms ask for approval. Owner only;
    ///         kept per owner, so a buyer of the work does not inherit it.
    function approveTrainer(uint256 contentId, address trainer, bool allowed) external;

    /// @notice The same by the owner's signature `Approve`.
    function approveTrainerFor(
        uint256 contentId,
        address trainer,
        bool allowed,
        uint256 nonce,
        uint64 deadline,
        bytes calldata signature
    ) external;

    /// @notice Withdraws the work, irrevocably. From now on no new grant in any class; what it does to
    ///         grants already given is their own revocation class. Owner only.
    function withdraw(uint256 contentId) external;

    /// @notice The same by the owner's signature `Withdraw`.
    function withdrawFor(uint256 contentId, uint256 nonce, uint64 deadline, bytes calldata signature) external;

    /// @notice Acquires a grant for the caller and moves the training fee from it (by allowance) to the
    ///         work's owner. Replaces a grant the caller may hold, from this moment and with these terms.
    /// @param expectedTermsHash The terms the caller agrees to; anything else on offer reverts.
    function acquireGrant(uint256 contentId, bytes32 expectedTermsHash) external;

    /// @notice The same for `trainer`, paid by its ERC-3009 authorisation to this contract of exactly the
    ///         fee; anyone may submit it. The nonce, `grantNonce(contentId, expectedTermsHash, salt)`,
    ///         binds what is bought, so the authorisation can buy nothing else.
    function acquireGrantWithAuthorization(
        address trainer,
        uint256 contentId,
        bytes32 expectedTermsHash,
        bytes32 salt,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external;

    /// @notice The number of works; their ids are 1 to this.
    function contentCount() external view returns (uint256);

    /// @notice A work's record; reverts where there is none.
    function contentOf(uint256 contentId) external view returns (Content memory);

    /// @notice A terms set and its license text's hash; all zero where the hash is unknown.
    function termsOf(bytes32 termsHash) external view returns (Terms memory terms, bytes32 licenseHash);

    /// @notice Whether `owner` approved `trainer`; counts only while `owner` owns the work.
    function isTrainerApproved(uint256 contentId, address owner, address trainer) external view returns (bool);

    /// @notice Who owns each of these works now; reverts where one was never registered.
    function ownersOf(uint256[] calldata contentIds) external view returns (address[] memory owners);

    /// @notice The latest grant of a trainer to a work with its terms, live or not; all zero where there
    ///         never was one. It permits registering an adapter while block.timestamp < registersUntil.
    function grantOf(uint256 contentId, address trainer) external view returns (Grant memory);

    /// @notice keccak256(abi.encode(terms, licenseHash)).
    function hashTerms(Terms calldata terms, bytes32 licenseHash) external pure returns (bytes32);

    /// @notice The ERC-3009 nonce of a grant's payment:
    ///         keccak256(abi.encode(keccak256("Viz.AcquireGrant"), contentId, termsHash, salt)).
    function grantNonce(uint256 contentId, bytes32 termsHash, bytes32 salt) external pure returns (bytes32);
}
