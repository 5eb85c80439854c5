// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {ISettlement} from "../interfaces/ISettlement.sol";

/// @title What is signed, and how it is judged
/// @notice The EIP-712 digests of Settlement and the checks of signatures over them. It knows no money.
abstract contract Digests is ISettlement, EIP712 {
    bytes32 internal constant VOUCHER_TYPEHASH =
        keccak256("Voucher(address node,uint96 settled,bytes32 usageHash,bytes32 receiptsHead)");
    bytes32 private constant OPEN_CHANNEL_TYPEHASH = keccak256("OpenChannel(address payer,address node)");
    bytes32 private constant REQUEST_CLOSE_TYPEHASH =
        keccak256("RequestClose(address signer,address node,uint64 deadline)");
    bytes32 private constant CLOSE_TYPEHASH =
        keccak256("Close(address signer,address node,uint96 settled,uint64 deadline)");

    /// @inheritdoc ISettlement
    bytes32 public constant OPEN_KIND = keccak256("Viz.OpenChannel");
    /// @inheritdoc ISettlement
    bytes32 public constant TOP_UP_KIND = keccak256("Viz.TopUp");

    constructor() EIP712("Viz Settlement", "1") {}

    /// @inheritdoc ISettlement
    function channelId(address signer, address node) public pure returns (bytes32) {
        return keccak256(abi.encode(signer, node));
    }

    /// @inheritdoc ISettlement
    function authorizationNonce(bytes32 kind, address signer, address node, bytes32 salt)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(kind, signer, node, salt));
    }

    /// @inheritdoc ISettlement
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc ISettlement
    function hashUsage(UsageLine[] calldata lines) external pure returns (bytes32) {
        bytes memory packed;
        for (uint256 i; i < lines.length; ++i) {
            packed = bytes.concat(packed, abi.encodePacked(lines[i].adapterId, lines[i].amount));
        }
        return keccak256(packed);
    }

    /// @inheritdoc ISettlement
    function hashVoucher(address node, uint96 settled, bytes32 usageHash, bytes32 receiptsHead)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(keccak256(abi.encode(VOUCHER_TYPEHASH, node, settled, usageHash, receiptsHead)));
    }

    /// @inheritdoc ISettlement
    function hashOpenChannel(address payer, address node) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(OPEN_CHANNEL_TYPEHASH, payer, node)));
    }

    /// @inheritdoc ISettlement
    function hashRequestClose(address signer, address node, uint64 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(REQUEST_CLOSE_TYPEHASH, signer, node, deadline)));
    }

    /// @inheritdoc ISettlement
    function hashClose(address signer, address node, uint96 settled, uint64 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(CLOSE_TYPEHASH, signer, node, settled, deadline)));
    }

    /// @dev A signer is a key: claims recover it.
    function _requireKey(address by, bytes32 digest, bytes calldata signature) internal pure {
        if (!_isKey(by, digest, signature)) revert BadSignature();
    }

    /// @dev A key first, then a contract wallet: an account with delegated code (EIP-7702) still has its key.
    function _requireSignature(address by, bytes32 digest, bytes calldata signature) internal view {
        if (_isKey(by, digest, signature)) return;
        if (!SignatureChecker.isValidERC1271SignatureNow(by, digest, signature)) revert BadSignature();
    }

    function _isKey(address by, bytes32 digest, bytes calldata signature) private pure returns (bool) {
        (address recovered, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        return failure == ECDSA.RecoverError.NoError && recovered == by;
    }
}
