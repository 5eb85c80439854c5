// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

/// @notice The conditions under which a work is licensed to a trainer. A set is immutable: it is
///         known by its hash, keccak256(abi.encode(terms, licenseHash)), and stored once.
/// @dev One storage slot. The member order is part of the EIP-712 type; never reorder.
struct Terms {
    /// Paid once per grant to the work's owner, in the token's base units.
    uint96 trainingFee;
    /// The least part of an adapter's gross revenue that must go to this work, in 1/10,000.
    uint16 minRoyaltyBps;
    /// How long a grant lives, in seconds; 0 is for ever.
    uint32 grantDuration;
    /// What a trainer keeps after a withdrawal, in seconds (classes 1 and 2); at most 90 days.
    uint32 notice;
    /// What a withdrawal does to grants already given: 0 nothing, 1 stops new adapters after the
    /// notice, 2 also retires adapters after the notice.
    uint8 revocationClass;
    /// What is permitted: the bit set below, never empty.
    uint8 uses;
    /// Whether the owner approves each trainer by name.
    bool approvalRequired;
}

uint8 constant USE_TRAIN = 1;
uint8 constant USE_EMBODY = 2;
uint8 constant USE_SERVE = 4;
uint8 constant USE_EXCERPT = 8;
uint8 constant USE_EVALUATE = 16;
uint8 constant ALL_USES = USE_TRAIN | USE_EMBODY | USE_SERVE | USE_EXCERPT | USE_EVALUATE;

/// @dev The whole, in basis points.
uint256 constant BPS = 10_000;
