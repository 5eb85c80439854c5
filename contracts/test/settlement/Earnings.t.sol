// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {Fixture} from "./Fixture.sol";

/// @notice Claims, splits, distribution, collection.
contract EarningsTest is Fixture {
    function test_OneRowPaysEachAdapterItsParts() public {
        open(10_000);
        claim(row(0, bytes.concat(line(0, 100), line(A, 1_000), line(B, 500))));
        vm.assertEq(collectable(node), 100 + 600, "node");
        vm.assertEq(collectable(trainer), 100, "trainer");
        vm.assertEq(settlement.owed(A), 300, "contents of A");
        vm.assertEq(settlement.owed(B), 500, "contents of B");
        vm.assertEq(settlement.revenue(A), 1_000, "gross");
        vm.assertEq(deposit(), 8_400, "deposit");
        vm.assertEq(total(), 1_600, "settled");
        closeBooks();
    }

    function test_ARunOfVouchersIsClaimedInOneBatch() public {
        open(1_000);
        bytes memory rows = bytes.concat(row(0, line(A, 10)), row(10, line(B, 20)), row(30, line(A, 30)));
        ISettlement.RowStatus[] memory statuses = preview(rows);
        vm.assertEq(statuses.length, 3, "rows");
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(uint256(statuses[i]), 0, "good");
        }
        vm.assertEq(claim(rows), 60, "claimed");
        vm.assertEq(settlement.revenue(A), 40, "A");
        closeBooks();
    }

    function test_RowsOfUnlikeLengthsShareOneTable() public {
        open(10_000);
        bytes memory rows = bytes.concat(
            row(0, bytes.concat(line(0, 100), line(A, 1_000), line(B, 500))),
            row(1_600, line(A, 1_000)),
            row(2_600, bytes.concat(line(0, 100), line(B, 500))),
            row(3_200, bytes.concat(line(A, 1_000), line(B, 500)))
        );
        vm.assertEq(claim(rows), 4_700, "claimed");
        vm.assertEq(deposit(), 5_300, "deposit");
        vm.assertEq(total(), 4_700, "settled");
        vm.assertEq(collectable(node), 200 + 1_800, "node");
        vm.assertEq(collectable(trainer), 300, "trainer");
        vm.assertEq(settlement.owed(A), 900, "contents of A");
        vm.assertEq(settlement.owed(B), 1_500, "contents of B");
        closeBooks();
    }

    function test_EveryKindOfBadRowIsNamedAndChangesNothing() public {
        open(1_000);
        refused(row(1, line(A, 1)), ISettlement.RowStatus.WrongBase);
        refused(row(0, ""), ISettlement.RowStatus.NoLines);
        refused(row(0, line(A, 0)), ISettlement.RowStatus.ZeroAmount);
        refused(row(0, line(9, 1)), ISettlement.RowStatus.UnknownAdapter);
        refused(row(0, bytes.concat(line(A, 1), line(A, 1))), ISettlement.RowStatus.BadOrder);
        refused(row(0, bytes.concat(line(B, 1), line(A, 1))), ISettlement.RowStatus.BadOrder);
        refused(row(0, line(A, 1_001)), ISettlement.RowStatus.InsufficientDeposit);
        refused(
            row(0, bytes.concat(line(A, type(uint96).max), line(B, type(uint96).max))),
            ISettlement.RowStatus.InsufficientDeposit
        );
        refused(rowBy(OTHER_KEY, node, 0, line(A, 1)), ISettlement.RowStatus.NoChannel);
        refused(packed(0, HEAD, 0, line(A, 1)), ISettlement.RowStatus.BadSignature);
        bytes memory whole = row(0, line(A, 1));
        for (uint256 cut = 1; cut < whole.length; cut += 31) {
            bytes memory part = new bytes(whole.length - cut);
            for (uint256 i; i < part.length; ++i) {
                part[i] = whole[i];
            }
            refused(part, ISettlement.RowStatus.Truncated);
        }
        closeBooks();
    }

    function test_SettledTotalNeverPasses96Bits() public {
        open(1_000);
        bytes32 slot = keccak256(abi.encode(settlement.channelId(signer, node), CHANNELS));
        vm.store(address(settlement), slot, bytes32(uint256(type(uint96).max - 5) << 96 | 1_000));
        refused(row(type(uint96).max - 5, line(A, 6)), ISettlement.RowStatus.TotalTooLarge);
        vm.assertEq(claim(row(type(uint96).max - 5, line(A, 5))), 5, "to the last unit");
    }

    function test_TwoHundredRowsInOneBatchEverySeventhBad() public {
        open(1_000_000);
        bytes memory rows;
        uint256 sum;
        for (uint256 i; i < 200; ++i) {
            bool bad = i % 7 == 3;
            rows = bytes.concat(rows, row(bad ? 999_999 : sum, line(A, 2)));
            if (!bad) sum += 2;
        }
        vm.assertEq(claim(rows), sum, "claimed");
        vm.assertEq(total(), sum, "applied");
        closeBooks();
    }

    function testFuzz_TheNumberOfClaimsChangesNothing(uint96[6] calldata amounts) public {
        open(FUNDS);
        uint256 sum;
        for (uint256 i; i < 6; ++i) {
            uint256 amount = amounts[i] % 1e20 + 1;
            claim(row(sum, line(A, amount)));
            sum += amount;
        }
        vm.assertEq(settlement.owed(A), sum * 3_000 / 10_000, "contents: one floor");
        vm.assertEq(collectable(trainer), sum * 1_000 / 10_000, "trainer: one floor");
        vm.assertEq(collectable(node), sum * 6_000 / 10_000, "node: one floor");
        closeBooks();
    }

    function testFuzz_TheNumberOfDistributionsChangesNothing(uint96[6] calldata amounts) public {
        open(FUNDS);
        uint256 sum;
        for (uint256 i; i < 6; ++i) {
            uint256 amount = amounts[i] % 1e20 + 1;
            claim(row(sum, line(A, amount)));
            sum += amount;
            settlement.distribute(A, sharesA);
        }
        uint256 accrued = sum * 3_000 / 10_000;
        vm.assertEq(coin.balanceOf(creator), accrued * 3_333 / 10_000, "first work");
        vm.assertEq(coin.balanceOf(second), accrued * 6_667 / 10_000, "second work");
        vm.assertEq(settlement.owed(A), 0, "nothing owed");
        closeBooks();
    }

    function test_DistributeNeedsTheAdaptersTable() public {
        vm.expectRevert(abi.encodeWithSelector(ISettlement.WrongShares.selector, A));
        settlement.distribute(A, sharesB);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.WrongShares.selector, 9));
        settlement.distribute(9, new uint256[](0));
        vm.assertEq(settlement.distribute(A, sharesA), 0, "nothing yet");
    }

    function test_RevenueBeyondItsModulusStopsNothing() public {
        open(1_000_000);
        uint256 gross = settlement.REVENUE_MODULUS() - 7;
        bytes32 slot = keccak256(abi.encode(uint256(A), REVENUES));
        vm.store(address(settlement), slot, bytes32(gross));
        vm.assertEq(settlement.revenue(A), gross, "placed");
        claim(row(0, line(A, 10_007)));
        vm.assertEq(settlement.revenue(A), 10_000, "wrapped");
        vm.assertEq(settlement.owed(A), (gross + 10_007) * 3_000 / 10_000 - gross * 3_000 / 10_000, "exact");
        claim(row(10_007, line(A, 10_000)));
        vm.assertEq(collectable(trainer), (gross + 20_007) / 10 - gross / 10, "exact after it");
    }

    function test_PaySplitsLikeAClaim() public {
        vm.prank(stranger);
        settlement.pay(A, node, 1_000);
        vm.prank(stranger);
        settlement.pay(0, node, 7);
        vm.assertEq(settlement.owed(A), 300, "contents");
        vm.assertEq(collectable(trainer), 100, "trainer");
        vm.assertEq(collectable(node), 607, "node");
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.UnknownAdapter.selector, 9));
        settlement.pay(9, node, 1);
        vm.prank(stranger);
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        settlement.pay(A, address(0), 1);
        closeBooks();
    }

    function test_CollectToThePayoutAddressAfterTheDelay() public {
        address cold = address(0xC01D);
        address thief = address(0x7E1F);
        vm.prank(node);
        settlement.setPayoutAddress(cold);
        vm.prank(stranger);
        settlement.pay(0, node, 10);
        vm.warp(block.timestamp + DELAY - 1);
        settlement.collect(node);
        vm.assertEq(coin.balanceOf(node), 10, "not yet");
        vm.warp(block.timestamp + 1);
        vm.prank(node);
        settlement.setPayoutAddress(thief);
        (address next, uint64 at) = settlement.pendingPayout(node);
        vm.assertEq(next, thief, "pending");
        vm.assertEq(at, block.timestamp + DELAY, "pending at");
        vm.prank(stranger);
        settlement.pay(0, node, 11);
        settlement.collect(node);
        vm.assertEq(coin.balanceOf(cold), 11, "the matured address, not the new one");
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NothingToCollect.selector, node));
        settlement.collect(node);
        vm.warp(block.timestamp + DELAY);
        (uint96 amount, address to) = settlement.balance(node);
        vm.assertEq(amount, 0, "empty");
        vm.assertEq(to, thief, "in effect");
        (next, at) = settlement.pendingPayout(node);
        vm.assertEq(at, 0, "no longer pending");
        closeBooks();
    }

    function test_ConsecutiveWorksOfOneOwnerShareOneTransfer() public {
        vm.prank(second);
        works.transferFrom(second, creator, 2);
        vm.prank(stranger);
        settlement.pay(A, node, 1_001);
        readLogs();
        settlement.distribute(A, sharesA);
        vm.assertEq(vm.getRecordedLogs().length, 2, "one transfer, one Distributed");
        vm.assertEq(coin.balanceOf(creator), 300 * 3_333 / uint256(10_000) + 300 * 6_667 / uint256(10_000), "sum");
    }

    function test_FailedTransferWaitsToBeCollected() public {
        coin.setBlacklisted(creator, true);
        vm.prank(stranger);
        settlement.pay(A, node, 10_000);
        vm.assertEq(settlement.distribute(A, sharesA), 2_999, "paid");
        vm.assertEq(coin.balanceOf(second), 2_000, "not delayed");
        vm.assertEq(collectable(creator), 999, "credited");
        vm.prank(creator);
        settlement.setPayoutAddress(stranger);
        vm.warp(block.timestamp + DELAY);
        settlement.collect(creator);
        vm.assertEq(coin.balanceOf(stranger), FUNDS - 10_000 + 999, "by the payout address");
        closeBooks();
    }

    function test_MulticallKeepsTheSender() public {
        open(1_000);
        bytes[] memory calls = new bytes[](3);
        calls[0] = abi.encodeCall(settlement.claim, (row(0, line(A, 1_000))));
        calls[1] = abi.encodeCall(settlement.distribute, (A, sharesA));
        calls[2] = abi.encodeCall(settlement.collect, (node));
        vm.prank(node);
        Multicall(address(settlement)).multicall(calls);
        vm.assertEq(coin.balanceOf(node), 600, "node");
        vm.assertEq(coin.balanceOf(creator) + coin.balanceOf(second), 299, "contents, a unit of rounding later");
        closeBooks();
    }
}
