// SPDX-License-Identifier: MIT
pragma solidity ^0.8.34;

/// @notice The part of ERC-3009 that pulls: the form with the signature as bytes, as the widely used
///         dollar tokens have it since their version 2.2, so that contract wallets can pay too.
interface ITransferAuthorization {
    /// @notice Moves `value` from `from` to the caller, who must be `to`.
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
