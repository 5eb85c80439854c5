// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IAdapterRegistry, Service} from "../../interfaces/IAdapterRegistry.sol";
import {IContentRegistry} from "../../interfaces/IContentRegistry.sol";
import {INodeDirectory} from "../../interfaces/INodeDirectory.sol";
import {ISettlement} from "../../interfaces/ISettlement.sol";
import {Terms} from "../../types/Terms.sol";
import {Fixture} from "../registries/Fixture.sol";
import {LogBooks} from "./LogBooks.sol";

/// @notice All four contracts and the dollar together, nothing doubled: the main money path, and every refusal that
/// one contract makes because of another's state. Each test ends with all balances rebuilt from logs alone.
contract CombinedTest is Fixture, LogBooks {
    uint256 private constant NODE_KEY = 0xA0DE;
    uint256 private constant SIGNER_KEY = 0x51;
    uint256 private constant PAYER_KEY = 0xBEEF;
    uint256 private constant DOLLAR = 1e6;

    ISettlement private settlement;
    INodeDirectory private directory;
    address private payer = vm.addr(PAYER_KEY);
    address private signer = vm.addr(SIGNER_KEY);
    uint256 private settled;

    function setUp() public override {
        super.setUp();
        node = vm.addr(NODE_KEY);
        settlement = ISettlement(vm.deployCode("Settlement.sol:Settlement", abi.encode(usd, works, adapters)));
        directory = INodeDirectory(vm.deployCode("NodeDirectory.sol:NodeDirectory", ""));
        usd.mint(payer, 1_000 * DOLLAR);
        vm.recordLogs();
    }

    // Moves

    /// @dev The buyer has no gas: a stranger relays.
    function openChannel(uint256 amount) private {
        bytes32 nonce = settlement.authorizationNonce(settlement.OPEN_KIND(), signer, node, "salt");
        bytes memory pays = signed(PAYER_KEY, receiveDigest(payer, address(settlement), amount, nonce));
        bytes memory consent = signed(SIGNER_KEY, settlement.hashOpenChannel(payer, node));
        vm.prank(stranger);
        settlement.openWithAuthorization(payer, signer, node, amount, "salt", 0, type(uint256).max, pays, consent);
    }

    function line(uint32 adapterId, uint256 amount) private pure returns (bytes memory) {
        return abi.encodePacked(adapterId, uint96(amount));
    }

    /// @dev A voucher on `base`, as a row made out to the node.
    function voucher(uint256 base, bytes memory lines) private view returns (bytes memory) {
        bytes32 digest = settlement.hashVoucher(node, uint96(base), keccak256(lines), "head");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(SIGNER_KEY, digest);
        bytes32 vs = bytes32(uint256(s) | uint256(v - 27) << 255);
        return abi.encodePacked(r, vs, uint96(base), bytes32("head"), uint8(lines.length / 16), lines);
    }

    /// @dev The buyer signs for `amount` more of one adapter, and the node claims it.
    function spend(uint32 adapterId, uint256 amount) private {
        bytes memory rows = voucher(settled, line(adapterId, amount));
        vm.prank(node);
        vm.assertEq(settlement.claim(rows), amount, "claimed");
        settled += amount;
    }

    /// @dev A claim of this one row is refused, for this reason.
    function refused(bytes memory rows, ISettlement.RowStatus why) private {
        vm.assertEq(uint256(settlement.previewClaim(node, rows)[0]), uint256(why), "why");
        vm.prank(node);
        vm.assertEq(settlement.claim(rows), 0, "nothing claimed");
    }

    function permit(uint32 adapterId) private {
        vm.prank(trainer);
        adapters.setServing(adapterId, node, true);
    }

    function sell(uint256 contentId, address to) private {
        address from = works.ownerOf(contentId);
        vm.prank(from);
        works.transferFrom(from, to, contentId);
    }

    function collectable(address account) private view returns (uint256 amount) {
        (amount,) = settlement.balance(account);
    }

    function closeBooks() private {
        rebuild(settlement, 0);
    }

    // The main path

    /// From registration to the buyer's leaving, everyone without gas where the design says so; every unit is found.
    function test_MainMoneyPath() public {
        vm.prank(node);
        directory.announce("https://node.example", "age1key");
        vm.assertEq(directory.entryOf(node).url, "https://node.example", "listed");

        Terms memory terms = openTerms();
        terms.trainingFee = 2e6;
        terms.minRoyaltyBps = 800;
        bytes memory consent =
            signed(CREATOR_KEY, registerDigest(creator, "commitment", LICENSE, terms, 0, type(uint64).max));
        vm.prank(stranger);
        uint256 first = works.registerFor(creator, "commitment", LICENSE, terms, 0, type(uint64).max, consent);
        grant(first);
        vm.assertEq(usd.balanceOf(creator), 2e6, "the training fee");
        uint256 second = licensedWork(openTerms());
        sell(second, address(0xC2));
        uint32 adapterId = adapter(halves(first, second));
        permit(adapterId);
        (bool ok,,) = adapters.servable(adapterId, node);
        vm.assertTrue(ok, "servable");

        openChannel(100 * DOLLAR);
        spend(adapterId, 10 * DOLLAR);
        bytes memory run = bytes.concat(
            voucher(settled, bytes.concat(line(0, DOLLAR), line(adapterId, DOLLAR))),
            voucher(settled + 2 * DOLLAR, line(adapterId, 9 * DOLLAR))
        );
        vm.prank(node);
        vm.assertEq(settlement.claim(run), 11 * DOLLAR, "a run in one batch");
        settlement.distribute(adapterId, halves(first, second));
        vm.assertEq(usd.balanceOf(creator), 2e6 + 3 * DOLLAR, "half of 30 % of 20");
        vm.assertEq(usd.balanceOf(address(0xC2)), 3 * DOLLAR, "the other half");
        settlement.collect(trainer);
        vm.prank(node);
        settlement.setPayoutAddress(address(0xC01D));
        until(block.timestamp + CLOSE_DELAY);
        settlement.collect(node);
        vm.assertEq(usd.balanceOf(address(0xC01D)), DOLLAR + 12 * DOLLAR, "the base model's and 60 % of 20");

        uint64 deadline = uint64(block.timestamp) + 60;
        bytes memory asked = signed(PAYER_KEY, settlement.hashRequestClose(signer, node, deadline));
        vm.prank(stranger);
        settlement.requestCloseFor(signer, node, deadline, asked);
        closeBooks();
        until(block.timestamp + CLOSE_DELAY);
        settlement.withdraw(signer, node);
        vm.assertEq(usd.balanceOf(payer), 1_000 * DOLLAR - 21 * DOLLAR, "the rest is back");
        vm.assertEq(usd.balanceOf(address(settlement)), 0, "to the last unit");
        closeBooks();
    }

    // What another contract's state changes

    /// A work sold between the claim and the distribution pays its buyer, also what accrued before the sale.
    function test_TransferBetweenClaimAndDistribution() public {
        uint256 contentId = licensedWork(openTerms());
        uint32 adapterId = adapter(whole(contentId));
        permit(adapterId);
        openChannel(100 * DOLLAR);
        spend(adapterId, 10 * DOLLAR);
        sell(contentId, address(0xB0B));
        settlement.distribute(adapterId, whole(contentId));
        vm.assertEq(usd.balanceOf(creator), 0, "the seller");
        vm.assertEq(usd.balanceOf(address(0xB0B)), 3 * DOLLAR, "the owner of the moment");
        closeBooks();
    }

    /// A class-2 withdrawal: the node keeps MIN_NOTICE for what it earned, then everything is the works'.
    function test_WithdrawalRetiresAndTheNodeKeepsItsNotice() public {
        Terms memory terms = openTerms();
        terms.revocationClass = 2;
        uint256 contentId = licensedWork(terms);
        uint32 adapterId = adapter(whole(contentId));
        permit(adapterId);
        openChannel(100 * DOLLAR);
        withdrawWork(contentId);
        bytes32 termsHash = offer(contentId);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.AlreadyWithdrawn.selector, contentId));
        works.acquireGrant(contentId, termsHash);
        vm.prank(trainer);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.Unlicensed.selector, contentId, trainer));
        adapters.register("base", "weights", "cid", "manifest", 3_000, 1_000, whole(contentId));

        vm.prank(stranger);
        uint64 ends = adapters.enforce(adapterId, whole(contentId), 0);
        vm.assertEq(ends, START + MIN_NOTICE, "never earlier");
        until(ends - 1);
        spend(adapterId, 10 * DOLLAR);
        vm.assertEq(collectable(node), 6 * DOLLAR, "within the notice: the node's part");
        until(ends);
        spend(adapterId, 10 * DOLLAR);
        vm.assertEq(collectable(node), 6 * DOLLAR, "after it: none");
        vm.assertEq(collectable(trainer), DOLLAR, "nor the trainer's");
        vm.assertEq(settlement.owed(adapterId), 3 * DOLLAR + 10 * DOLLAR, "all to the works");
        (bool ok, Service why,) = adapters.servable(adapterId, node);
        vm.assertTrue(!ok && why == Service.Retired, "not servable");
        settlement.distribute(adapterId, whole(contentId));
        vm.assertEq(usd.balanceOf(creator), 13 * DOLLAR, "its owner is paid");
        closeBooks();
    }

    /// A trainer that retires its adapter, or takes a permission back, takes no node's earned money.
    function test_RetirementAndPermissionLeaveWhatWasEarned() public {
        uint256 contentId = licensedWork(openTerms());
        uint32 retired = adapter(whole(contentId));
        uint32 kept = adapter(whole(contentId));
        permit(retired);
        permit(kept);
        openChannel(100 * DOLLAR);
        vm.prank(trainer);
        uint64 ends = adapters.retire(retired);
        vm.prank(trainer);
        adapters.setServing(kept, node, false);
        until(ends - 1);
        spend(retired, 10 * DOLLAR);
        spend(kept, 10 * DOLLAR);
        vm.assertEq(collectable(node), 12 * DOLLAR, "both parts");
        until(ends);
        spend(kept, 10 * DOLLAR);
        vm.assertEq(collectable(node), 12 * DOLLAR, "permitted no more");
        vm.assertEq(collectable(trainer), 2 * DOLLAR + 7 * DOLLAR, "its remainder is the trainer's");
        closeBooks();
    }

    /// An adapter of 128 works of 128 owners: claimed, distributed in one call, each by its share.
    function test_128WorksArePaidThroughAClaim() public {
        uint256 first = works.contentCount() + 1;
        uint256[] memory shares = new uint256[](128);
        for (uint256 i; i < 128; ++i) {
            sell(licensedWork(openTerms()), address(uint160(0xC0000 + i)));
            shares[i] = row(first + i, i < 16 ? 79 : 78);
        }
        uint32 adapterId = adapter(shares);
        permit(adapterId);
        openChannel(500 * DOLLAR);
        spend(adapterId, 333 * DOLLAR + 1);
        vm.prank(stranger);
        settlement.distribute(adapterId, shares);
        uint256 royalties = (333 * DOLLAR + 1) * 3_000 / 10_000;
        for (uint256 i; i < 128; ++i) {
            uint256 due = royalties * (shares[i] & 0xffff) / 10_000;
            vm.assertEq(usd.balanceOf(address(uint160(0xC0000 + i))), due, "by its share");
        }
        closeBooks();
    }

    /// Nothing stops at 255: neither the 300th voucher, nor an adapter or a work with such an id, nor its payout.
    function test_NothingIsUnpaidPast255() public {
        for (uint256 i; i < 299; ++i) {
            work(openTerms());
        }
        uint256 contentId = licensedWork(openTerms());
        uint32 adapterId;
        for (uint256 i; i < 260; ++i) {
            adapterId = adapter(whole(contentId));
        }
        permit(adapterId);
        openChannel(100 * DOLLAR);
        for (uint256 batch; batch < 3; ++batch) {
            bytes memory rows;
            for (uint256 i; i < 100; ++i) {
                rows = bytes.concat(rows, voucher(settled, line(adapterId, 1_000)));
                settled += 1_000;
            }
            vm.prank(node);
            vm.assertEq(settlement.claim(rows), 100_000, "a hundred vouchers");
            settlement.distribute(adapterId, whole(contentId));
        }
        vm.assertEq(usd.balanceOf(creator), 300 * 300, "work 300 of adapter 260, 300 times");
        closeBooks();
    }

    /// Nobody is paid in a creator's place: no forged registration, no copied table, no unlicensed declaration.
    function test_ASpoofedCreatorIsPaidNothing() public {
        uint256 contentId = licensedWork(openTerms());
        uint32 adapterId = adapter(whole(contentId));
        permit(adapterId);
        openChannel(100 * DOLLAR);
        spend(adapterId, 10 * DOLLAR);

        bytes memory forged =
            signed(STRANGER_KEY, registerDigest(creator, "work", LICENSE, openTerms(), 0, type(uint64).max));
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.SignatureInvalid.selector, creator));
        works.registerFor(creator, "work", LICENSE, openTerms(), 0, type(uint64).max, forged);
        bytes32 commitment = works.contentOf(contentId).commitment;
        vm.prank(stranger);
        uint256 copy = works.register(commitment, LICENSE, openTerms());
        vm.expectRevert(abi.encodeWithSelector(ISettlement.WrongShares.selector, adapterId));
        settlement.distribute(adapterId, whole(copy));
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IAdapterRegistry.Unlicensed.selector, contentId, stranger));
        adapters.register("base", "weights", "cid", "manifest", 3_000, 1_000, whole(contentId));

        settlement.distribute(adapterId, whole(contentId));
        vm.assertEq(usd.balanceOf(creator), 3 * DOLLAR, "the creator");
        vm.assertEq(usd.balanceOf(stranger), 0, "the spoofer");
        closeBooks();
    }

    // Refusals

    /// An id that no trainer registered earns nothing, whoever signed for it; the next row is claimed all the same.
    function test_AnUnregisteredAdapterEarnsNothing() public {
        uint32 adapterId = adapter(whole(licensedWork(openTerms())));
        openChannel(100 * DOLLAR);
        refused(voucher(0, line(adapterId + 1, DOLLAR)), ISettlement.RowStatus.UnknownAdapter);
        bytes memory rows = bytes.concat(voucher(0, line(adapterId + 1, DOLLAR)), voucher(0, line(adapterId, DOLLAR)));
        vm.prank(node);
        vm.assertEq(settlement.claim(rows), DOLLAR, "the good one");
        vm.expectRevert(abi.encodeWithSelector(ISettlement.UnknownAdapter.selector, adapterId + 1));
        settlement.pay(adapterId + 1, node, 1);
        closeBooks();
    }

    /// A node that no trainer permitted earns nothing, and its buyers' vouchers stay good.
    function test_AnUnpermittedNodesPartIsTheTrainers() public {
        uint32 adapterId = adapter(whole(licensedWork(openTerms())));
        openChannel(100 * DOLLAR);
        spend(adapterId, 10 * DOLLAR);
        vm.assertEq(collectable(node), 0, "the node");
        vm.assertEq(collectable(trainer), 7 * DOLLAR, "the trainer");
        vm.assertEq(settlement.owed(adapterId), 3 * DOLLAR, "the works, all the same");
        closeBooks();
    }

    /// A voucher is worth nothing to another node, above the deposit, twice, or after the channel was left.
    function test_VouchersAreWorthWhatTheySayOnce() public {
        uint32 adapterId = adapter(whole(licensedWork(openTerms())));
        permit(adapterId);
        openChannel(10 * DOLLAR);
        refused(voucher(0, line(adapterId, 10 * DOLLAR + 1)), ISettlement.RowStatus.InsufficientDeposit);
        bytes memory good = voucher(0, line(adapterId, 4 * DOLLAR));
        vm.prank(stranger);
        vm.assertEq(settlement.claim(good), 0, "another's");
        spend(adapterId, 4 * DOLLAR);
        refused(good, ISettlement.RowStatus.WrongBase);
        uint64 deadline = uint64(block.timestamp) + 60;
        bytes memory word = signed(NODE_KEY, settlement.hashClose(signer, node, uint96(settled), deadline));
        settlement.closeNow(signer, node, uint96(settled), deadline, word);
        vm.assertEq(usd.balanceOf(payer), 996 * DOLLAR, "left at once");
        refused(voucher(settled, line(adapterId, 1)), ISettlement.RowStatus.InsufficientDeposit);
        closeBooks();
    }
}
