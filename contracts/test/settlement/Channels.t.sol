// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {Wallet} from "./Doubles.sol";
import {Fixture} from "./Fixture.sol";

/// @notice Opening, topping up, and the three ways to leave.
contract ChannelsTest is Fixture {
    function test_OpenNeedsTheSignersConsentOnce() public {
        vm.prank(payer);
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.open(signer, node, 100, "");
        bytes memory forOther = signed(SIGNER_KEY, openDigest(stranger, node));
        vm.prank(payer);
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.open(signer, node, 100, forOther);
        open(100);
        vm.prank(payer);
        settlement.open(signer, node, 50, "");
        vm.assertEq(deposit(), 150, "deposit");
        closeBooks();
    }

    function test_WalletMayBeItsOwnSigner() public {
        vm.prank(payer);
        settlement.open(payer, node, 100, "");
        (address owner, uint96 left,,) = settlement.channel(payer, node);
        vm.assertEq(owner, payer, "payer");
        vm.assertEq(left, 100, "deposit");
        closeBooks();
    }

    function test_OpenAndTopUpByAuthorizationNeedNoGas() public {
        bytes32 salt = "first";
        bytes32 nonce = keccak256(abi.encode(keccak256("Viz.OpenChannel"), signer, node, salt));
        bytes memory consent = signed(SIGNER_KEY, openDigest(payer, node));
        bytes memory pays = authorization(PAYER_KEY, 100, nonce);
        vm.prank(stranger);
        settlement.openWithAuthorization(payer, signer, node, 100, salt, 0, type(uint256).max, pays, consent);
        nonce = keccak256(abi.encode(keccak256("Viz.TopUp"), signer, node, salt));
        pays = authorization(PAYER_KEY, 11, nonce);
        vm.prank(stranger);
        settlement.topUpWithAuthorization(payer, signer, node, 11, salt, 0, type(uint256).max, pays);
        (address owner, uint96 left,,) = settlement.channel(signer, node);
        vm.assertEq(owner, payer, "payer");
        vm.assertEq(left, 111, "deposit");
        closeBooks();
    }

    function test_ContractWalletPaysAndLeavesBySignature() public {
        address wallet = address(new Wallet(payer));
        coin.mintAny(wallet, 100);
        bytes32 nonce = settlement.authorizationNonce(settlement.OPEN_KIND(), signer, node, 0);
        bytes32 kind = keccak256(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        );
        bytes32 structHash =
            keccak256(abi.encode(kind, wallet, address(settlement), 100, uint256(0), type(uint256).max, nonce));
        bytes memory pays = signed(
            PAYER_KEY, keccak256(abi.encodePacked(hex"1901", domain("Viz Test USD", address(coin)), structHash))
        );
        bytes memory consent = signed(SIGNER_KEY, openDigest(wallet, node));
        settlement.openWithAuthorization(wallet, signer, node, 100, 0, 0, type(uint256).max, pays, consent);
        uint64 deadline = uint64(block.timestamp) + 60;
        settlement.requestCloseFor(signer, node, deadline, signed(PAYER_KEY, requestDigest(deadline)));
        vm.warp(block.timestamp + DELAY);
        settlement.withdraw(signer, node);
        vm.assertEq(coin.balanceOf(wallet), 100, "back in the wallet");
        closeBooks();
    }

    function test_TopUpByAnyoneBelongsToThePayer() public {
        vm.prank(stranger);
        vm.expectRevert(ISettlement.NoChannel.selector);
        settlement.topUp(signer, node, payer, 5);
        open(100);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.WrongPayer.selector, payer));
        settlement.topUp(signer, node, stranger, 5);
        vm.prank(stranger);
        settlement.topUp(signer, node, payer, 5);
        leave();
        vm.assertEq(coin.balanceOf(payer), FUNDS + 5, "all to the payer");
        closeBooks();
    }

    function test_ZeroAddressesAndZeroAmountsAreRefused() public {
        vm.prank(payer);
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        settlement.open(address(0), node, 1, "");
        vm.prank(payer);
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        settlement.open(payer, address(0), 1, "");
        vm.prank(payer);
        vm.expectRevert(ISettlement.ZeroAmount.selector);
        settlement.open(payer, node, 0, "");
        closeBooks();
    }

    function test_DepositsNeverExceed96Bits() public {
        coin.mintAny(payer, type(uint128).max);
        vm.prank(payer);
        vm.expectRevert(ISettlement.AmountTooLarge.selector);
        settlement.open(payer, node, uint256(type(uint96).max) + 1, "");
        vm.prank(payer);
        settlement.open(payer, node, type(uint96).max, "");
        vm.prank(payer);
        vm.expectRevert(ISettlement.AmountTooLarge.selector);
        settlement.topUp(payer, node, payer, 1);
        closeBooks();
    }

    function test_WithdrawOnlyAfterTheDelay() public {
        open(100);
        vm.expectRevert(ISettlement.NotClosing.selector);
        settlement.withdraw(signer, node);
        vm.prank(stranger);
        vm.expectRevert(ISettlement.NotPayer.selector);
        settlement.requestClose(signer, node);
        vm.prank(payer);
        settlement.requestClose(signer, node);
        uint64 closeAt = uint64(START + DELAY);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.AlreadyClosing.selector, closeAt));
        settlement.requestClose(signer, node);
        vm.warp(closeAt - 1);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.TooEarly.selector, closeAt));
        settlement.withdraw(signer, node);
        vm.warp(closeAt);
        vm.prank(stranger);
        settlement.withdraw(signer, node);
        vm.assertEq(coin.balanceOf(payer), FUNDS, "back");
        closeBooks();
    }

    function test_CloseNowNeedsTheNodesWordOnTheFinalTotal() public {
        open(100);
        claim(row(0, line(0, 40)));
        uint64 deadline = uint64(block.timestamp) + 60;
        bytes memory early = signed(NODE_KEY, closeDigest(0, deadline));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.WrongTotal.selector, 40));
        settlement.closeNow(signer, node, 0, deadline, early);
        bytes memory forged = signed(PAYER_KEY, closeDigest(40, deadline));
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.closeNow(signer, node, 40, deadline, forged);
        bytes memory word = signed(NODE_KEY, closeDigest(40, deadline));
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.closeNow(signer, node, 40, deadline + 1, word);
        vm.warp(deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.DeadlinePassed.selector, deadline));
        settlement.closeNow(signer, node, 40, deadline, word);
        vm.warp(deadline);
        settlement.closeNow(signer, node, 40, deadline, word);
        vm.assertEq(coin.balanceOf(payer), FUNDS - 40, "the rest is back");
        closeBooks();
    }

    function test_RefundThatFailsRevertsAndKeepsTheDeposit() public {
        open(100);
        vm.prank(payer);
        settlement.requestClose(signer, node);
        vm.warp(block.timestamp + DELAY);
        coin.setRefuses(true);
        readLogs();
        vm.expectRevert();
        settlement.withdraw(signer, node);
        vm.getRecordedLogs(); // the ones that were reverted
        vm.assertEq(deposit(), 100, "kept");
        closeBooks();
    }

    function test_DigestsMatchTheHandWrittenOnes() public view {
        ISettlement.UsageLine[] memory lines = new ISettlement.UsageLine[](2);
        lines[0] = ISettlement.UsageLine(1, 5);
        lines[1] = ISettlement.UsageLine(7, type(uint96).max);
        bytes32 usage = keccak256(bytes.concat(line(1, 5), line(7, type(uint96).max)));
        vm.assertEq(settlement.hashUsage(lines), usage, "usage");
        vm.assertEq(settlement.hashVoucher(node, 9, usage, HEAD), voucherDigest(node, 9, usage, HEAD), "voucher");
        vm.assertEq(settlement.hashOpenChannel(payer, node), openDigest(payer, node), "open");
        vm.assertEq(settlement.hashRequestClose(signer, node, 3), requestDigest(3), "request");
        vm.assertEq(settlement.hashClose(signer, node, 9, 3), closeDigest(9, 3), "close");
        vm.assertEq(settlement.domainSeparator(), domain("Viz Settlement", address(settlement)), "domain");
        vm.assertEq(settlement.channelId(signer, node), keccak256(abi.encode(signer, node)), "channel");
        vm.assertEq(settlement.REVENUE_MODULUS() % 10_000, 0, "modulus");
        vm.assertTrue(settlement.REVENUE_MODULUS() <= uint256(1) << 96, "modulus fits");
    }
}
