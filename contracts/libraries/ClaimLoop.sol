// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IAdapterRegistry} from "../interfaces/IAdapterRegistry.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";
import {HALF_ORDER, HEADER, LINE} from "./ClaimRow.sol";

/// @title The inner loop of a claim
/// @notice Judges each row whole, applies the good ones to their channels, and adds up what every adapter earned, so
/// that each is paid once a batch. The same rules in plain Solidity are `Settlement.previewClaim` and, in the tests, a
/// twin of the whole claim; this is the one place where they are written in assembly, for gas.
/// @dev Memory from the free pointer on, while it runs:
///   0x000 typehash | node | settled | usageHash | receiptsHead   (the voucher's struct hash)
///   0x0a0 0x1901 | domain separator | struct hash                (its digest, 66 bytes)
///   0x100 digest | v | r | s                                     (ecrecover; also the call to the registry)
///   0x180 the adapter registry | the selector of its terms
///   0x1c0 the packed lines of one row, at most 255, then a line of zeros, where reading them stops
///   0x11e0 the table: four words an adapter, ascending: id << 96, amount, economics, servesUntil; then 2^255, above
///          every id, where a search ends.
/// The lines of a row are added to the table while they are judged, and taken out again where the row proves bad: what
/// was added is exactly the lines before `line`. No sum of lines comes near 2^255.
library ClaimLoop {
    uint256 private constant LINES = 0x1c0;
    uint256 private constant TABLE = 0x11e0;
    uint256 private constant ENTRY = 0x80;
    uint256 private constant END = 1 << 255;
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
        assembly ("memory-safe") {
            // The work is split so that the variables of each function fit the stack: in memory they would cost twice.
            // Their `leave` keeps the compiler from merging them again.

            /// Who signed the row at `at` with `size` bytes of lines; zero where nobody did, or with a high s.
            function signerOf(buffer, at, size) -> signer {
                mstore(add(buffer, 0x40), shr(160, calldataload(add(at, 64))))
                calldatacopy(add(buffer, LINES), add(at, HEADER), size)
                mstore(add(buffer, 0x60), keccak256(add(buffer, LINES), size))
                mstore(add(buffer, 0x80), calldataload(add(at, 76)))
                mstore(add(buffer, 0xc2), keccak256(buffer, 0xa0))
                mstore(add(buffer, 0x100), keccak256(add(buffer, 0xa0), 0x42))
                let s := calldataload(add(at, 32))
                mstore(add(buffer, 0x120), add(27, shr(255, s)))
                mstore(add(buffer, 0x140), calldataload(at))
                s := shr(1, shl(1, s))
                mstore(add(buffer, 0x160), s)
                // A failed recovery returns nothing and leaves the output as it was: hence the zero before it and the
                // size after it.
                mstore(0x00, 0)
                pop(staticcall(gas(), 1, add(buffer, 0x100), 0x80, 0x00, 0x20))
                if or(gt(s, HALF_ORDER), xor(returndatasize(), 0x20)) { leave }
                signer := mload(0x00)
            }

            /// Adds lines to the table while line and entry name the same adapter. If all rows name the same adapters,
            /// this loop adds every line.
            function walk(line, p, sum) -> nextLine, next, newSum {
                nextLine := line
                next := p
                newSum := sum
                for {} 1 {} {
                    // One subtraction compares the ids and takes the amount: where the ids differ it leaves 2^96 or
                    // more. Nothing equals the end of the table, and the line of zeros leaves zero at best.
                    let amount := sub(shr(128, mload(nextLine)), mload(next))
                    if gt(sub(amount, 1), 0xfffffffffffffffffffffffe) { leave }
                    let total := add(next, 0x20)
                    mstore(total, add(mload(total), amount))
                    newSum := add(newSum, amount)
                    next := add(next, ENTRY)
                    nextLine := add(nextLine, LINE)
                }
            }

            /// Finds the entry of the adapter that `line` names, from `p` on, or makes it. Both the lines and the table
            /// ascend, so a line out of order matches no entry from `p` on, and is refused below.
            function place(buffer, line, p, tail) -> status, found, newTail {
                newTail := tail
                let adapterId := shr(224, mload(line))
                let key := shl(96, adapterId)
                for {} lt(mload(p), key) {} { p := add(p, ENTRY) }
                found := p
                if eq(mload(p), key) { leave }
                if gt(line, add(buffer, LINES)) {
                    if iszero(gt(adapterId, shr(224, mload(sub(line, LINE))))) {
                        status := 6 // BadOrder
                        leave
                    }
                }
                mstore(0x00, 0)
                mstore(0x20, 0)
                if adapterId {
                    mstore(add(buffer, 0x100), mload(add(buffer, 0x1a0)))
                    mstore(add(buffer, 0x104), adapterId)
                    mstore(add(buffer, 0x124), caller())
                    if iszero(
                        and(
                            gt(returndatasize(), 0x3f),
                            staticcall(gas(), mload(add(buffer, 0x180)), add(buffer, 0x100), 0x44, 0x00, 0x40)
                        )
                    ) { revert(0, 0) }
                    if iszero(mload(0x00)) {
                        status := 7 // UnknownAdapter
                        leave
                    }
                }
                mcopy(add(p, ENTRY), p, add(sub(tail, p), 0x20))
                newTail := add(tail, ENTRY)
                mstore(p, key)
                mstore(add(p, 0x20), 0)
                mcopy(add(p, 0x40), 0x00, 0x40)
            }

            /// Takes out of the table what the lines before `end` added.
            function undo(buffer, end) {
                let p := add(buffer, TABLE)
                for { let line := add(buffer, LINES) } lt(line, end) { line := add(line, LINE) } {
                    let amount := shr(128, mload(line))
                    for {} shr(96, sub(amount, mload(p))) {} { p := add(p, ENTRY) }
                    mstore(add(p, 0x20), sub(mload(add(p, 0x20)), and(amount, MASK)))
                }
            }

            /// Judges the row at `at` and, where it is good, applies it: `sum` is what it owes in all.
            function judge(buffer, at, size, tail, channels_, topic) -> status, newTail, sum {
                newTail := tail
                if iszero(size) {
                    status := 2 // NoLines
                    leave
                }
                let signer := signerOf(buffer, at, size)
                if iszero(signer) {
                    status := 3 // BadSignature
                    leave
                }

                // Its channel: keccak256(signer, node), in one word.
                mstore(0x00, signer)
                mstore(0x20, caller())
                let id := keccak256(0x00, 0x40)
                mstore(0x00, id)
                mstore(0x20, channels_)
                let slot := keccak256(0x00, 0x40)
                let word := sload(slot)
                if iszero(shl(64, word)) {
                    status := 4 // NoChannel
                    leave
                }
                let base := mload(add(buffer, 0x40))
                if xor(base, and(shr(96, word), MASK)) {
                    status := 5 // WrongBase
                    leave
                }

                // Its lines.
                let line := add(buffer, LINES)
                let end := add(line, size)
                mstore(end, 0)
                for { let p := add(buffer, TABLE) } 1 {} {
                    line, p, sum := walk(line, p, sum)
                    if eq(line, end) { break }
                    status, p, newTail := place(buffer, line, p, newTail)
                    if status {
                        undo(buffer, line)
                        leave
                    }
                    if iszero(and(shr(128, mload(line)), MASK)) {
                        // A line that owes nothing makes the sum larger than any deposit.
                        sum := or(sum, END)
                        p := add(p, ENTRY)
                        line := add(line, LINE)
                    }
                }
                if or(gt(sum, and(word, MASK)), shr(96, add(base, sum))) {
                    status := 10 // TotalTooLarge
                    if gt(sum, and(word, MASK)) { status := sub(9, shr(255, sum)) } // InsufficientDeposit or ZeroAmount
                    undo(buffer, end)
                    leave
                }

                // Good: the sum leaves the deposit and joins the settled total, within one word.
                sstore(slot, add(sub(word, sum), shl(96, sum)))
                mstore(add(buffer, 0x60), add(base, sum))
                log2(add(buffer, 0x60), 0x40, topic, id)
            }

            let buffer := mload(0x40)
            entry := add(buffer, TABLE)
            last := entry
            mstore(last, END)
            mstore(buffer, voucherTypehash)
            mstore(add(buffer, 0x20), caller())
            mstore(add(buffer, 0xa0), shl(240, 0x1901))
            mstore(add(buffer, 0xa2), domainSeparator)
            mstore(add(buffer, 0x180), adapters)
            mstore(add(buffer, 0x1a0), termsSelector)

            let at := rows.offset
            let finish := add(at, rows.length)
            for { let row := 0 } lt(at, finish) { row := add(row, 1) } {
                // Read before the bounds are known; whatever it reads, a row that ends too early is found.
                let size := shl(4, byte(0, calldataload(add(at, 108))))
                let next := add(add(at, HEADER), size)
                let status := 1 // Truncated
                let sum := 0
                if iszero(gt(next, finish)) {
                    status, last, sum := judge(buffer, at, size, last, channels, claimedTopic)
                }
                switch status
                case 0 { claimed := add(claimed, sum) }
                default {
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
            adapterId := shr(96, mload(entry))
            amount := mload(add(entry, 0x20))
            economics := mload(add(entry, 0x40))
            servesUntil := mload(add(entry, 0x60))
            next := add(entry, ENTRY)
        }
    }
}
