// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IAdapterRegistry} from "../../interfaces/IAdapterRegistry.sol";
import {Terms} from "../../types/Terms.sol";
import {Fixture} from "./Fixture.sol";

/// @notice retiresAt = min(retiresAt, max(trigger + notice, now + MIN_NOTICE)), and what triggers.
contract RetirementTest is Fixture {
    function termed(uint32 duration, uint8 class, uint32 notice) internal pure returns (Terms memory terms) {
        terms = openTerms();
        terms.grantDuration = duration;
        terms.revocationClass = class;
        terms.notice = notice;
    }

    function assertNothing(uint32 adapterId, uint256[] memory shares, uint256 index) internal {
        (bool found,, uint64 time) = adapters.enforceable(adapterId, shares);
        vm.assertFalse(found, "nothing enforceable");
        vm.assertEq(time, retiresAt(adapterId), "as it is");
        vm.expectRevert(
            abi.encodeWithSelector(IAdapterRegistry.NothingToEnforce.selector, shares[index] >> 16, trainer)
        );
        adapters.enforce(adapterId, shares, index);
    }

    function assertEnforces(uint32 adapterId, uint256[] memory shares, uint256 index, uint256 expected) internal {
        (bool found, uint256 row_, uint64 time) = adapters.enforceable(adapterId, shares);
        vm.assertTrue(found, "enforceable");
        vm.assertEq(row_, index, "row");
        vm.assertEq(time, expected, "forecast");
        vm.prank(stranger);
        vm.assertEq(adapters.enforce(adapterId, shares, index), expected, "returned");
        vm.assertEq(retiresAt(adapterId), expected, "set");
    }

    /// The trainer retires MIN_NOTICE from now, once: a second time moves nothing later.
    function test_retire_leaves_min_notice() public {
        uint32 adapterId = adapter(whole(licensedWork(openTerms())));
        vm.prank(trainer);
        vm.assertEq(adapters.retire(adapterId), START + MIN_NOTICE, "set");
        until(START + 1 days);
        vm.prank(trainer);
        vm.assertEq(adapters.retire(adapterId), START + MIN_NOTICE, "unmoved");
        vm.assertEq(retiresAt(adapterId), START + MIN_NOTICE, "stored");
    }

    /// Class 2: from the withdrawal, after the grant's own notice.
    function test_enforce_class2_after_the_notice() public {
        uint256[] memory shares = whole(licensedWork(termed(0, 2, 30 days)));
        uint32 adapterId = adapter(shares);
        assertNothing(adapterId, shares, 0);
        withdrawWork(1);
        until(START + 10 days);
        assertEnforces(adapterId, shares, 0, START + 30 days);
    }

    /// Class 2, enforced late: the date may lie in the past, the node keeps MIN_NOTICE.
    function test_enforce_late_leaves_min_notice() public {
        uint256[] memory shares = whole(licensedWork(termed(0, 2, 1)));
        uint32 adapterId = adapter(shares);
        withdrawWork(1);
        until(START + 50 days);
        assertEnforces(adapterId, shares, 0, START + 50 days + MIN_NOTICE);
    }

    /// Classes 0 and 1 leave registered adapters alone, also long after the notice.
    function test_enforce_ignores_withdrawals_of_class_0_and_1() public {
        for (uint8 class; class <= 1; ++class) {
            uint256[] memory shares = whole(licensedWork(termed(0, class, 1)));
            uint32 adapterId = adapter(shares);
            withdrawWork(class + 1);
            until(START + 1000 days);
            assertNothing(adapterId, shares, 0);
            until(START);
        }
    }

    /// A lapsed grant retires in any class, from the lapse, without notice.
    function test_enforce_on_a_lapse() public {
        for (uint8 class; class <= 2; ++class) {
            until(START);
            uint256[] memory shares = whole(licensedWork(termed(10 days, class, 90 days)));
            uint32 adapterId = adapter(shares);
            until(START + 10 days - 1);
            assertNothing(adapterId, shares, 0);
            until(START + 10 days);
            assertEnforces(adapterId, shares, 0, START + 10 days + MIN_NOTICE);
        }
    }

    /// A renewal before enforce keeps the adapter; one after it does not revive it.
    function test_enforce_and_renewal() public {
        uint256 contentId = licensedWork(termed(10 days, 0, 0));
        uint256[] memory shares = whole(contentId);
        uint32 adapterId = adapter(shares);
        until(START + 11 days);
        grant(contentId);
        assertNothing(adapterId, shares, 0);
        until(START + 21 days);
        assertEnforces(adapterId, shares, 0, START + 23 days);
        grant(contentId);
        vm.assertEq(retiresAt(adapterId), START + 23 days, "not revived");
    }

    /// A later cause moves an earlier date forward, never back.
    function test_enforce_moves_only_earlier() public {
        uint256 first = licensedWork(termed(0, 2, 80 days));
        uint256 second = licensedWork(termed(0, 2, 20 days));
        uint256[] memory shares = halves(first, second);
        uint32 adapterId = adapter(shares);
        withdrawWork(first);
        assertEnforces(adapterId, shares, 0, START + 80 days);
        until(START + 5 days);
        withdrawWork(second);
        assertEnforces(adapterId, shares, 1, START + 25 days);
        vm.assertEq(adapters.enforce(adapterId, shares, 0), START + 25 days, "the first moves nothing back");
        (bool found,,) = adapters.enforceable(adapterId, shares);
        vm.assertFalse(found, "nothing left to move");
    }

    /// The grant's own terms count, not what the owner offers by now.
    function test_enforce_judges_the_grants_own_terms() public {
        uint256 contentId = licensedWork(termed(0, 0, 0));
        uint256[] memory shares = whole(contentId);
        uint32 adapterId = adapter(shares);
        vm.prank(creator);
        works.setTerms(contentId, LICENSE, termed(0, 2, 0));
        withdrawWork(contentId);
        assertNothing(adapterId, shares, 0);
    }

    /// A grant that no longer permits serving is a lapse: a cheap renewal for evaluation keeps no adapter.
    function test_enforce_when_the_grant_no_longer_permits_serving() public {
        uint256 contentId = licensedWork(termed(10 days, 0, 0));
        uint256[] memory shares = whole(contentId);
        uint32 adapterId = adapter(shares);
        for (uint8 uses = 1; uses < 32; ++uses) {
            until(START + 5 days);
            Terms memory terms = openTerms();
            terms.uses = uses;
            terms.grantDuration = 100 days;
            vm.prank(creator);
            works.setTerms(contentId, LICENSE, terms);
            grant(contentId);
            (bool found,, uint64 time) = adapters.enforceable(adapterId, shares);
            vm.assertTrue(found == (uses & 6 != 6), "embodiment and serving");
            vm.assertEq(time, found ? START + 5 days + MIN_NOTICE : NEVER, "time");
        }
        Terms memory evaluation = openTerms();
        evaluation.uses = 16;
        vm.prank(creator);
        works.setTerms(contentId, LICENSE, evaluation);
        grant(contentId);
        assertEnforces(adapterId, shares, 0, START + 5 days + MIN_NOTICE);
    }

    /// A row beyond the table is refused, whatever the calldata behind it holds.
    function test_enforce_refuses_an_index_beyond_the_table() public {
        uint256[] memory shares = whole(licensedWork(termed(1, 0, 0)));
        uint32 adapterId = adapter(shares);
        until(START + 1);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.ShareIndexOutOfBounds.selector, 1));
        adapters.enforce(adapterId, shares, 1);
    }

    /// The rule of the design, computed a second time, for any terms and times.
    function testFuzz_enforce_is_the_rule(
        uint32 duration,
        uint32 notice,
        uint8 class,
        uint32 withdrawnAfter,
        uint32 enforcedAfter
    ) public {
        Terms memory terms = termed(duration, class % 3, notice % (90 days + 1));
        uint256[] memory shares = whole(licensedWork(terms));
        uint32 adapterId = adapter(shares);
        uint256 withdrawnAt = START + withdrawnAfter;
        uint256 enforcedAt = withdrawnAt + enforcedAfter;
        until(withdrawnAt);
        withdrawWork(1);
        until(enforcedAt);

        uint256 due = NEVER;
        if (terms.revocationClass == 2) due = withdrawnAt + terms.notice;
        if (duration != 0 && enforcedAt >= START + duration && START + duration < due) due = START + duration;
        if (due == NEVER) {
            assertNothing(adapterId, shares, 0);
        } else {
            uint256 earliest = enforcedAt + MIN_NOTICE;
            assertEnforces(adapterId, shares, 0, due > earliest ? due : earliest);
        }
    }
}
