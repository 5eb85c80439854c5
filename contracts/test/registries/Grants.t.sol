// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {Grant, IContentRegistry} from "../../interfaces/IContentRegistry.sol";
import {ALL_USES, Terms} from "../../types/Terms.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Fixture, IWorks, Wallet} from "./Fixture.sol";

/// @notice A token whose transfers call back into the registry, as a hostile one would.
contract ReenteringToken {
    bytes private _call;
    bool public blocked;
    bytes public reason;

    function arm(bytes calldata call) external {
        _call = call;
    }

    function transferFrom(address, address, uint256) external returns (bool) {
        return reenter(msg.sender);
    }

    function transfer(address, uint256) external returns (bool) {
        return reenter(msg.sender);
    }

    function receiveWithAuthorization(address, address, uint256, uint256, uint256, bytes32, bytes calldata) external {
        reenter(msg.sender);
    }

    function reenter(address target) private returns (bool) {
        (bool ok, bytes memory why) = target.call(_call);
        blocked = !ok;
        reason = why;
        return true;
    }
}

/// @notice A token that says no without reverting.
contract FalseToken {
    function transferFrom(address, address, uint256) external pure returns (bool) {
        return false;
    }
}

/// @notice A token that keeps a tenth of each transfer.
contract FeeToken {
    mapping(address => uint256) public balanceOf;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) public returns (bool) {
        balanceOf[from] -= amount;
        balanceOf[to] += amount - amount / 10;
        return true;
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        return transferFrom(msg.sender, to, amount);
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 amount,
        uint256,
        uint256,
        bytes32,
        bytes calldata
    ) external {
        transferFrom(from, to, amount);
    }
}

