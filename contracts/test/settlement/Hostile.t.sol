// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {BoundedTransfer} from "../../libraries/BoundedTransfer.sol";
import {Fixture} from "./Fixture.sol";

/// @notice Tokens and recipients that misbehave: they harm themselves, delay nobody and take nothing.
contract HostileTest is Fixture {
    uint256 private constant TRANSACTION_CAP = 1 << 24;
    uint32 private constant WIDE = 3;

    uint256[] private wide;

    /// @dev An adapter of 128 works of 128 owners, the first `bad` of them bad, with revenue to distribute.
    function widen(uint256 bad, bool burning) private {
        for (uint256 i; i < 128; ++i) {
            address owner = address(uint160(0x10000 + i));
            works.mint(owner, 100 + i);
            wide.push((100 + i) << 16 | (i < 16 ? 79 : 78));
            if (i >= bad) continue;
            if (burning) coin.setBurns(owner, true);
            else coin.setBlacklisted(owner, true);
        }
        adapters.set(WIDE, trainer, 10_000, 0, NEVER);
        adapters.setShares(WIDE, wide);
        vm.prank(stranger);
        settlement.pay(WIDE, node, 1e12);
    }

    function test_Threat30_128BurningTransfersFitOneTransaction() public {
        widen(128, true);
        uint256 before = gasleft();
        settlement.distribute{gas: TRANSACTION_CAP - 100_000}(WIDE, wide);
        vm.assertTrue(before - gasleft() < TRANSACTION_CAP - 100_000, "fits");
        vm.assertTrue(before - gasleft() > 128 * BoundedTransfer.STIPEND, "they did burn");
        vm.assertEq(collectable(address(uint160(0x10000 + 127))), 1e12 * uint256(78) / 10_000, "credited");
        vm.assertEq(settlement.owed(WIDE), 0, "divided");
    }

    function test_Threat30_128FailingTransfersFitOneTransaction() public {
        widen(128, false);
        settlement.distribute{gas: TRANSACTION_CAP - 100_000}(WIDE, wide);
        vm.assertEq(collectable(address(uint160(0x10000))), 1e12 * uint256(79) / 10_000, "credited");
    }

    function test_Threat30_OneBadOwnerDelaysNobody() public {
        widen(1, true);
        settlement.distribute(WIDE, wide);
        for (uint256 i = 1; i < 128; ++i) {
            uint256 due = 1e12 * (wide[i] & 0xffff) / 10_000;
            vm.assertEq(coin.balanceOf(address(uint160(0x10000 + i))), due, "paid");
        }
    }

    function testFuzz_Threat30_LittleGasForcesNoFallback(uint256 gas_) public {
        vm.prank(stranger);
        settlement.pay(A, node, 1e12);
        uint256 limit = 30_000 + gas_ % 400_000;
        try settlement.distribute{gas: limit}(A, sharesA) {
            vm.assertEq(collectable(creator) + collectable(second), 0, "never credited");
            vm.assertTrue(coin.balanceOf(creator) != 0, "paid");
        } catch {
            vm.assertEq(settlement.owed(A), 3e11, "nothing happened");
            vm.getRecordedLogs();
            return;
        }
    }

    function test_Threat30_NotEnoughGasIsNamed() public {
        vm.prank(stranger);
        settlement.pay(A, node, 1e12);
        vm.expectRevert(BoundedTransfer.NotEnoughGas.selector);
        settlement.distribute{gas: 85_000}(A, sharesA);
    }

    /// Every function that moves money, called by the token in the midst of a pull, a push and a distribution. Each call
    /// would go through otherwise: what stops it is the lock.
    function test_Threat41_AReentrantTokenFindsEveryDoorLocked() public {
        open(1_000);
        openAs(payer, OTHER_KEY, node, 1_000);
        claim(row(0, line(A, 100)));
        vm.prank(stranger);
        settlement.pay(A, node, 1_000);
        coin.mintAny(address(coin), 1_000);
        vm.prank(address(coin));
        coin.approve(address(settlement), type(uint256).max);
        vm.prank(payer);
        settlement.requestClose(signer, node);
        vm.warp(block.timestamp + DELAY);
        bytes[] memory doors = everyDoor();
        for (uint256 i; i < doors.length; ++i) {
            uint256 state = vm.snapshotState();
            vm.prank(address(coin));
            (bool opens,) = address(settlement).call(doors[i]);
            vm.assertTrue(opens, "a door that opens by itself");
            vm.revertToState(state);

            coin.setReentry(address(settlement), doors[i]);
            vm.prank(stranger);
            settlement.topUp(signer, node, payer, 10);
            vm.assertTrue(!coin.reentered(), "a pull");
            vm.prank(stranger);
            settlement.pay(0, node, 1);
            settlement.collect(node);
            vm.assertTrue(!coin.reentered(), "a push");
            vm.prank(stranger);
            settlement.pay(A, node, 1_000);
            settlement.distribute(A, sharesA);
            vm.assertTrue(!coin.reentered(), "a distribution");
        }
        vm.assertEq(deposit(), 900 + 10 * doors.length, "each pull counted once");
        coin.setReentry(address(0), "");
    }

    function everyDoor() private view returns (bytes[] memory doors) {
        uint64 deadline = uint64(block.timestamp) + 60;
        uint256 late = type(uint256).max;
        doors = new bytes[](11);
        bytes memory consent = signed(0x53, openDigest(address(coin), node));
        doors[0] = abi.encodeCall(settlement.open, (vm.addr(0x53), node, 5, consent));
        doors[1] = abi.encodeCall(settlement.topUp, (signer, node, payer, 5));
        doors[2] = abi.encodeCall(settlement.claim, (row(100, line(A, 100))));
        doors[3] = abi.encodeCall(settlement.pay, (A, node, 5));
        doors[4] = abi.encodeCall(settlement.distribute, (A, sharesA));
        doors[5] = abi.encodeCall(settlement.collect, (trainer));
        doors[6] = abi.encodeCall(settlement.withdraw, (signer, node));
        bytes memory word = signed(NODE_KEY, closeDigest(100, deadline));
        doors[7] = abi.encodeCall(settlement.closeNow, (signer, node, 100, deadline, word));
        bytes memory asked = signed(PAYER_KEY, settlement.hashRequestClose(other, node, deadline));
        doors[8] = abi.encodeCall(settlement.requestCloseFor, (other, node, deadline, asked));
        bytes32 nonce = settlement.authorizationNonce(settlement.OPEN_KIND(), signer, node, "door");
        bytes memory pays = authorization(PAYER_KEY, 5, nonce);
        doors[9] = abi.encodeCall(settlement.openWithAuthorization, (payer, signer, node, 5, "door", 0, late, pays, ""));
        nonce = settlement.authorizationNonce(settlement.TOP_UP_KIND(), signer, node, "door");
        pays = authorization(PAYER_KEY, 5, nonce);
        doors[10] = abi.encodeCall(settlement.topUpWithAuthorization, (payer, signer, node, 5, "door", 0, late, pays));
    }

    function test_TokenThatReturnsFalseGivesNobodyAnything() public {
        open(100);
        vm.prank(stranger);
        settlement.pay(A, node, 1_000);
        readLogs();
        coin.setRefuses(true);
        vm.prank(payer);
        vm.expectRevert();
        settlement.topUp(signer, node, payer, 100);
        vm.expectRevert();
        settlement.collect(node);
        vm.getRecordedLogs();
        settlement.distribute(A, sharesA);
        vm.assertEq(collectable(creator), 99, "credited");
        coin.setRefuses(false);
        settlement.collect(creator);
        vm.assertEq(coin.balanceOf(creator), 99, "collected later");
        closeBooks();
    }

    function test_FeeOnTransferCountsWhatArrived() public {
        coin.setFee(100);
        open(10_000);
        vm.assertEq(deposit(), 9_900, "what arrived");
        vm.prank(stranger);
        settlement.pay(A, node, 10_000);
        vm.assertEq(settlement.revenue(A), 9_900, "what arrived");
        refused(row(0, line(A, 9_901)), ISettlement.RowStatus.InsufficientDeposit);
        claim(row(0, line(A, 9_900)));
        settlement.collect(node);
        settlement.collect(trainer);
        settlement.distribute(A, sharesA);
        closeBooks();
    }

    function test_AnOwnerThatIsSettlementItselfLosesOnlyItsOwn() public {
        vm.prank(creator);
        works.transferFrom(creator, address(settlement), 1);
        vm.prank(stranger);
        settlement.pay(A, node, 10_000);
        settlement.distribute(A, sharesA);
        donated = 999;
        vm.assertEq(coin.balanceOf(second), 2_000, "the other is paid");
        closeBooks();
    }
}
