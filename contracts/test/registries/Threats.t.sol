// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {Content, Grant, IContentRegistry} from "../../interfaces/IContentRegistry.sol";
import {IAdapterRegistry, Service} from "../../interfaces/IAdapterRegistry.sol";
import {Terms} from "../../types/Terms.sol";
import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Fixture} from "./Fixture.sol";

/// @notice The attacks found on paper that touch the registries, each tried. The numbers are those of
///         docs/threats.md.
contract RegistryThreatsTest is Fixture {
    /// 3: an unlicensed work that is not in the table retires nothing; nor does a table made up for the purpose.
    function test_Threat03_enforce_with_a_work_that_is_not_in_the_table() public {
        uint256[] memory shares = whole(licensedWork(openTerms()));
        uint32 adapterId = adapter(shares);
        uint256 unlicensed = work(openTerms());
        bytes memory wrong = abi.encodeWithSelector(IAdapterRegistry.WrongShares.selector, adapterId);
        vm.expectRevert(wrong);
        adapters.enforce(adapterId, whole(unlicensed), 0);
        vm.expectRevert(wrong);
        adapters.enforce(adapterId, halves(1, unlicensed), 1);
        vm.expectRevert(wrong);
        adapters.enforce(adapterId, new uint256[](0), 0);
        vm.assertEq(retiresAt(adapterId), NEVER, "not retiring");
    }

    /// 6: neither the trainer nor an old cause can retire an adapter now or in the past.
    function test_Threat06_retirement_is_never_immediate_nor_backdated() public {
        Terms memory terms = openTerms();
        terms.grantDuration = 1;
        uint256[] memory shares = whole(licensedWork(terms));
        uint32 first = adapter(shares);
        uint32 second = adapter(shares);
        until(START + 500 days);
        adapters.enforce(first, shares, 0);
        vm.prank(trainer);
        adapters.retire(second);
        vm.assertEq(retiresAt(first), START + 500 days + MIN_NOTICE, "lapsed 500 days ago");
        vm.assertEq(retiresAt(second), START + 500 days + MIN_NOTICE, "retired by the trainer");
    }

    /// 7: a permission taken back after the service stays good for as long as a claim may take.
    function test_Threat07_permission_cannot_be_taken_back_after_service() public {
        uint32 adapterId = adapter(whole(licensedWork(openTerms())));
        vm.prank(trainer);
        adapters.setServing(adapterId, node, true);
        vm.prank(trainer);
        adapters.setServing(adapterId, node, false);
        (, uint64 servesUntil) = adapters.settlementTerms(adapterId, node);
        vm.assertEq(servesUntil, START + MIN_NOTICE, "MIN_NOTICE to claim");
        // Giving and taking it back again does not shorten it either.
        vm.prank(trainer);
        adapters.setServing(adapterId, node, true);
        until(START + 1);
        vm.prank(trainer);
        adapters.setServing(adapterId, node, false);
        (, servesUntil) = adapters.settlementTerms(adapterId, node);
        vm.assertEq(servesUntil, START + 1 + MIN_NOTICE, "again MIN_NOTICE");
    }

    /// 12: a work cannot be burned, so ownerOf answers for ever and no payout is stuck behind it.
    function test_Threat12_a_work_cannot_be_burned() public {
        uint256 contentId = licensedWork(openTerms());
        vm.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InvalidReceiver.selector, address(0)));
        vm.prank(creator);
        works.transferFrom(creator, address(0), contentId);
        vm.prank(creator);
        (bool burned,) = address(works).call(abi.encodeWithSignature("burn(uint256)", contentId));
        vm.assertFalse(burned, "no such door");
        withdrawWork(contentId);
        vm.assertEq(works.ownerOf(contentId), creator, "also when withdrawn");
    }

    /// 17: a commitment copied from pending calldata, registered first, neither stops its creator nor proves anything:
    /// it opens only with the creator's own address.
    function test_Threat17_a_copied_commitment_blocks_nobody() public {
        bytes32 commitment = keccak256(abi.encode(creator, keccak256("salt"), keccak256("merkle root")));
        vm.prank(stranger);
        uint256 copied = works.register(commitment, LICENSE, openTerms());
        vm.prank(creator);
        uint256 contentId = works.register(commitment, LICENSE, openTerms());
        Content memory thiefs = works.contentOf(copied);
        bytes32 opened = keccak256(abi.encode(thiefs.creator, keccak256("salt"), keccak256("merkle root")));
        vm.assertTrue(opened != thiefs.commitment, "the thief's does not open");
        vm.assertEq(works.contentOf(contentId).creator, creator, "the creator's does");
    }

    /// 18: two payments for the same work and terms have two nonces, by their salts.
    function test_Threat18_grant_nonces_bind_work_terms_and_salt() public view {
        bytes32 nonce = works.grantNonce(1, "terms", "salt");
        vm.assertTrue(nonce != works.grantNonce(2, "terms", "salt"), "work");
        vm.assertTrue(nonce != works.grantNonce(1, "other", "salt"), "terms");
        vm.assertTrue(nonce != works.grantNonce(1, "terms", "other"), "salt");
    }

    /// 25: the minimum is cross-multiplied; a rounded comparison would let a little less pass.
    function test_Threat25_the_minimum_is_judged_without_rounding() public {
        Terms memory terms = openTerms();
        terms.minRoyaltyBps = 1;
        uint256 contentId = licensedWork(terms);
        uint256 padding = licensedWork(openTerms());
        uint256[] memory shares = halves(contentId, padding);
        // 9,999 bps * 1 bps / 10,000 rounds up to 1, and is less.
        (shares[0], shares[1]) = (row(contentId, 1), row(padding, 9_999));
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.RoyaltyBelowMinimum.selector, contentId, trainer, 1));
        vm.prank(trainer);
        adapters.register("b", "w", "c", "m", 9_999, 0, shares);
        vm.prank(trainer);
        adapters.register("b", "w", "c", "m", 10_000, 0, shares);
    }

    /// 26: a renewal under a higher minimum keeps the adapter as it was registered; after enforce it revives nothing.
    function test_Threat26_renewal_under_other_terms() public {
        Terms memory terms = openTerms();
        terms.grantDuration = 10 days;
        uint256 contentId = licensedWork(terms);
        uint256[] memory shares = whole(contentId);
        uint32 adapterId = adapter(shares);
        terms.minRoyaltyBps = 10_000;
        vm.prank(creator);
        works.setTerms(contentId, LICENSE, terms);
        until(START + 10 days);
        grant(contentId);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.NothingToEnforce.selector, contentId, trainer));
        adapters.enforce(adapterId, shares, 0);
        until(START + 20 days);
        adapters.enforce(adapterId, shares, 0);
        grant(contentId);
        vm.assertEq(retiresAt(adapterId), START + 22 days, "not revived");
    }

    /// 28: what a trainer declares it must have licensed; the revert names the work and the trainer.
    function test_Threat28_an_unlicensed_work_cannot_be_declared() public {
        uint256 licensed = licensedWork(openTerms());
        uint256 unlicensed = work(openTerms());
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.Unlicensed.selector, unlicensed, trainer));
        adapter(halves(licensed, unlicensed));
        (uint256 economics,) = adapters.settlementTerms(1, trainer);
        vm.assertEq(economics, 0, "so it cannot be paid for");
    }

    /// 33: a trainer's own dummy work, with the longest notice and a one-second grant, does not fix a far retirement
    /// date: a real withdrawal moves it to where it belongs.
    function test_Threat33_no_immunity_by_a_dummy_work() public {
        Terms memory real = openTerms();
        real.revocationClass = 2;
        real.notice = 1 days;
        uint256 contentId = licensedWork(real);
        Terms memory dummy = openTerms();
        dummy.revocationClass = 2;
        dummy.notice = 90 days;
        dummy.grantDuration = 1;
        uint256[] memory shares = halves(contentId, licensedWork(dummy));
        uint32 adapterId = adapter(shares);
        withdrawWork(shares[1] >> 16);
        adapters.enforce(adapterId, shares, 1);
        vm.assertEq(retiresAt(adapterId), START + 90 days, "the farthest date that any work can set");
        withdrawWork(contentId);
        adapters.enforce(adapterId, shares, 0);
        vm.assertEq(retiresAt(adapterId), START + MIN_NOTICE, "moved earlier");
        until(START + 1);
        adapters.enforce(adapterId, shares, 1);
        vm.assertEq(retiresAt(adapterId), START + MIN_NOTICE, "and never back");
    }

    /// 34: the notice counts once, from the withdrawal itself, whenever enforce is called.
    function test_Threat34_notice_is_not_counted_twice() public {
        Terms memory terms = openTerms();
        terms.revocationClass = 2;
        terms.notice = 30 days;
        uint256[] memory shares = whole(licensedWork(terms));
        uint32 adapterId = adapter(shares);
        withdrawWork(1);
        until(START + 28 days);
        adapters.enforce(adapterId, shares, 0);
        vm.assertEq(retiresAt(adapterId), START + 30 days, "30 days from the withdrawal");
    }

    /// 38: no new grant from the moment of the withdrawal, in any class, by any door, not even to the owner.
    function test_Threat38_no_rush_during_the_notice() public {
        for (uint8 class; class <= 2; ++class) {
            Terms memory terms = openTerms();
            terms.revocationClass = class;
            terms.notice = 90 days;
            uint256 contentId = work(terms);
            bytes32 termsHash = offer(contentId);
            withdrawWork(contentId);
            bytes memory why = abi.encodeWithSelector(IContentRegistry.AlreadyWithdrawn.selector, contentId);
            vm.expectRevert(why);
            vm.prank(trainer);
            works.acquireGrant(contentId, termsHash);
            vm.expectRevert(why);
            vm.prank(creator);
            works.acquireGrant(contentId, termsHash);
            vm.expectRevert(why);
            works.acquireGrantWithAuthorization(trainer, contentId, termsHash, "", 0, type(uint256).max, "");
        }
    }

    /// 39: approvals are the approving owner's; a sale ends them, and a sale back brings them back.
    function test_Threat39_approvals_do_not_survive_a_sale() public {
        Terms memory terms = openTerms();
        terms.approvalRequired = true;
        uint256 contentId = work(terms);
        bytes32 termsHash = offer(contentId);
        vm.prank(creator);
        works.approveTrainer(contentId, trainer, true);
        vm.prank(creator);
        works.transferFrom(creator, stranger, contentId);
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.TrainerNotApproved.selector, contentId, trainer));
        vm.prank(trainer);
        works.acquireGrant(contentId, termsHash);
        vm.prank(stranger);
        works.transferFrom(stranger, creator, contentId);
        grant(contentId);
    }

    /// Found here: a trainer that is about to lose its grant buys a cheap one for evaluation alone. That is a grant, but
    /// no license to serve, so the adapter can be retired.
    function test_Threat_evaluation_grant_does_not_keep_an_adapter() public {
        Terms memory terms = openTerms();
        terms.grantDuration = 10 days;
        uint256 contentId = licensedWork(terms);
        uint256[] memory shares = whole(contentId);
        uint32 adapterId = adapter(shares);
        terms.uses = 16;
        vm.prank(creator);
        works.setTerms(contentId, LICENSE, terms);
        until(START + 9 days);
        grant(contentId);
        adapters.enforce(adapterId, shares, 0);
        vm.assertEq(retiresAt(adapterId), START + 11 days, "retires");
    }

    /// Found here: free renewals piled up in one block would outlive every later change of terms.
    function test_Threat_free_renewals_do_not_pile_up() public {
        Terms memory terms = openTerms();
        terms.grantDuration = 365 days;
        uint256 contentId = work(terms);
        for (uint256 i; i < 20; ++i) {
            grant(contentId);
        }
        vm.assertEq(works.grantOf(contentId, trainer).expiresAt, START + 365 days, "one year");
    }

    /// An adapter that is served while its work is withdrawn under class 2 says so to whoever asks.
    function test_withdrawal_reaches_servable() public {
        Terms memory terms = openTerms();
        terms.revocationClass = 2;
        terms.notice = 3 days;
        uint256[] memory shares = whole(licensedWork(terms));
        uint32 adapterId = adapter(shares);
        withdrawWork(1);
        adapters.enforce(adapterId, shares, 0);
        until(START + 3 days);
        (bool ok, Service why,) = adapters.servable(adapterId, trainer);
        vm.assertTrue(!ok && why == Service.Retired, "retired");
        Grant memory held = works.grantOf(1, trainer);
        vm.assertEq(held.registersUntil, START + 3 days, "and nothing new");
    }
}
