// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";

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

    /// @notice Row `i`, which must be below the table's length.
    function row(uint256[] calldata shares, uint256 i) internal pure returns (uint256 contentId, uint256 bps) {
        assembly ("memory-safe") {
            contentId := calldataload(add(shares.offset, shl(5, i)))
            bps := and(contentId, 0xffff)
            contentId := shr(16, contentId)
        }
    }

    /// @notice Who owns a content now; reverts where it does not exist.
    function ownerOf(IERC721 contents, uint256 contentId) internal view returns (address owner) {
        bytes4 selector = IERC721.ownerOf.selector;
        assembly ("memory-safe") {
            mstore(0x00, selector)
            mstore(0x04, contentId)
            if iszero(and(gt(returndatasize(), 0x1f), staticcall(gas(), contents, 0x00, 0x24, 0x00, 0x20))) {
                revert(0, 0)
            }
            owner := mload(0x00)
        }
    }
}
