// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title A token transfer that cannot block its caller
/// @notice Gas and return data are bounded, and failure is an answer. The caller of the transaction cannot cause it:
/// too little gas for the whole stipend reverts instead.
library BoundedTransfer {
    /// What one transfer may burn. 128 of them, all burnt and credited instead, fit the 2^24 gas of one transaction.
    uint256 internal constant STIPEND = 80_000;

    /// @dev EIP-150 hands over at most 63/64 of what is left: this leaves the full stipend after that, the call's own
    /// cost included.
    uint256 internal constant NEEDED = STIPEND + STIPEND / 63 + 5_000;

    /// Too little gas to give the recipient the full stipend; send more.
    error NotEnoughGas();

    /// @notice Sends `amount` of `token` and returns whether it went.
    function trySend(IERC20 token, address to, uint256 amount) internal returns (bool sent) {
        if (gasleft() < NEEDED) revert NotEnoughGas();
        bytes4 selector = IERC20.transfer.selector;
        uint256 stipend = STIPEND;
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(0x00, selector)
            mstore(0x04, to)
            mstore(0x24, amount) // its last four bytes fall on the free pointer, restored below
            sent := call(stipend, token, 0, 0x00, 0x44, 0x00, 0x20)
            // Nothing returned, or exactly true; at most one word of it is ever copied.
            sent := and(sent, or(iszero(returndatasize()), and(gt(returndatasize(), 31), eq(mload(0x00), 1))))
            mstore(0x40, free)
        }
    }
}
