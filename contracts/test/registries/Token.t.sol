// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {TestUSD} from "../../dev/TestUSD.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {Fixture, Wallet} from "./Fixture.sol";

/// @notice The test dollar's doors: the faucet, and ERC-3009 in both forms.
contract TokenTest is Fixture {
    uint256 private constant MAX = type(uint256).max;

    function digest(string memory kind, address from, address to, uint256 value, uint256 after_, uint256 before)
        private
        view
        returns (bytes32)
    {
        bytes memory typed = bytes.concat(
            bytes(kind),
            "WithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        );
        return usdDigest(keccak256(abi.encode(keccak256(typed), from, to, value, after_, before, bytes32("n"))));
    }

    function transfer(address from, uint256 after_, uint256 before, bytes memory signature) private {
        usd.transferWithAuthorization(from, stranger, 5, after_, before, "n", signature);
    }

    function test_mint_is_open_and_bounded() public {
        vm.assertEq(usd.decimals(), 6, "decimals");
        vm.assertEq(usd.symbol(), "vUSD", "symbol");
        vm.prank(stranger);
        usd.mint(node, 1_000_000e6);
        vm.assertEq(usd.balanceOf(node), 1_000_000e6, "minted");
        vm.expectRevert(abi.encodeWithSelector(TestUSD.MintTooLarge.selector, 1_000_000e6 + 1));
        usd.mint(node, 1_000_000e6 + 1);
    }

    /// Bytes form: moves once, for whoever submits it, and only what was signed.
    function test_transferWithAuthorization_bytes() public {
        bytes memory signature = signed(TRAINER_KEY, digest("Transfer", trainer, stranger, 5, 0, MAX));
        bytes4 invalid = ERC3009.ERC3009InvalidSignature.selector;
        vm.expectRevert(invalid);
        usd.transferWithAuthorization(trainer, node, 5, 0, MAX, "n", signature);
        vm.expectRevert(invalid);
        usd.transferWithAuthorization(trainer, stranger, 6, 0, MAX, "n", signature);
        vm.expectRevert(invalid);
        usd.transferWithAuthorization(creator, stranger, 5, 0, MAX, "n", signature);
        transfer(trainer, 0, MAX, signature);
        vm.assertEq(usd.balanceOf(stranger), 5, "moved");
        vm.assertTrue(usd.authorizationState(trainer, "n"), "used");
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, trainer, bytes32("n")));
        transfer(trainer, 0, MAX, signature);
    }

    /// The form with v, r, s accepts the same signature.
    function test_transferWithAuthorization_vrs() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(TRAINER_KEY, digest("Transfer", trainer, stranger, 5, 0, MAX));
        usd.transferWithAuthorization(trainer, stranger, 5, 0, MAX, "n", v, r, s);
        vm.assertEq(usd.balanceOf(stranger), 5, "moved");
    }

    /// Valid strictly after and strictly before, as ERC-3009 says.
    function test_transferWithAuthorization_times() public {
        bytes memory signature = signed(TRAINER_KEY, digest("Transfer", trainer, stranger, 5, START, START + 10));
        bytes memory why = abi.encodeWithSelector(ERC3009.ERC3009InvalidAuthorizationTime.selector, START, START + 10);
        vm.expectRevert(why);
        transfer(trainer, START, START + 10, signature);
        until(START + 10);
        vm.expectRevert(why);
        transfer(trainer, START, START + 10, signature);
        until(START + 9);
        transfer(trainer, START, START + 10, signature);
        vm.assertEq(usd.balanceOf(stranger), 5, "moved");
    }

    /// Only the payee itself receives, and a transfer's signature is not a receipt's.
    function test_receiveWithAuthorization_by_the_payee_only() public {
        bytes memory signature = signed(TRAINER_KEY, digest("Receive", trainer, stranger, 5, 0, MAX));
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, stranger));
        usd.receiveWithAuthorization(trainer, stranger, 5, 0, MAX, "n", signature);
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        transfer(trainer, 0, MAX, signature);
        vm.prank(stranger);
        usd.receiveWithAuthorization(trainer, stranger, 5, 0, MAX, "n", signature);
        vm.assertEq(usd.balanceOf(stranger), 5, "moved");
    }

    /// A cancelled authorisation moves nothing.
    function test_cancelAuthorization_bytes() public {
        bytes32 structHash = keccak256(
            abi.encode(keccak256("CancelAuthorization(address authorizer,bytes32 nonce)"), trainer, bytes32("n"))
        );
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        usd.cancelAuthorization(trainer, "n", signed(STRANGER_KEY, usdDigest(structHash)));
        usd.cancelAuthorization(trainer, "n", signed(TRAINER_KEY, usdDigest(structHash)));
        bytes memory signature = signed(TRAINER_KEY, digest("Transfer", trainer, stranger, 5, 0, MAX));
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, trainer, bytes32("n")));
        transfer(trainer, 0, MAX, signature);
    }

    /// A contract wallet's signature moves its tokens.
    function test_transferWithAuthorization_by_a_contract_wallet() public {
        address wallet = address(new Wallet(trainer));
        usd.mint(wallet, 5);
        transfer(wallet, 0, MAX, signed(TRAINER_KEY, digest("Transfer", wallet, stranger, 5, 0, MAX)));
        vm.assertEq(usd.balanceOf(stranger), 5, "moved");
    }
}
