// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

/// @title Transfer by signed authorization (EIP-3009), the part that Viz uses
/// @notice The form with the signature as bytes, so that contract wallets (ERC-1271) can pay too.
interface IERC3009 {
    /// @notice Moves `value` from `from` to the caller, who must be `to`, on the word of `from`'s signature.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
}
