// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {Cheats} from "../Cheats.sol";
import {Adapters, Coin, Works} from "./Doubles.sol";

/// @notice One settlement, a few people, the EIP-712 digests written down a second time by hand, and the books rebuilt
/// from logs alone.
abstract contract Fixture {
    Cheats internal constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint64 internal constant DELAY = 1 days;
    uint64 internal constant NEVER = type(uint64).max;
    uint256 internal constant START = 1_700_000_000;
    uint256 internal constant FUNDS = 1e24;
    bytes32 internal constant HEAD = keccak256("receipts");

    uint256 internal constant PAYER_KEY = 0xBEEF;
    uint256 internal constant SIGNER_KEY = 0x51;
    uint256 internal constant OTHER_KEY = 0x52;
    uint256 internal constant NODE_KEY = 0xA0DE;
    address internal payer = vm.addr(PAYER_KEY);
    address internal signer = vm.addr(SIGNER_KEY);
    address internal other = vm.addr(OTHER_KEY);
    address internal node = vm.addr(NODE_KEY);
    address internal trainer = address(0x7A);
    address internal creator = address(0xC1);
    address internal second = address(0xC2);
    address internal stranger = address(0x57);

    /// Adapter 1: contents 30 %, trainer 10 %, node 60 %; two works, one a third. Adapter 2: all to one work.
    uint32 internal constant A = 1;
    uint32 internal constant B = 2;

    Coin internal coin;
    Works internal works;
    Adapters internal adapters;
    ISettlement internal settlement;

    /// The storage slots of the mappings.
    uint256 internal constant CHANNELS = 2;
    uint256 internal constant REVENUES = 3;

    uint256[] internal sharesA;
    uint256[] internal sharesB;

    function setUp() public virtual {
        vm.warp(START);
        coin = new Coin();
        works = new Works();
        adapters = new Adapters();
        settlement = _deploy();
        works.mint(creator, 1);
        works.mint(second, 2);
        sharesA = [uint256(1) << 16 | 3_333, uint256(2) << 16 | 6_667];
        sharesB = [uint256(2) << 16 | 10_000];
        adapters.set(A, trainer, 3_000, 1_000, NEVER);
        adapters.setShares(A, sharesA);
        adapters.setServing(A, node, NEVER);
        adapters.set(B, trainer, 10_000, 0, NEVER);
        adapters.setShares(B, sharesB);
        adapters.setServing(B, node, NEVER);
        fund(payer);
        fund(stranger);
        vm.recordLogs();
    }

    /// @dev By artifact, so that the tests run the very bytecode that ships, whatever they are compiled with.
    function _deploy() internal returns (ISettlement) {
        return ISettlement(vm.deployCode("Settlement.sol:Settlement", abi.encode(coin, works, adapters)));
    }

    // People's moves

    function fund(address who) internal {
        coin.mintAny(who, FUNDS);
        vm.prank(who);
        coin.approve(address(settlement), type(uint256).max);
    }

    function open(uint256 amount) internal {
        openAs(payer, SIGNER_KEY, node, amount);
    }

    function openAs(address by, uint256 key, address at, uint256 amount) internal {
        bytes memory consent = signed(key, openDigest(by, at));
        vm.prank(by);
        settlement.open(vm.addr(key), at, amount, consent);
    }

    function claim(bytes memory rows) internal returns (uint256) {
        vm.prank(node);
        return settlement.claim(rows);
    }

    function deposit() internal view returns (uint256 amount) {
        (, amount,,) = settlement.channel(signer, node);
    }

    function total() internal view returns (uint256 amount) {
        (,, amount,) = settlement.channel(signer, node);
    }

    function collectable(address account) internal view returns (uint256 amount) {
        (amount,) = settlement.balance(account);
    }

    function leave() internal {
        vm.prank(payer);
        settlement.requestClose(signer, node);
        vm.warp(block.timestamp + DELAY);
        settlement.withdraw(signer, node);
    }

    // Rows

    function line(uint32 adapterId, uint256 amount) internal pure returns (bytes memory) {
        return abi.encodePacked(adapterId, uint96(amount));
    }

    function row(uint256 settled, bytes memory lines) internal view returns (bytes memory) {
        return rowBy(SIGNER_KEY, node, settled, lines);
    }

    function rowBy(uint256 key, address at, uint256 settled, bytes memory lines) internal view returns (bytes memory) {
        (bytes32 r, bytes32 vs) = compact(key, voucherDigest(at, uint96(settled), keccak256(lines), HEAD));
        return packed(r, vs, settled, lines);
    }

    function packed(bytes32 r, bytes32 vs, uint256 settled, bytes memory lines) internal pure returns (bytes memory) {
        return abi.encodePacked(r, vs, uint96(settled), HEAD, uint8(lines.length / 16), lines);
    }

    function preview(bytes memory rows) internal view returns (ISettlement.RowStatus[] memory) {
        return settlement.previewClaim(node, rows);
    }

    /// @dev Both the preview and the claim give row 0 this status, and nothing moves.
    function refused(bytes memory rows, ISettlement.RowStatus status) internal {
        vm.assertEq(uint256(preview(rows)[0]), uint256(status), "preview");
        (uint256 had, uint256 was) = (deposit(), total());
        readLogs();
        vm.assertEq(claim(rows), 0, "claimed");
        Cheats.Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 1, "one event");
        vm.assertEq(logs[0].topics[0], ISettlement.RowRefused.selector, "refused");
        (, uint256 seen) = abi.decode(logs[0].data, (uint256, uint256));
        vm.assertEq(seen, uint256(status), "status");
        vm.assertEq(deposit(), had, "deposit kept");
        vm.assertEq(total(), was, "total kept");
    }

    // Signatures

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function compact(uint256 key, bytes32 digest) internal pure returns (bytes32 r, bytes32 vs) {
        uint8 v;
        (v, r, vs) = vm.sign(key, digest);
        vs = bytes32(uint256(vs) | uint256(v - 27) << 255);
    }

    function domain(string memory name, address at) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256("1"),
                block.chainid,
                at
            )
        );
    }

    function typed(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain("Viz Settlement", address(settlement)), structHash));
    }

    function voucherDigest(address at, uint96 settled, bytes32 usageHash, bytes32 head)
        internal
        view
        returns (bytes32)
    {
        bytes32 kind = keccak256("Voucher(address node,uint96 settled,bytes32 usageHash,bytes32 receiptsHead)");
        return typed(keccak256(abi.encode(kind, at, settled, usageHash, head)));
    }

    function openDigest(address by, address at) internal view returns (bytes32) {
        return typed(keccak256(abi.encode(keccak256("OpenChannel(address payer,address node)"), by, at)));
    }

    function requestDigest(uint64 deadline) internal view returns (bytes32) {
        bytes32 kind = keccak256("RequestClose(address signer,address node,uint64 deadline)");
        return typed(keccak256(abi.encode(kind, signer, node, deadline)));
    }

    function closeDigest(uint96 settled, uint64 deadline) internal view returns (bytes32) {
        bytes32 kind = keccak256("Close(address signer,address node,uint96 settled,uint64 deadline)");
        return typed(keccak256(abi.encode(kind, signer, node, settled, deadline)));
    }

    function authorization(uint256 key, uint256 amount, bytes32 nonce) internal view returns (bytes memory) {
        bytes32 kind = keccak256(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        );
        bytes32 structHash = keccak256(
            abi.encode(kind, vm.addr(key), address(settlement), amount, uint256(0), type(uint256).max, nonce)
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain("Viz Test USD", address(coin)), structHash));
        return signed(key, digest);
    }

    // The books, from logs alone

    uint256 internal logDeposits;
    uint256 internal logRoyalties;
    uint256 internal logBalances;
    uint256 internal donated;
    mapping(bytes32 => uint256) internal logDeposit;
    mapping(bytes32 => uint256) internal logSettled;
    mapping(address => uint256) internal logBalance;
    mapping(uint32 => uint256) internal logOwed;

    /// @dev Every test ends here: the accounting sentence, with equality but for what was donated.
    function closeBooks() internal {
        readLogs();
        vm.assertEq(
            coin.balanceOf(address(settlement)),
            logDeposits + logRoyalties + logBalances + donated,
            "the accounting sentence"
        );
        (, uint96 left, uint96 settled,) = settlement.channel(signer, node);
        bytes32 id = settlement.channelId(signer, node);
        vm.assertEq(left, logDeposit[id], "deposit from logs");
        vm.assertEq(settled, logSettled[id], "settled from logs");
        address[6] memory people = [payer, node, trainer, creator, second, stranger];
        for (uint256 i; i < people.length; ++i) {
            vm.assertEq(collectable(people[i]), logBalance[people[i]], "balance from logs");
        }
        vm.assertEq(settlement.owed(A), logOwed[A], "owed from logs");
        vm.assertEq(settlement.owed(B), logOwed[B], "owed from logs");
    }

    function readLogs() internal {
        Cheats.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter != address(settlement)) continue;
            bytes32 topic = logs[i].topics[0];
            bytes32 key = logs[i].topics[1];
            bytes memory data = logs[i].data;
            if (topic == ISettlement.Deposited.selector) {
                uint256 amount = abi.decode(data, (uint256));
                logDeposit[key] += amount;
                logDeposits += amount;
            } else if (topic == ISettlement.Claimed.selector) {
                (uint256 settled,) = abi.decode(data, (uint256, bytes32));
                logDeposit[key] -= settled - logSettled[key];
                logDeposits -= settled - logSettled[key];
                logSettled[key] = settled;
            } else if (topic == ISettlement.Earned.selector) {
                (uint256 amount, uint256 toContents, uint256 toTrainer, uint256 toNode) =
                    abi.decode(data, (uint256, uint256, uint256, uint256));
                logOwed[uint32(uint256(key))] += toContents;
                logRoyalties = logRoyalties + amount - toTrainer - toNode;
                logBalance[address(uint160(uint256(logs[i].topics[2])))] += toNode;
                logBalance[address(uint160(uint256(logs[i].topics[3])))] += toTrainer;
                logBalances += toTrainer + toNode;
            } else if (topic == ISettlement.Distributed.selector) {
                (uint256 accrued, uint256 paid) = abi.decode(data, (uint256, uint256));
                logOwed[uint32(uint256(key))] -= accrued;
                logRoyalties -= paid;
            } else if (topic == ISettlement.TransferFailed.selector) {
                uint256 amount = abi.decode(data, (uint256));
                logBalance[address(uint160(uint256(key)))] += amount;
                logBalances += amount;
            } else if (topic == ISettlement.Collected.selector) {
                uint256 amount = abi.decode(data, (uint256));
                logBalance[address(uint160(uint256(key)))] -= amount;
                logBalances -= amount;
            } else if (topic == ISettlement.Withdrawn.selector) {
                uint256 amount = abi.decode(data, (uint256));
                logDeposit[key] -= amount;
                logDeposits -= amount;
            }
        }
    }
}
