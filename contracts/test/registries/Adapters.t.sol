// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {Adapter, IAdapterRegistry, Service} from "../../interfaces/IAdapterRegistry.sol";
import {Terms} from "../../types/Terms.sol";
import {Cheats} from "../Cheats.sol";
import {Fixture} from "./Fixture.sol";

/// @notice Registration of adapters and who may serve them.
contract AdaptersTest is Fixture {
    function register(uint16 royaltyBps, uint16 trainerBps, uint256[] memory shares) internal returns (uint32) {
        vm.prank(trainer);
        return adapters.register("base", "weights", "bafkadapter", "manifest", royaltyBps, trainerBps, shares);
    }

    function refuse(uint256[] memory shares, bytes memory why) internal {
        vm.expectRevert(why);
        register(3_000, 1_000, shares);
    }

    function unlicensed(uint256 contentId) internal view returns (bytes memory) {
        return abi.encodeWithSelector(IAdapterRegistry.Unlicensed.selector, contentId, trainer);
    }

    function assertService(uint32 adapterId, address who, bool ok, Service why, uint64 end) internal view {
        (bool servable, Service reason, uint64 time) = adapters.servable(adapterId, who);
        vm.assertTrue(servable == ok, "servable");
        vm.assertEq(uint256(reason), uint256(why), "why");
        vm.assertEq(time, end, "until");
    }

    /// The delay that everything hangs on is bounded, and MIN_NOTICE is twice it.
    function test_constructor_bounds_the_close_delay() public {
        vm.assertEq(adapters.CLOSE_DELAY(), 1 days, "delay");
        vm.assertEq(adapters.MIN_NOTICE(), 2 days, "notice");
        for (uint64 i; i < 2; ++i) {
            uint64 closeDelay = i * (30 days + 1);
            try this.deploy(closeDelay) {
                vm.assertTrue(false, "out of bounds");
            } catch (bytes memory why) {
                vm.assertTrue(why.length != 0, "refused");
            }
        }
        vm.assertEq(deployAdapters(30 days).MIN_NOTICE(), 60 days, "longest");
        vm.assertEq(deployAdapters(1).MIN_NOTICE(), 2, "shortest");
    }

    function deploy(uint64 closeDelay) external {
        deployAdapters(closeDelay);
    }

    /// A registration keeps everything that was said, and Settlement reads the same of it.
    function test_register_records_everything() public {
        uint256[] memory shares = halves(licensedWork(openTerms()), licensedWork(openTerms()));
        uint32 adapterId = register(3_000, 1_000, shares);
        vm.assertEq(adapterId, 1, "ids start at 1: 0 is the base model");
        vm.assertEq(adapters.adapterCount(), 1, "count");
        Adapter memory held = adapters.adapterOf(adapterId);
        vm.assertEq(held.trainer, trainer, "trainer");
        vm.assertEq(held.royaltyBps, 3_000, "royalty");
        vm.assertEq(held.trainerBps, 1_000, "trainer's part");
        vm.assertEq(held.retiresAt, NEVER, "not retiring");
        vm.assertEq(held.baseModel, "base", "base model");
        vm.assertEq(held.weightsDigest, "weights", "weights");
        vm.assertEq(held.manifestHash, "manifest", "manifest");
        vm.assertEq(held.sharesHash, keccak256(abi.encode(shares[0], shares[1])), "words, packed");
        vm.assertEq(adapters.sharesHash(adapterId), held.sharesHash, "hash");
        (uint256 economics, uint64 servesUntil) = adapters.settlementTerms(adapterId, trainer);
        uint256 expected = uint256(uint160(trainer)) << 96 | 3_000 << 80 | 1_000 << 64 | NEVER;
        vm.assertEq(economics, expected, "packed");
        vm.assertEq(servesUntil, NEVER, "the trainer serves");
        vm.assertEq(register(3_000, 1_000, shares), 2, "sequential");
    }

    /// The packing holds for any trainer, rates and retirement.
    function testFuzz_settlementTerms_packs(address by, uint16 royaltyBps, uint16 trainerBps, bool retired) public {
        vm.assume(by != address(0) && by != node);
        royaltyBps %= 10_001;
        trainerBps %= 10_001 - royaltyBps;
        uint256 contentId = work(openTerms());
        bytes32 termsHash = offer(contentId);
        vm.prank(by);
        works.acquireGrant(contentId, termsHash);
        vm.prank(by);
        uint32 adapterId = adapters.register("b", "w", "c", "m", royaltyBps, trainerBps, whole(contentId));
        if (retired) {
            vm.prank(by);
            adapters.retire(adapterId);
        }
        (uint256 economics, uint64 servesUntil) = adapters.settlementTerms(adapterId, node);
        vm.assertEq(address(uint160(economics >> 96)), by, "trainer");
        vm.assertEq(uint16(economics >> 80), royaltyBps, "royalty");
        vm.assertEq(uint16(economics >> 64), trainerBps, "trainer's part");
        vm.assertEq(uint64(economics), retired ? START + MIN_NOTICE : NEVER, "retires");
        vm.assertEq(servesUntil, 0, "never permitted");
    }

    /// The event has what is not stored: the table and the CID.
    function test_register_logs_the_table_and_the_cid() public {
        uint256[] memory shares = halves(licensedWork(openTerms()), licensedWork(openTerms()));
        vm.recordLogs();
        register(3_000, 1_000, shares);
        Cheats.Log memory log = vm.getRecordedLogs()[0];
        vm.assertEq(log.topics[0], IAdapterRegistry.AdapterRegistered.selector, "event");
        (bytes32 digest, string memory cid, bytes32 manifest,,, uint256[] memory table) =
            abi.decode(log.data, (bytes32, string, bytes32, uint16, uint16, uint256[]));
        vm.assertEq(digest, "weights", "digest");
        vm.assertEq(cid, "bafkadapter", "cid");
        vm.assertEq(manifest, "manifest", "manifest");
        vm.assertEq(keccak256(abi.encodePacked(table)), adapters.sharesHash(1), "table");
    }

    function test_register_refuses_empty_digests_and_cids_out_of_bounds() public {
        uint256[] memory shares = whole(licensedWork(openTerms()));
        vm.expectRevert(IAdapterRegistry.BaseModelEmpty.selector);
        adapters.register(0, "w", "c", "m", 0, 0, shares);
        vm.expectRevert(IAdapterRegistry.WeightsDigestEmpty.selector);
        adapters.register("b", 0, "c", "m", 0, 0, shares);
        vm.expectRevert(IAdapterRegistry.ManifestHashEmpty.selector);
        adapters.register("b", "w", "c", 0, 0, 0, shares);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.CidLengthOutOfBounds.selector, 0));
        adapters.register("b", "w", "", "m", 0, 0, shares);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.CidLengthOutOfBounds.selector, 129));
        adapters.register("b", "w", string(new bytes(129)), "m", 0, 0, shares);
        vm.prank(trainer);
        adapters.register("b", "w", string(new bytes(128)), "m", 0, 0, shares);
    }

    /// Royalty and the trainer's part are both of gross revenue and cannot exceed it together.
    function test_register_bounds_the_rates() public {
        uint256[] memory shares = whole(licensedWork(openTerms()));
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.RatesTooHigh.selector, 9_000, 1_001));
        register(9_000, 1_001, shares);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.RatesTooHigh.selector, 65_535, 65_535));
        register(65_535, 65_535, shares);
        register(9_000, 1_000, shares);
        register(10_000, 0, shares);
    }

    /// The table ascends, is whole, names no work twice and pays each something.
    function test_register_refuses_malformed_tables() public {
        uint256 first = licensedWork(openTerms());
        uint256 second = licensedWork(openTerms());
        refuse(new uint256[](0), abi.encodeWithSelector(IAdapterRegistry.ShareCountOutOfBounds.selector, 0));
        refuse(halves(second, first), abi.encodeWithSelector(IAdapterRegistry.SharesNotAscending.selector, 1));
        refuse(halves(first, first), abi.encodeWithSelector(IAdapterRegistry.SharesNotAscending.selector, 1));
        refuse(whole(0), abi.encodeWithSelector(IAdapterRegistry.SharesNotAscending.selector, 0));

        uint256[] memory shares = halves(first, second);
        shares[1] = row(second, 4_999);
        refuse(shares, abi.encodeWithSelector(IAdapterRegistry.SharesDoNotSum.selector, 9_999));
        shares[1] = row(second, 5_001);
        refuse(shares, abi.encodeWithSelector(IAdapterRegistry.SharesDoNotSum.selector, 10_001));
        (shares[0], shares[1]) = (row(first, 10_000), row(second, 0));
        refuse(shares, abi.encodeWithSelector(IAdapterRegistry.ShareEmpty.selector, second));
        // The same work twice, told apart by the share alone, is still twice.
        (shares[0], shares[1]) = (row(first, 4_000), row(first, 6_000));
        refuse(shares, abi.encodeWithSelector(IAdapterRegistry.SharesNotAscending.selector, 1));
    }

    /// 128 works fit, 129 are refused before anything else is looked at.
    function test_register_takes_128_works_and_not_129() public {
        uint256[] memory shares = new uint256[](129);
        for (uint256 i; i < 129; ++i) {
            shares[i] = row(licensedWork(openTerms()), 78);
        }
        refuse(shares, abi.encodeWithSelector(IAdapterRegistry.ShareCountOutOfBounds.selector, 129));
        assembly {
            mstore(shares, 128)
        }
        shares[127] += 10_000 - 128 * 78;
        register(10_000, 0, shares);
    }

    /// No grant, somebody else's grant, an unknown work: none of them can be declared.
    function test_register_refuses_a_work_without_a_grant() public {
        uint256 licensed = licensedWork(openTerms());
        uint256 notLicensed = work(openTerms());
        refuse(halves(licensed, notLicensed), unlicensed(notLicensed));
        refuse(halves(licensed, 99), unlicensed(99));
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.Unlicensed.selector, licensed, stranger));
        vm.prank(stranger);
        adapters.register("b", "w", "c", "m", 0, 0, whole(licensed));
    }

    /// A grant registers until its last second and not in the next.
    function test_register_refuses_a_lapsed_grant() public {
        Terms memory terms = openTerms();
        terms.grantDuration = 10;
        uint256 contentId = licensedWork(terms);
        until(START + 9);
        register(3_000, 1_000, whole(contentId));
        until(START + 10);
        refuse(whole(contentId), unlicensed(contentId));
    }

    /// After a withdrawal: class 0 registers on, classes 1 and 2 until the notice has passed.
    function test_register_after_a_withdrawal_follows_the_class() public {
        for (uint8 class; class <= 2; ++class) {
            until(START);
            Terms memory terms = openTerms();
            terms.revocationClass = class;
            terms.notice = 5 days;
            uint256 contentId = licensedWork(terms);
            withdrawWork(contentId);
            until(START + 5 days - 1);
            register(3_000, 1_000, whole(contentId));
            until(START + 5 days);
            if (class == 0) register(3_000, 1_000, whole(contentId));
            else refuse(whole(contentId), unlicensed(contentId));
        }
    }

    /// Training, embodiment and serving must all be permitted; the rest does not matter.
    function test_register_checks_each_use() public {
        for (uint8 uses = 1; uses < 32; ++uses) {
            Terms memory terms = openTerms();
            terms.uses = uses;
            uint256 contentId = licensedWork(terms);
            if (uses & 7 == 7) {
                register(3_000, 1_000, whole(contentId));
            } else {
                refuse(
                    whole(contentId),
                    abi.encodeWithSelector(IAdapterRegistry.UseNotPermitted.selector, contentId, trainer, uses)
                );
            }
        }
    }

    /// A work's part of gross revenue is at least its minimum, judged without rounding.
    function testFuzz_register_keeps_the_minimum(uint16 minimum, uint16 royaltyBps, uint16 shareBps) public {
        minimum %= 10_001;
        royaltyBps %= 10_001;
        shareBps = 1 + shareBps % 9_999;
        Terms memory terms = openTerms();
        terms.minRoyaltyBps = minimum;
        uint256 contentId = licensedWork(terms);
        uint256 padding = licensedWork(openTerms());
        uint256[] memory shares = halves(contentId, padding);
        (shares[0], shares[1]) = (row(contentId, shareBps), row(padding, 10_000 - shareBps));
        if (uint256(royaltyBps) * shareBps < uint256(minimum) * 10_000) {
            vm.expectRevert(
                abi.encodeWithSelector(IAdapterRegistry.RoyaltyBelowMinimum.selector, contentId, trainer, minimum)
            );
        }
        register(royaltyBps, 0, shares);
    }

    /// The minimum is the grant's, not what the owner asks of others by now.
    function test_register_judges_the_grants_own_terms() public {
        uint256 contentId = licensedWork(openTerms());
        Terms memory stricter = openTerms();
        stricter.minRoyaltyBps = 10_000;
        stricter.uses = 16;
        vm.prank(creator);
        works.setTerms(contentId, LICENSE, stricter);
        register(0, 0, whole(contentId));
    }

    // Serving

    /// Only the trainer permits and retires; it always serves itself.
    function test_setServing_and_retire_are_the_trainers() public {
        uint32 adapterId = adapter(whole(licensedWork(openTerms())));
        bytes memory why = abi.encodeWithSelector(IAdapterRegistry.NotTrainer.selector, adapterId, stranger);
        vm.expectRevert(why);
        vm.prank(stranger);
        adapters.setServing(adapterId, stranger, true);
        vm.expectRevert(why);
        vm.prank(stranger);
        adapters.retire(adapterId);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.TrainerAlwaysServes.selector, adapterId));
        vm.prank(trainer);
        adapters.setServing(adapterId, trainer, false);
    }

    /// A permission ends MIN_NOTICE after it is taken back, and taking it back again does not move that.
    function test_setServing_takes_back_with_notice() public {
        uint32 adapterId = adapter(whole(licensedWork(openTerms())));
        assertService(adapterId, node, false, Service.NotPermitted, 0);
        setServing(adapterId, true);
        assertService(adapterId, node, true, Service.Servable, NEVER);
        setServing(adapterId, false);
        uint64 end = uint64(START) + MIN_NOTICE;
        assertService(adapterId, node, true, Service.Ending, end);
        until(START + 1 days);
        setServing(adapterId, false);
        (, uint64 servesUntil) = adapters.settlementTerms(adapterId, node);
        vm.assertEq(servesUntil, end, "unmoved");
        until(end - 1);
        assertService(adapterId, node, true, Service.Ending, end);
        until(end);
        assertService(adapterId, node, false, Service.PermissionEnded, end);
        setServing(adapterId, false);
        assertService(adapterId, node, false, Service.PermissionEnded, end);
        setServing(adapterId, true);
        assertService(adapterId, node, true, Service.Servable, NEVER);
    }

    /// Taking back what was never given grants nothing (no two days of grace out of thin air).
    function test_setServing_taking_back_nothing_gives_nothing() public {
        uint32 adapterId = adapter(whole(licensedWork(openTerms())));
        vm.recordLogs();
        setServing(adapterId, false);
        vm.assertEq(vm.getRecordedLogs().length, 0, "no event");
        assertService(adapterId, node, false, Service.NotPermitted, 0);
    }

    function setServing(uint32 adapterId, bool allowed) private {
        vm.prank(trainer);
        adapters.setServing(adapterId, node, allowed);
    }

    /// One view says whether and why: unknown, retiring, retired, whichever end comes first.
    function test_servable_says_why() public {
        assertService(0, trainer, false, Service.NotRegistered, 0);
        assertService(1, trainer, false, Service.NotRegistered, 0);
        uint32 adapterId = adapter(whole(licensedWork(openTerms())));
        assertService(adapterId, trainer, true, Service.Servable, NEVER);
        setServing(adapterId, true);
        setServing(adapterId, false);
        until(START + 1 days);
        vm.prank(trainer);
        adapters.retire(adapterId);
        assertService(adapterId, trainer, true, Service.Ending, uint64(START + 3 days));
        assertService(adapterId, node, true, Service.Ending, uint64(START + 2 days));
        until(START + 3 days);
        assertService(adapterId, trainer, false, Service.Retired, uint64(START + 3 days));
        assertService(adapterId, node, false, Service.Retired, uint64(START + 3 days));
    }

    /// What is not registered answers 0 to Settlement and reverts for people.
    function test_unregistered_ids_earn_nothing() public {
        uint256[] memory shares = whole(1);
        (uint256 economics, uint64 servesUntil) = adapters.settlementTerms(0, trainer);
        vm.assertEq(economics + servesUntil, 0, "base model");
        (economics, servesUntil) = adapters.settlementTerms(5, address(0));
        vm.assertEq(economics + servesUntil, 0, "also for the zero address");
        vm.assertEq(adapters.sharesHash(5), 0, "hash");
        bytes memory why = abi.encodeWithSelector(IAdapterRegistry.NotRegistered.selector, 5);
        vm.expectRevert(why);
        adapters.adapterOf(5);
        vm.expectRevert(why);
        adapters.retire(5);
        vm.expectRevert(why);
        adapters.setServing(5, node, true);
        vm.expectRevert(why);
        adapters.enforce(5, shares, 0);
        vm.expectRevert(why);
        adapters.enforceable(5, shares);
    }
}
