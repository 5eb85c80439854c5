// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IContentRegistry} from "../../interfaces/IContentRegistry.sol";
import {ISettlement} from "../../interfaces/ISettlement.sol";
import {Fixture} from "../registries/Fixture.sol";

/// @notice The royalty bugs that audits found in others' contracts, each tried on ours, through the whole path: a
///         payment to an adapter, its split, its distribution to the works' owners.
contract RoyaltyBugsTest is Fixture {
    ISettlement private settlement;

    function setUp() public override {
        super.setUp();
        settlement = ISettlement(vm.deployCode("Settlement.sol:Settlement", abi.encode(usd, works, adapters)));
        usd.mint(stranger, 1_000_000e6);
        vm.prank(stranger);
        usd.approve(address(settlement), type(uint256).max);
    }

    /// Registers `count` works of as many owners and licenses them; their ids ascend from the returned one.
    function worksOf(uint256 count) private returns (uint256 first) {
        first = works.contentCount() + 1;
        for (uint256 i; i < count; ++i) {
            uint256 contentId = licensedWork(openTerms());
            vm.prank(creator);
            works.transferFrom(creator, owner(contentId), contentId);
        }
    }

    function owner(uint256 contentId) private pure returns (address) {
        return address(uint160(0xC0000 + contentId));
    }

    function earn(uint32 adapterId, uint256 amount) private {
        vm.prank(stranger);
        settlement.pay(adapterId, node, amount);
    }

    /// The accounting sentence, with nothing donated: all that is held is owed, up to the rounding still to come.
    function assertSolvent(uint32 adapterId, uint256 rows) private view {
        (uint256 ofTrainer,) = settlement.balance(trainer);
        (uint256 ofNode,) = settlement.balance(node);
        uint256 owed = settlement.owed(adapterId) + ofTrainer + ofNode;
        uint256 held = usd.balanceOf(address(settlement));
        vm.assertTrue(held >= owed && held - owed <= 2 + rows, "balance covers what is owed, to the unit");
    }

    /// "Only the first creator is paid": each of 128 is, in proportion to its own share.
    function test_RoyaltyBug_every_creator_is_paid_not_only_the_first() public {
        uint256 first = worksOf(128);
        uint256[] memory shares = new uint256[](128);
        uint256 left = 10_000;
        for (uint256 i; i < 127; ++i) {
            shares[i] = row(first + i, 1 + i % 100);
            left -= 1 + i % 100;
        }
        shares[127] = row(first + 127, left);
        uint32 adapterId = adapter(shares);
        earn(adapterId, 1_000e6);
        settlement.distribute(adapterId, shares);
        for (uint256 i; i < 128; ++i) {
            uint256 due = 300e6 * uint256(uint16(shares[i])) / 10_000;
            vm.assertEq(usd.balanceOf(owner(first + i)), due, "30 % royalty, by share");
        }
        assertSolvent(adapterId, 128);
    }

    /// "Unpaid past 255": a counter or an id in 8 bits. Works with ids beyond 255 are paid, the last row too, and so is
    /// the 300th distribution.
    function test_RoyaltyBug_nothing_ends_at_255() public {
        worksOf(200);
        uint256 first = worksOf(100);
        uint256[] memory shares = new uint256[](100);
        for (uint256 i; i < 100; ++i) {
            shares[i] = row(first + i, 100);
        }
        uint32 adapterId;
        for (uint256 i; i < 260; ++i) {
            adapterId = adapter(shares);
        }
        vm.assertEq(adapterId, 260, "an adapter beyond 255 too");
        for (uint256 i; i < 300; ++i) {
            earn(adapterId, 1e6);
            settlement.distribute(adapterId, shares);
        }
        vm.assertEq(first + 99, 300, "ids beyond 255");
        for (uint256 i; i < 100; ++i) {
            vm.assertEq(usd.balanceOf(owner(first + i)), 300 * 3_000, "paid each time");
        }
        assertSolvent(adapterId, 100);
    }

    /// "Rounded to nothing": royalties below one unit a payment add up; after ten thousand payments of one unit each
    /// work has its part to the unit, however often it was distributed.
    function test_RoyaltyBug_tiny_royalties_are_not_rounded_away() public {
        uint256 first = worksOf(3);
        uint256[] memory shares = new uint256[](3);
        (shares[0], shares[1], shares[2]) = (row(first, 1), row(first + 1, 3_333), row(first + 2, 6_666));
        uint32 adapterId = adapter(shares);
        for (uint256 i; i < 10_000; ++i) {
            earn(adapterId, 1);
            if (i % 97 == 0) settlement.distribute(adapterId, shares);
        }
        settlement.distribute(adapterId, shares);
        vm.assertEq(usd.balanceOf(owner(first + 1)), 999, "3,333 bps of 3,000 is 999.9");
        vm.assertEq(usd.balanceOf(owner(first + 2)), 1_999, "6,666 bps of 3,000 is 1,999.8");
        for (uint256 i; i < 100; ++i) {
            earn(adapterId, 400);
        }
        settlement.distribute(adapterId, shares);
        vm.assertEq(usd.balanceOf(owner(first)), 1, "1 bps of 15,000 is 1.5");
        assertSolvent(adapterId, 3);
    }

    /// The same for any amounts and any times of distribution: no work is ever more than a unit behind its part, and
    /// none gets more.
    function testFuzz_RoyaltyBug_no_rounding_beyond_a_unit(uint16[16] calldata amounts, uint16 often, uint16 bps)
        public
    {
        bps = 1 + bps % 9_999;
        uint256 first = worksOf(2);
        uint256[] memory shares = halves(first, first + 1);
        (shares[0], shares[1]) = (row(first, bps), row(first + 1, 10_000 - bps));
        uint32 adapterId = adapter(shares);
        uint256 gross;
        for (uint256 i; i < 16; ++i) {
            if (amounts[i] == 0) continue;
            earn(adapterId, amounts[i]);
            gross += amounts[i];
            if (often & (1 << i) != 0) settlement.distribute(adapterId, shares);
        }
        settlement.distribute(adapterId, shares);
        uint256 royalties = gross * 3_000 / 10_000;
        vm.assertEq(usd.balanceOf(owner(first)), royalties * bps / 10_000, "first");
        vm.assertEq(usd.balanceOf(owner(first + 1)), royalties * (10_000 - bps) / 10_000, "second");
        assertSolvent(adapterId, 2);
    }

    /// "Not following a transfer": who owns the work when royalties are distributed is paid, also what accrued before.
    function test_RoyaltyBug_royalties_follow_a_transfer() public {
        uint256 first = worksOf(1);
        uint256[] memory shares = whole(first);
        uint32 adapterId = adapter(shares);
        earn(adapterId, 100e6);
        settlement.distribute(adapterId, shares);
        earn(adapterId, 100e6);
        vm.prank(owner(first));
        works.transferFrom(owner(first), address(0xB0B), first);
        settlement.distribute(adapterId, shares);
        earn(adapterId, 100e6);
        settlement.distribute(adapterId, shares);
        vm.assertEq(usd.balanceOf(owner(first)), 30e6, "until the sale");
        vm.assertEq(usd.balanceOf(address(0xB0B)), 60e6, "since the last distribution before it");
        assertSolvent(adapterId, 1);
    }

    /// "Spoofed creator": nobody registers in another's name, and no table but the registered one is ever paid.
    function test_RoyaltyBug_nobody_is_paid_in_anothers_place() public {
        uint256 first = worksOf(1);
        uint256[] memory shares = whole(first);
        uint32 adapterId = adapter(shares);
        earn(adapterId, 100e6);

        bytes memory forged =
            signed(STRANGER_KEY, registerDigest(creator, "c", LICENSE, openTerms(), 0, type(uint64).max));
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.SignatureInvalid.selector, creator));
        works.registerFor(creator, "c", LICENSE, openTerms(), 0, type(uint64).max, forged);

        bytes32 commitment = works.contentOf(first).commitment;
        vm.prank(stranger);
        uint256 copied = works.register(commitment, LICENSE, openTerms());
        vm.expectRevert(abi.encodeWithSelector(ISettlement.WrongShares.selector, adapterId));
        vm.prank(stranger);
        settlement.distribute(adapterId, whole(copied));
        settlement.distribute(adapterId, shares);
        vm.assertEq(usd.balanceOf(owner(first)), 30e6, "the registered work's owner");
        vm.assertEq(works.contentOf(copied).creator, stranger, "a copy names who made it");
    }
}