/// @notice Grants: who may acquire one, what it costs, how long it lives, what a withdrawal does to it.
contract GrantsTest is Fixture {
    function priced() internal pure returns (Terms memory terms) {
        terms = openTerms();
        terms.trainingFee = 25e6;
        terms.grantDuration = 30 days;
    }

    /// The fee goes straight to the owner, the grant holds the terms it was acquired under.
    function test_acquireGrant_pays_the_owner_and_records_terms() public {
        uint256 contentId = licensedWork(priced());
        vm.assertEq(usd.balanceOf(creator), 25e6, "fee");
        vm.assertEq(usd.balanceOf(address(works)), 0, "the registry holds nothing");
        Grant memory held = works.grantOf(contentId, trainer);
        vm.assertEq(held.termsHash, offer(contentId), "terms hash");
        vm.assertEq(keccak256(abi.encode(held.terms)), keccak256(abi.encode(priced())), "terms");
        vm.assertEq(held.acquiredAt, START, "from");
        vm.assertEq(held.expiresAt, START + 30 days, "until");
        vm.assertEq(held.registersUntil, START + 30 days, "registers until");
        vm.assertEq(works.grantOf(contentId, stranger).termsHash, 0, "nobody else");
        vm.assertEq(works.grantOf(contentId, stranger).registersUntil, 0, "nobody else registers");
    }

    /// Duration 0 is for ever.
    function test_acquireGrant_perpetual() public {
        Grant memory held = works.grantOf(licensedWork(openTerms()), trainer);
        vm.assertEq(held.expiresAt, NEVER, "expires");
        vm.assertEq(held.registersUntil, NEVER, "registers");
    }

    /// No price surprise: terms changed since the trainer looked revert.
    function test_acquireGrant_refuses_other_terms_than_expected() public {
        uint256 contentId = work(priced());
        bytes32 seen = offer(contentId);
        Terms memory dearer = priced();
        dearer.trainingFee = 500_000e6;
        vm.prank(creator);
        works.setTerms(contentId, LICENSE, dearer);
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.TermsChanged.selector, contentId, offer(contentId)));
        vm.prank(trainer);
        works.acquireGrant(contentId, seen);
    }

    /// A grant keeps its terms when the owner offers others.
    function test_setTerms_leaves_grants_alone() public {
        uint256 contentId = licensedWork(priced());
        bytes32 before = keccak256(abi.encode(works.grantOf(contentId, trainer)));
        vm.prank(creator);
        works.setTerms(contentId, keccak256("stricter"), Terms(1e6, 9_000, 1, 0, 2, 1, true));
        vm.assertEq(keccak256(abi.encode(works.grantOf(contentId, trainer))), before, "grant");
    }

    /// After a sale the fee is the new owner's.
    function test_acquireGrant_pays_the_owner_of_the_moment() public {
        uint256 contentId = work(priced());
        vm.prank(creator);
        works.transferFrom(creator, stranger, contentId);
        grant(contentId);
        vm.assertEq(usd.balanceOf(stranger), 25e6, "new owner");
        vm.assertEq(usd.balanceOf(creator), 0, "old owner");
    }

    /// Where terms ask for approval only approved trainers, and the owner itself, get a grant.
    function test_acquireGrant_needs_approval_where_terms_say_so() public {
        Terms memory terms = openTerms();
        terms.approvalRequired = true;
        uint256 contentId = work(terms);
        bytes32 termsHash = offer(contentId);
        bytes memory why = abi.encodeWithSelector(IContentRegistry.TrainerNotApproved.selector, contentId, trainer);
        vm.expectRevert(why);
        vm.prank(trainer);
        works.acquireGrant(contentId, termsHash);
        vm.prank(creator);
        works.approveTrainer(contentId, trainer, true);
        grant(contentId);
        vm.prank(creator);
        works.acquireGrant(contentId, termsHash);
        vm.assertEq(works.grantOf(contentId, creator).acquiredAt, START, "the owner needs no approval");
    }

    /// An approval taken back ends nothing that was granted, but permits nothing new.
    function test_approveTrainer_can_be_taken_back() public {
        Terms memory terms = openTerms();
        terms.approvalRequired = true;
        terms.grantDuration = 10;
        uint256 contentId = work(terms);
        bytes32 termsHash = offer(contentId);
        vm.prank(creator);
        works.approveTrainer(contentId, trainer, true);
        grant(contentId);
        vm.prank(creator);
        works.approveTrainer(contentId, trainer, false);
        vm.assertEq(works.grantOf(contentId, trainer).registersUntil, START + 10, "the grant stays");
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.TrainerNotApproved.selector, contentId, trainer));
        vm.prank(trainer);
        works.acquireGrant(contentId, termsHash);
    }

    /// A renewal runs from now: free or cheap grants cannot be piled up beyond one duration.
    function test_acquireGrant_renewal_runs_from_now() public {
        Terms memory terms = priced();
        terms.trainingFee = 0;
        uint256 contentId = licensedWork(terms);
        grant(contentId);
        vm.assertEq(works.grantOf(contentId, trainer).expiresAt, START + 30 days, "not piled up");
        until(START + 10 days);
        grant(contentId);
        vm.assertEq(works.grantOf(contentId, trainer).expiresAt, START + 40 days, "renewed");
        vm.assertEq(works.grantOf(contentId, trainer).acquiredAt, START + 10 days, "from");
    }

    /// Buying again what one has for ever is a mistake, and costs nothing.
    function test_acquireGrant_refuses_to_sell_a_perpetual_grant_twice() public {
        Terms memory terms = openTerms();
        terms.trainingFee = 1e6;
        uint256 contentId = licensedWork(terms);
        bytes32 termsHash = offer(contentId);
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.GrantIsPerpetual.selector, contentId, trainer));
        vm.prank(trainer);
        works.acquireGrant(contentId, termsHash);
        vm.prank(creator);
        works.setTerms(contentId, keccak256("other text"), terms);
        grant(contentId);
        vm.assertEq(usd.balanceOf(creator), 2e6, "other terms are something else");
    }

    // Withdrawal

    /// Class 0: live grants run out as agreed.
    function test_withdraw_class0_leaves_grants_alone() public {
        uint256 contentId = licensedWork(priced());
        withdrawWork(contentId);
        vm.assertEq(works.grantOf(contentId, trainer).registersUntil, START + 30 days, "as agreed");
        vm.assertEq(works.grantOf(contentId, trainer).withdrawnAt, START, "withdrawn");
    }

    /// Classes 1 and 2: live grants register until the notice has passed, counted from the withdrawal.
    function test_withdraw_class1_and_2_end_registration_after_the_notice() public {
        for (uint8 class = 1; class <= 2; ++class) {
            until(START);
            Terms memory terms = priced();
            terms.revocationClass = class;
            terms.notice = 7 days;
            uint256 contentId = licensedWork(terms);
            until(START + 1 days);
            withdrawWork(contentId);
            vm.assertEq(works.grantOf(contentId, trainer).registersUntil, START + 8 days, "notice");
            vm.assertEq(works.grantOf(contentId, trainer).expiresAt, START + 30 days, "agreed end");
        }
    }

    /// A notice longer than what is left of the grant does not lengthen it.
    function test_withdraw_never_lengthens_a_grant() public {
        Terms memory terms = priced();
        terms.revocationClass = 1;
        terms.notice = 90 days;
        uint256 contentId = licensedWork(terms);
        withdrawWork(contentId);
        vm.assertEq(works.grantOf(contentId, trainer).registersUntil, START + 30 days, "as agreed");
    }

    /// registersUntil is the formula of the design, for any terms and times.
    function testFuzz_grantOf_registersUntil(uint32 duration, uint32 notice, uint8 class, uint32 withdrawnAfter)
        public
    {
        Terms memory terms = openTerms();
        terms.grantDuration = duration;
        terms.notice = notice % (90 days + 1);
        terms.revocationClass = class % 3;
        uint256 contentId = licensedWork(terms);
        until(START + withdrawnAfter);
        withdrawWork(contentId);
        uint256 expected = duration == 0 ? NEVER : START + duration;
        uint256 noticeEnd = START + withdrawnAfter + terms.notice;
        if (terms.revocationClass != 0 && noticeEnd < expected) expected = noticeEnd;
        vm.assertEq(works.grantOf(contentId, trainer).registersUntil, expected, "registersUntil");
    }

    // Paid by authorisation

    function authorized(uint256 contentId, bytes32 termsHash, bytes32 salt, uint256 fee)
        internal
        view
        returns (bytes memory)
    {
        bytes32 nonce = keccak256(abi.encode(keccak256("Viz.AcquireGrant"), contentId, termsHash, salt));
        return signed(TRAINER_KEY, receiveDigest(trainer, address(works), fee, nonce));
    }

    /// A trainer without gas or allowance pays by signature; anyone submits it, nothing stays in the registry.
    function test_acquireGrantWithAuthorization_pays_the_owner() public {
        uint256 contentId = work(priced());
        bytes32 termsHash = offer(contentId);
        bytes memory signature = authorized(contentId, termsHash, "salt", 25e6);
        vm.prank(stranger);
        works.acquireGrantWithAuthorization(trainer, contentId, termsHash, "salt", 0, type(uint256).max, signature);
        vm.assertEq(usd.balanceOf(creator), 25e6, "fee");
        vm.assertEq(usd.balanceOf(address(works)), 0, "nothing left");
        vm.assertEq(works.grantOf(contentId, trainer).expiresAt, START + 30 days, "grant");
    }

    /// The authorisation buys once, and nothing but what it names.
    function test_acquireGrantWithAuthorization_binds_work_terms_and_salt() public {
        uint256 contentId = work(priced());
        uint256 other = work(priced());
        bytes32 termsHash = offer(contentId);
        bytes memory signature = authorized(contentId, termsHash, "salt", 25e6);
        bytes4 invalid = ERC3009.ERC3009InvalidSignature.selector;
        uint256 max = type(uint256).max;
        vm.expectRevert(invalid);
        works.acquireGrantWithAuthorization(trainer, other, termsHash, "salt", 0, max, signature);
        vm.expectRevert(invalid);
        works.acquireGrantWithAuthorization(trainer, contentId, termsHash, "other", 0, max, signature);
        vm.expectRevert(invalid);
        works.acquireGrantWithAuthorization(stranger, contentId, termsHash, "salt", 0, max, signature);
        works.acquireGrantWithAuthorization(trainer, contentId, termsHash, "salt", 0, max, signature);
        vm.expectRevert(
            abi.encodeWithSelector(
                ERC3009.ERC3009UsedAuthorization.selector, trainer, works.grantNonce(contentId, termsHash, "salt")
            )
        );
        works.acquireGrantWithAuthorization(trainer, contentId, termsHash, "salt", 0, max, signature);
        works.acquireGrantWithAuthorization(
            trainer, contentId, termsHash, "again", 0, max, authorized(contentId, termsHash, "again", 25e6)
        );
        vm.assertEq(usd.balanceOf(creator), 50e6, "a second salt renews");
    }

    /// Nobody can push a free grant on a trainer: also a fee of 0 needs the signature.
    function test_acquireGrantWithAuthorization_needs_a_signature_for_a_free_grant() public {
        uint256 contentId = work(openTerms());
        bytes32 termsHash = offer(contentId);
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        works.acquireGrantWithAuthorization(trainer, contentId, termsHash, "salt", 0, type(uint256).max, new bytes(65));
        works.acquireGrantWithAuthorization(
            trainer, contentId, termsHash, "salt", 0, type(uint256).max, authorized(contentId, termsHash, "salt", 0)
        );
        vm.assertEq(works.grantOf(contentId, trainer).expiresAt, NEVER, "granted");
    }

    /// A contract wallet pays by ERC-1271.
    function test_acquireGrantWithAuthorization_by_a_contract_wallet() public {
        address wallet = address(new Wallet(trainer));
        usd.mint(wallet, 25e6);
        uint256 contentId = work(priced());
        bytes32 termsHash = offer(contentId);
        bytes32 nonce = works.grantNonce(contentId, termsHash, "salt");
        bytes memory signature = signed(TRAINER_KEY, receiveDigest(wallet, address(works), 25e6, nonce));
        works.acquireGrantWithAuthorization(wallet, contentId, termsHash, "salt", 0, type(uint256).max, signature);
        vm.assertEq(works.grantOf(contentId, wallet).acquiredAt, START, "grant");
    }

    /// Whatever the fee, it leaves the trainer and reaches the owner whole, by either door.
    function testFuzz_acquireGrant_moves_exactly_the_fee(uint96 fee, bool byAuthorization) public {
        Terms memory terms = priced();
        terms.trainingFee = uint96(fee % (1_000_000e6 + 1));
        uint256 contentId = work(terms);
        bytes32 termsHash = offer(contentId);
        if (byAuthorization) {
            bytes memory signature = authorized(contentId, termsHash, "salt", terms.trainingFee);
            works.acquireGrantWithAuthorization(trainer, contentId, termsHash, "salt", 0, type(uint256).max, signature);
        } else {
            grant(contentId);
        }
        vm.assertEq(usd.balanceOf(creator), terms.trainingFee, "owner");
        vm.assertEq(usd.balanceOf(trainer), 1_000_000e6 - terms.trainingFee, "trainer");
        vm.assertEq(usd.balanceOf(address(works)), 0, "registry");
    }

    // Hostile tokens

    function hostile(address token) private returns (IWorks registry, uint256 contentId, bytes32 termsHash) {
        registry = deployWorks(token);
        vm.prank(creator);
        contentId = registry.register("commitment", LICENSE, priced());
        termsHash = registry.contentOf(contentId).termsHash;
    }

    /// A token that re-enters finds both doors locked.
    function test_acquireGrant_is_locked_against_a_reentering_token() public {
        ReenteringToken token = new ReenteringToken();
        (IWorks registry, uint256 contentId, bytes32 termsHash) = hostile(address(token));
        bytes4 locked = ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector;
        token.arm(abi.encodeCall(registry.acquireGrant, (contentId, termsHash)));
        registry.acquireGrantWithAuthorization(trainer, contentId, termsHash, "salt", 0, 0, "");
        vm.assertTrue(token.blocked() && bytes4(token.reason()) == locked, "direct door");
        token.arm(
            abi.encodeCall(registry.acquireGrantWithAuthorization, (stranger, contentId, termsHash, "salt", 0, 0, ""))
        );
        vm.prank(trainer);
        registry.acquireGrant(contentId, termsHash);
        vm.assertTrue(token.blocked() && bytes4(token.reason()) == locked, "authorised door");
        vm.assertEq(registry.grantOf(contentId, stranger).termsHash, 0, "no grant slipped through");
    }

    /// A token that returns false grants nothing.
    function test_acquireGrant_refuses_a_token_that_returns_false() public {
        (IWorks registry, uint256 contentId, bytes32 termsHash) = hostile(address(new FalseToken()));
        vm.expectRevert();
        vm.prank(trainer);
        registry.acquireGrant(contentId, termsHash);
    }

    /// A token that takes a fee of its own cannot make the registry pay the difference out of nothing.
    function test_acquireGrantWithAuthorization_is_harmless_with_a_fee_on_transfer() public {
        FeeToken token = new FeeToken();
        (IWorks registry, uint256 contentId, bytes32 termsHash) = hostile(address(token));
        token.mint(trainer, 25e6);
        vm.expectRevert();
        registry.acquireGrantWithAuthorization(trainer, contentId, termsHash, "salt", 0, 0, "");
        vm.assertEq(token.balanceOf(trainer), 25e6, "nothing moved");
        vm.assertEq(registry.grantOf(contentId, trainer).termsHash, 0, "no grant");
    }

    /// The uses on offer are any set: a license for evaluation alone is a grant too.
    function test_acquireGrant_with_few_uses() public {
        Terms memory terms = openTerms();
        terms.uses = 16;
        vm.assertEq(works.grantOf(licensedWork(terms), trainer).terms.uses, 16, "uses");
        vm.assertEq(ALL_USES, 31, "five uses");
    }
}
