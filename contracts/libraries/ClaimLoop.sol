// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IAdapterRegistry} from "../interfaces/IAdapterRegistry.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";
import {ClaimRow} from "./ClaimRow.sol";

/// @title The inner loop of a claim
/// @notice Judges each row whole, applies the good ones to their channels, and adds up what every adapter earned, so
/// that each is paid once a batch. The same rules in plain Solidity are `Settlement.previewClaim` and, in the tests, a
/// twin of the whole claim; this is the one place where they are written in assembly, for gas.
/// @dev Memory from the free pointer on, while it runs:
///   0x000 typehash | node | settled | usageHash | receiptsHead   (the voucher's struct hash)
///   0x0a0 0x1901 | domain separator | struct hash                (its digest, 66 bytes)
///   0x100 digest | v | r | s                                     (ecrecover; also the call to the registry)
///   0x180 the packed lines of one row, at most 255
///   0x1180 the table: three words an adapter, ascending: id << 128 | amount, economics, servesUntil; then a word of
///          ones, above every id, where a search ends.
/// The lines of a row are added to the table while they are judged, and taken out again where the row proves bad: what
/// was added is exactly the lines before `line`. A batch of good rows sums below 2^96 and the lines of one row below
/// 2^104, so no amount ever reaches the id above it.
library ClaimLoop {
    uint256 private constant TABLE = 0x1180;
    uint256 private constant ENTRY = 0x60;
    uint256 private constant MASK = 0xffffffffffffffffffffffff;

    /// @notice Runs over `rows` as a claim by the caller.
    /// @param channels the slot of the mapping from channel id to a word: closeAt | settled (96) | deposit (96).
    /// @return claimed the sum of all good rows.
    /// @return entry where the table begins; it is read by `read`.
    /// @return last where the table ends.
    function run(
        bytes calldata rows,
        bytes32 domainSeparator,
        bytes32 voucherTypehash,
        IAdapterRegistry adapters,
        uint256 channels
    ) internal returns (uint256 claimed, uint256 entry, uint256 last) {
        bytes32 claimedTopic = ISettlement.Claimed.selector;
        bytes32 refusedTopic = ISettlement.RowRefused.selector;
        bytes4 termsSelector = IAdapterRegistry.settlementTerms.selector;
        uint256 halfOrder = ClaimRow.HALF_ORDER;
        assembly ("memory-safe") {
            let buffer := mload(0x40)
            entry := add(buffer, TABLE)
            last := entry
            mstore(last, not(0))
            mstore(buffer, voucherTypehash)
            mstore(add(buffer, 0x20), caller())
            mstore(add(buffer, 0xa0), shl(240, 0x1901))
            mstore(add(buffer, 0xa2), domainSeparator)

            let at := rows.offset
            let finish := add(at, rows.length)
            for { let row := 0 } lt(at, finish) { row := add(row, 1) } {
                let lines := add(at, 109)
                // Read before the bounds are known: beyond the calldata there are only zeros.
                let next := add(lines, shl(4, byte(0, calldataload(add(at, 108)))))
                if or(gt(lines, finish), gt(next, finish)) {
                    mstore(0x00, row)
                    mstore(0x20, 1) // Truncated
                    log2(0x00, 0x40, refusedTopic, caller())
                    break
                }

                let status := 0
                let line := lines
                for {} 1 {} {
                    if eq(next, lines) {
                        status := 2 // NoLines
                        break
                    }

                    // The digest and who signed it.
                    let base := shr(160, calldataload(add(at, 64)))
                    mstore(add(buffer, 0x40), base)
                    calldatacopy(add(buffer, 0x180), lines, sub(next, lines))
                    mstore(add(buffer, 0x60), keccak256(add(buffer, 0x180), sub(next, lines)))
                    mstore(add(buffer, 0x80), calldataload(add(at, 76)))
                    mstore(add(buffer, 0xc2), keccak256(buffer, 0xa0))
                    mstore(add(buffer, 0x100), keccak256(add(buffer, 0xa0), 0x42))
                    let s := calldataload(add(at, 32))
                    mstore(add(buffer, 0x120), add(27, shr(255, s)))
                    mstore(add(buffer, 0x140), calldataload(at))
                    s := shr(1, shl(1, s))
                    mstore(add(buffer, 0x160), s)
                    // A failed recovery returns nothing and leaves the output as it was: hence the zero before it and
                    // the size after it.
                    mstore(0x00, 0)
                    pop(staticcall(gas(), 1, add(buffer, 0x100), 0x80, 0x00, 0x20))
                    if or(gt(s, halfOrder), or(iszero(eq(returndatasize(), 0x20)), iszero(mload(0x00)))) {
                        status := 3 // BadSignature
                        break
                    }

                    // Its channel: keccak256(signer, node), in one word.
                    mstore(0x20, caller())
                    let id := keccak256(0x00, 0x40)
                    mstore(0x00, id)
                    mstore(0x20, channels)
                    let slot := keccak256(0x00, 0x40)
                    let word := sload(slot)
                    if iszero(shl(64, word)) {
                        status := 4 // NoChannel
                        break
                    }
                    if xor(base, and(shr(96, word), MASK)) {
                        status := 5 // WrongBase
                        break
                    }

                    // Its lines. Both they and the table ascend, so one walk over the table finds them all, and a
                    // line that does not ascend is never found. Where rows name the same adapters, each line finds
                    // its entry at `p` at once.
                    let sum := 0
                    let zero := 0
                    for { let p := entry } lt(line, next) { line := add(line, 16) } {
                        let owed := calldataload(line)
                        let total := mload(p)
                        if xor(shr(128, total), shr(224, owed)) {
                            let adapterId := shr(224, owed)
                            for {} lt(shr(128, total), adapterId) {} {
                                p := add(p, ENTRY)
                                total := mload(p)
                            }
                            if xor(shr(128, total), adapterId) {
                                if gt(line, lines) {
                                    if iszero(gt(adapterId, shr(224, calldataload(sub(line, 16))))) {
                                        status := 6 // BadOrder
                                        break
                                    }
                                }
                                mstore(0x00, 0)
                                mstore(0x20, 0)
                                if adapterId {
                                    mstore(add(buffer, 0x100), termsSelector)
                                    mstore(add(buffer, 0x104), adapterId)
                                    mstore(add(buffer, 0x124), caller())
                                    if iszero(
                                        and(
                                            gt(returndatasize(), 0x3f),
                                            staticcall(gas(), adapters, add(buffer, 0x100), 0x44, 0x00, 0x40)
                                        )
                                    ) { revert(0, 0) }
                                    if iszero(mload(0x00)) {
                                        status := 7 // UnknownAdapter
                                        break
                                    }
                                }
                                mcopy(add(p, ENTRY), p, add(sub(last, p), 0x20))
                                last := add(last, ENTRY)
                                total := shl(128, adapterId)
                                mstore(add(p, 0x20), mload(0x00))
                                mstore(add(p, 0x40), mload(0x20))
                            }
                        }
                        owed := and(shr(128, owed), MASK)
                        mstore(p, add(total, owed))
                        p := add(p, ENTRY)
                        sum := add(sum, owed)
                        zero := or(zero, iszero(owed))
                    }
                    if status { break }
                    if zero {
                        status := 8 // ZeroAmount
                        break
                    }
                    if gt(sum, and(word, MASK)) {
                        status := 9 // InsufficientDeposit
                        break
                    }
                    if shr(96, add(base, sum)) {
                        status := 10 // TotalTooLarge
                        break
                    }

                    // Good: the sum leaves the deposit and joins the settled total, within one word.
                    sstore(slot, add(sub(word, sum), shl(96, sum)))
                    claimed := add(claimed, sum)
                    mstore(add(buffer, 0x60), add(base, sum))
                    log2(add(buffer, 0x60), 0x40, claimedTopic, id)
                    break
                }

                if status {
                    // Take out of the table what the lines before `line` added.
                    let p := entry
                    for { let undo := lines } lt(undo, line) { undo := add(undo, 16) } {
                        let owed := calldataload(undo)
                        for {} xor(shr(128, mload(p)), shr(224, owed)) {} { p := add(p, ENTRY) }
                        mstore(p, sub(mload(p), and(shr(128, owed), MASK)))
                    }
                    mstore(0x00, row)
                    mstore(0x20, status)
                    log2(0x00, 0x40, refusedTopic, caller())
                }
                at := next
            }
            mstore(0x40, add(last, 0x20))
        }
    }

    /// @notice The entry of the table at `entry`, and where the next one is.
    function read(uint256 entry)
        internal
        pure
        returns (uint32 adapterId, uint256 amount, uint256 economics, uint64 servesUntil, uint256 next)
    {
        assembly ("memory-safe") {
            let total := mload(entry)
            adapterId := shr(128, total)
            amount := and(total, MASK)
            economics := mload(add(entry, 0x20))
            servesUntil := mload(add(entry, 0x40))
            next := add(entry, ENTRY)
        }
    }
}
