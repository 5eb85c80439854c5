// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

/// @dev Bytes of a row before its lines, and of one line. File-level, so that assembly can name them too.
uint256 constant HEADER = 109;
uint256 constant LINE = 16;

/// @dev The highest s of a signature that has only one form (half the order of secp256k1).
uint256 constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

/// @title The layout of a claim's bytes
/// @notice A row: r (32) | yParityAndS (32) | settled (12) | receiptsHead (32) | count (1) | lines; a line:
/// adapterId (4) | amount (12). All big-endian, nothing between them.
library ClaimRow {
    /// @notice Where the row at `at` ends, or zero where the bytes end before it does.
    function end(bytes calldata rows, uint256 at) internal pure returns (uint256) {
        if (at + HEADER > rows.length) return 0;
        uint256 next = at + HEADER + LINE * uint8(rows[at + HEADER - 1]);
        return next > rows.length ? 0 : next;
    }

    /// @notice The settled total that the row at `at` was signed on.
    function settled(bytes calldata rows, uint256 at) internal pure returns (uint96) {
        return uint96(bytes12(rows[at + 64:at + 76]));
    }

    /// @notice The receipts head that the row at `at` signs.
    function receiptsHead(bytes calldata rows, uint256 at) internal pure returns (bytes32) {
        return bytes32(rows[at + 76:at + 108]);
    }

    /// @notice The packed lines of the row at `at`, which ends at `next`.
    function lines(bytes calldata rows, uint256 at, uint256 next) internal pure returns (bytes calldata) {
        return rows[at + HEADER:next];
    }

    /// @notice The line at `at` of packed lines.
    function line(bytes calldata packed, uint256 at) internal pure returns (uint32 adapterId, uint96 amount) {
        uint128 word = uint128(bytes16(packed[at:at + LINE]));
        return (uint32(word >> 96), uint96(word));
    }

    /// @notice Who signed `digest` with the row at `at`; zero where nobody did, or with a high s.
    function signer(bytes calldata rows, uint256 at, bytes32 digest) internal pure returns (address) {
        bytes32 r = bytes32(rows[at:at + 32]);
        uint256 vs = uint256(bytes32(rows[at + 32:at + 64]));
        uint256 s = vs & (type(uint256).max >> 1);
        if (s > HALF_ORDER) return address(0);
        return ecrecover(digest, uint8(27 + (vs >> 255)), r, bytes32(s));
    }
}
