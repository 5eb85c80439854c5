// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {Fixture} from "./Fixture.sol";

/// @notice The attacks of the threat list that touch Settlement, by their numbers, and what nobody may do besides.
contract ThreatsTest is Fixture {
    function test_Threat01_OnlyTheNamedNodeClaims() public {
        open(1_000);
        bytes memory first = row(0, line(A, 1));
        vm.prank(signer);
        vm.assertEq(settlement.claim(first), 0, "the buyer cannot claim its own smallest voucher");
        vm.prank(stranger);
        vm.assertEq(settlement.claim(first), 0, "nor can a stranger");
        vm.assertEq(claim(row(0, line(A, 100))), 100, "the larger one lives");
        closeBooks();
    }

    function test_Threat02_NobodySpendsAnothersAllowanceOrAuthorization() public {
        // payer has a standing allowance; the thief has none of the payer's words.
        address thief = vm.addr(OTHER_KEY);
        bytes memory consent = signed(OTHER_KEY, openDigest(payer, node));
        vm.prank(thief);
        vm.expectRevert();
        settlement.open(thief, node, 100, consent);
        // An authorization for one channel opens no other, and is no top-up.
        bytes32 nonce = settlement.authorizationNonce(settlement.OPEN_KIND(), signer, node, 0);
        bytes memory pays = authorization(PAYER_KEY, 100, nonce);
        vm.prank(thief);
        vm.expectRevert();
        settlement.openWithAuthorization(payer, thief, node, 100, 0, 0, type(uint256).max, pays, consent);
        open(1);
        vm.prank(thief);
        vm.expectRevert();
        settlement.topUpWithAuthorization(payer, signer, node, 100, 0, 0, type(uint256).max, pays);
        settlement.openWithAuthorization(payer, signer, node, 100, 0, 0, type(uint256).max, pays, "");
        vm.assertEq(deposit(), 101, "only as meant");
    }

    function test_Threat04_GarbageSignatureDrainsNobody() public {
        open(1_000);
        // The garbage follows a good row and sits on its end point: a stale recovered signer would be drained.
        bytes memory rows = bytes.concat(row(0, line(A, 100)), packed(0, 0, 100, line(A, 900)));
        vm.assertEq(claim(rows), 100, "the good row alone");
        rows = packed(bytes32(type(uint256).max), bytes32(uint256(1)), 100, line(A, 900));
        refused(rows, ISettlement.RowStatus.BadSignature);
        vm.assertEq(deposit(), 900, "deposit");
        closeBooks();
    }

    function test_Threat04_LinesOfARefusedRowCreditNobody() public {
        open(1_000);
        bytes memory rows = bytes.concat(
            row(0, bytes.concat(line(0, 50), line(A, 500), line(B, 451))), // one unit too much
            row(0, bytes.concat(line(0, 5), line(A, 50), line(9, 1))), // an unknown adapter at the end
            row(0, bytes.concat(line(A, 7), line(B, 3), line(B, 3))), // out of order at the end
            row(0, line(A, 10))
        );
        vm.assertEq(claim(rows), 10, "claimed");
        vm.assertEq(settlement.revenue(A), 10, "A");
        vm.assertEq(settlement.revenue(B), 0, "B");
        vm.assertEq(collectable(node), 6, "node");
        closeBooks();
    }

    function test_Threat06_WhatANodeEarnedBeforeRetirementIsItsOwn() public {
        open(1_000);
        adapters.set(A, trainer, 3_000, 1_000, uint64(START + 2 * DELAY));
        vm.warp(START + 2 * DELAY - 1);
        claim(row(0, line(A, 100)));
        vm.assertEq(collectable(node), 60, "to the last second");
        vm.warp(START + 2 * DELAY);
        claim(row(100, line(A, 100)));
        vm.assertEq(collectable(node), 60, "then nothing");
        vm.assertEq(collectable(trainer), 10, "nor the trainer");
        vm.assertEq(settlement.owed(A), 130, "all to the contents");
        closeBooks();
    }

    function test_Threat07_PermissionNeverMakesARowBad() public {
        open(1_000);
        adapters.setServing(A, node, uint64(START + 2 * DELAY));
        claim(row(0, line(A, 100)));
        vm.assertEq(collectable(node), 60, "while it lasts");
        vm.warp(START + 2 * DELAY);
        claim(row(100, bytes.concat(line(A, 100), line(B, 100))));
        vm.assertEq(collectable(node), 60, "the remainder is not the node's");
        vm.assertEq(collectable(trainer), 10 + 70, "it is the trainer's");
        vm.assertEq(settlement.owed(A), 60, "the contents' part is as ever");
        closeBooks();
    }

    function test_Threat08_CloseSignatureDiesWithTheNextClaimAndTheDeadline() public {
        open(1_000);
        uint64 deadline = uint64(block.timestamp) + 60;
        bytes memory word = signed(NODE_KEY, closeDigest(0, deadline));
        settlement.closeNow(signer, node, 0, deadline, word);
        vm.prank(payer);
        settlement.open(signer, node, 1_000, "");
        claim(row(0, line(A, 10)));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.WrongTotal.selector, 10));
        settlement.closeNow(signer, node, 0, deadline, word);
        closeBooks();
    }

    function test_Threat10_ARunThatFailsMidwayIsPrefixSafe() public {
        open(100);
        bytes memory tail = bytes.concat(row(60, line(A, 60)), row(120, line(A, 10)));
        bytes memory rows = bytes.concat(row(0, line(A, 60)), tail);
        vm.assertEq(claim(rows), 60, "the covered prefix");
        vm.prank(stranger);
        settlement.topUp(signer, node, payer, 30);
        vm.assertEq(claim(tail), 70, "the rest later");
        vm.assertEq(claim(rows), 0, "nothing twice");
        closeBooks();
    }

    function test_Threat11_DonationsHarmNothing() public {
        open(100);
        vm.prank(stranger);
        coin.transfer(address(settlement), 12_345);
        donated = 12_345;
        claim(row(0, line(A, 100)));
        settlement.distribute(A, sharesA);
        settlement.collect(node);
        settlement.collect(trainer);
        closeBooks();
    }

    function test_Threat12_PaymentFollowsTheOwner() public {
        vm.prank(stranger);
        settlement.pay(A, node, 10_000);
        vm.prank(creator);
        works.transferFrom(creator, other, 1);
        settlement.distribute(A, sharesA);
        vm.assertEq(coin.balanceOf(other), 999, "the owner at distribution");
        vm.assertEq(coin.balanceOf(creator), 0, "not the one before");
        closeBooks();
    }

    function test_Threat13_AZeroSumVoucherCannotBeClaimed() public {
        open(100);
        refused(row(0, line(A, 0)), ISettlement.RowStatus.ZeroAmount);
        refused(row(0, bytes.concat(line(0, 0), line(A, 1))), ISettlement.RowStatus.ZeroAmount);
        refused(row(0, ""), ISettlement.RowStatus.NoLines);
        closeBooks();
    }

    function test_Threat13_AnEmptyLineIsRefusedWhereAnEarlierRowNamedItsAdapter() public {
        open(100);
        bytes memory first = row(0, bytes.concat(line(0, 3), line(A, 5)));
        bytes[3] memory empty = [line(0, 0), line(A, 0), bytes.concat(line(0, 1), line(A, 0), line(B, 1))];
        for (uint256 i; i < empty.length; ++i) {
            ISettlement.RowStatus[] memory seen = preview(bytes.concat(first, row(8, empty[i])));
            vm.assertEq(uint256(seen[0]), uint256(ISettlement.RowStatus.Good), "the first row");
            vm.assertEq(uint256(seen[1]), uint256(ISettlement.RowStatus.ZeroAmount), "the empty line");
        }
        vm.assertEq(claim(bytes.concat(first, row(8, empty[2]))), 8, "the first row alone");
        vm.assertEq(deposit(), 92, "deposit");
        closeBooks();
    }

    function test_Threat14_ReopeningStartsWithoutACloseAndTopUpChangesNone() public {
        open(100);
        vm.prank(payer);
        settlement.requestClose(signer, node);
        (,,, uint64 closeAt) = settlement.channel(signer, node);
        vm.prank(stranger);
        settlement.topUp(signer, node, payer, 1);
        (,,, uint64 after_) = settlement.channel(signer, node);
        vm.assertEq(closeAt, after_, "a top-up changes nothing");
        vm.warp(closeAt);
        vm.assertEq(claim(row(0, line(A, 1))), 1, "claims are valid until the withdrawal");
        settlement.withdraw(signer, node);
        vm.prank(payer);
        settlement.open(signer, node, 100, "");
        (,,, closeAt) = settlement.channel(signer, node);
        vm.assertEq(closeAt, 0, "reopened without a close");
        vm.expectRevert(ISettlement.NotClosing.selector);
        settlement.withdraw(signer, node);
        closeBooks();
    }

    function test_Threat18_SaltsAllowManyDepositsAndEachOnce() public {
        open(1);
        for (uint256 i; i < 3; ++i) {
            bytes32 nonce = settlement.authorizationNonce(settlement.TOP_UP_KIND(), signer, node, bytes32(i));
            bytes memory pays = authorization(PAYER_KEY, 10, nonce);
            settlement.topUpWithAuthorization(payer, signer, node, 10, bytes32(i), 0, type(uint256).max, pays);
            vm.expectRevert();
            settlement.topUpWithAuthorization(payer, signer, node, 10, bytes32(i), 0, type(uint256).max, pays);
        }
        vm.assertEq(deposit(), 31, "three");
        closeBooks();
    }

    function test_Threat24_OneUnitAboveTheDepositIsWorthNothing() public {
        open(100);
        refused(row(0, line(A, 101)), ISettlement.RowStatus.InsufficientDeposit);
        vm.assertEq(claim(row(0, line(A, 100))), 100, "the whole deposit");
        closeBooks();
    }

    function test_Threat25_TinyClaimsLoseNoRoyalty() public {
        open(100);
        for (uint256 i; i < 100; ++i) {
            claim(row(i, line(A, 1)));
        }
        vm.assertEq(settlement.owed(A), 30, "contents");
        vm.assertEq(collectable(trainer), 10, "trainer");
        vm.assertEq(collectable(node), 60, "node");
        closeBooks();
    }

    function test_Threat35_ABuyerWithoutGasCanAlwaysLeave() public {
        open(100);
        uint64 deadline = uint64(block.timestamp) + 60;
        bytes memory forged = signed(OTHER_KEY, requestDigest(deadline));
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.requestCloseFor(signer, node, deadline, forged);
        bytes memory asked = signed(PAYER_KEY, requestDigest(deadline));
        vm.prank(stranger);
        settlement.requestCloseFor(signer, node, deadline, asked);
        vm.warp(block.timestamp + DELAY);
        vm.prank(stranger);
        settlement.withdraw(signer, node);
        vm.assertEq(coin.balanceOf(payer), FUNDS, "back");
        closeBooks();
    }

    function test_Threat35_ARequestIsUsedOnce() public {
        open(100);
        uint64 deadline = uint64(block.timestamp) + 30 days;
        bytes memory asked = signed(PAYER_KEY, requestDigest(deadline));
        settlement.requestCloseFor(signer, node, deadline, asked);
        vm.warp(block.timestamp + DELAY);
        settlement.withdraw(signer, node);
        vm.prank(payer);
        settlement.open(signer, node, 100, "");
        vm.expectRevert(abi.encodeWithSelector(ISettlement.SignatureUsed.selector, deadline));
        settlement.requestCloseFor(signer, node, deadline, asked);
        asked = signed(PAYER_KEY, requestDigest(deadline + 1));
        vm.warp(deadline + 2);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.DeadlinePassed.selector, deadline + 1));
        settlement.requestCloseFor(signer, node, deadline + 1, asked);
        closeBooks();
    }

    function test_Threat40_ThePayerNeverChanges() public {
        open(100);
        leave();
        bytes memory consent = signed(SIGNER_KEY, openDigest(stranger, node));
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.WrongPayer.selector, payer));
        settlement.open(signer, node, 100, consent);
        closeBooks();
    }

    function test_UnclaimedVouchersSurviveAReopening() public {
        open(100);
        bytes memory debt = row(0, line(A, 80));
        leave();
        refused(debt, ISettlement.RowStatus.NoChannel);
        vm.prank(payer);
        settlement.open(signer, node, 100, "");
        vm.assertEq(claim(debt), 80, "a debt");
        refused(debt, ISettlement.RowStatus.WrongBase);
        closeBooks();
    }

    function test_NoForkChargesMoreThanTheLargestEndPoint() public {
        open(1_000);
        bytes[5] memory signedRows = [
            row(0, line(A, 10)),
            row(0, line(A, 30)),
            row(10, bytes.concat(line(A, 20), line(B, 5))),
            row(30, line(B, 5)),
            row(35, line(A, 1))
        ];
        for (uint256 round; round < 3; ++round) {
            for (uint256 i; i < 5; ++i) {
                claim(signedRows[(i * 3 + round) % 5]);
            }
        }
        vm.assertTrue(total() <= 36, "the largest settled + sum ever signed");
        closeBooks();
    }

    function test_AVoucherOfAnotherChainOrContractIsWorthless() public {
        open(100);
        uint256 here = block.chainid;
        vm.chainId(here + 1);
        bytes memory elsewhere = row(0, line(A, 1));
        vm.chainId(here);
        refused(elsewhere, ISettlement.RowStatus.NoChannel);
        ISettlement real = settlement;
        settlement = _deploy();
        elsewhere = row(0, line(A, 1));
        settlement = real;
        refused(elsewhere, ISettlement.RowStatus.NoChannel);
        closeBooks();
    }

    function test_AHighSIsRefused() public {
        open(100);
        bytes memory lines = line(A, 1);
        // s and n - s sign alike; where n - s still fits 255 bits it would pass for a second form.
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(SIGNER_KEY, voucherDigest(node, 0, keccak256(lines), HEAD));
        uint256 n = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        uint256 high = n - uint256(s);
        bytes32 vs = bytes32((high & (type(uint256).max >> 1)) | uint256(28 - v) << 255);
        bytes memory bad = packed(r, vs, 0, lines);
        vm.assertEq(claim(bad), 0, "not claimed");
        bytes memory consent = abi.encodePacked(r, bytes32(high), v == 27 ? 28 : 27);
        vm.prank(stranger);
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.open(signer, stranger, 1, consent);
        vm.assertEq(claim(row(0, lines)), 1, "the low one is");
    }
}
