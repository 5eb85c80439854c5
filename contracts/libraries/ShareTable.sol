// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IContentRegistry} from "../interfaces/IContentRegistry.sol";

/// @title An adapter's share table and whom its rows pay
/// @notice One word a row: contentId << 16 | bps, ascending by contentId, the bps summing to 10,000.
library ShareTable {
    /// @notice keccak256 of the words, as the adapter registry stores it.
    function hash(uint256[] calldata shares) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            calldatacopy(free, shares.offset, shl(5, shares.length))
            digest := keccak256(free, shl(5, shares.length))
        }
    }

    /// @notice The owner and the share of row `i`, which must be below the length of both.
    function row(uint256[] calldata shares, address[] memory list, uint256 i)
        internal
        pure
        returns (address owner, uint256 bps)
    {
        assembly ("memory-safe") {
            bps := and(calldataload(add(shares.offset, shl(5, i))), 0xffff)
            owner := mload(add(list, shl(5, add(i, 1))))
        }
    }

    /// @notice Who owns the work of each row now; reverts where one does not exist.
    /// @dev One call for all of them. The answer is 0x20, the length, the owners: from its second word on an array as
    /// Solidity keeps it, written over the question.
    function owners(IContentRegistry contents, uint256[] calldata shares)
        internal
        view
        returns (address[] memory list)
    {
        bytes4 selector = IContentRegistry.ownersOf.selector;
        assembly ("memory-safe") {
            let free := mload(0x40)
            let size := shl(5, shares.length)
            mstore(free, selector)
            mstore(add(free, 0x04), 0x20)
            mstore(add(free, 0x24), shares.length)
            let word := add(free, 0x44)
            let at := shares.offset
            for { let end := add(at, size) } lt(at, end) { at := add(at, 0x20) } {
                mstore(word, shr(16, calldataload(at)))
                word := add(word, 0x20)
            }
            let answered := staticcall(gas(), contents, free, add(size, 0x44), free, add(size, 0x40))
            list := add(free, 0x20)
            if iszero(and(answered, and(eq(returndatasize(), add(size, 0x40)), eq(mload(list), shares.length)))) {
                revert(0, 0)
            }
            mstore(0x40, word)
        }
    }
}
