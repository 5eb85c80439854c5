// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {ShareTable} from "../../libraries/ShareTable.sol";
import {Coin} from "./Doubles.sol";
import {Fixture} from "./Fixture.sol";

/// @notice The golden vectors that the Python side reads too: what it signs opens and is claimed here, its digests,
/// packings, shares and splits are Settlement's.
contract VectorsTest is Fixture {
    string private structs;
    string private claims;
    string private splits;

    /// @dev Token and settlement at the addresses, on the chain, that the vectors were signed for.
    function setUp() public override {
        structs = vm.readFile("../tests/vectors/eip712.json");
        claims = vm.readFile("../tests/vectors/claim.json");
        splits = vm.readFile("../tests/vectors/shares.json");
        super.setUp();
        vm.chainId(vm.parseJsonUint(structs, ".chainId"));
        address token = vm.parseJsonAddress(structs, ".token");
        vm.etch(token, address(coin).code);
        coin = Coin(token);
        address at = vm.parseJsonAddress(structs, ".settlement");
        vm.etch(at, address(_deploy()).code);
        settlement = ISettlement(at);
        payer = vm.parseJsonAddress(structs, ".payer");
        signer = vm.parseJsonAddress(structs, ".signer");
        node = vm.parseJsonAddress(structs, ".node");
        fund(payer);
        fund(stranger);
    }

    // structs[index].message.key of eip712.json

    function member(uint256 index, string memory key) private pure returns (string memory) {
        return string.concat(".structs[", vm.toString(index), "].", key);
    }

    function number(uint256 index, string memory key) private view returns (uint256) {
        return vm.parseJsonUint(structs, member(index, string.concat("message.", key)));
    }

    function person(uint256 index, string memory key) private view returns (address) {
        return vm.parseJsonAddress(structs, member(index, string.concat("message.", key)));
    }

    function word(uint256 index, string memory key) private view returns (bytes32) {
        return vm.parseJsonBytes32(structs, member(index, string.concat("message.", key)));
    }

    function text(uint256 index, string memory key) private view returns (string memory) {
        return vm.parseJsonString(structs, member(index, key));
    }

    function signature(uint256 index) private view returns (bytes memory) {
        return vm.parseJsonBytes(structs, member(index, "signature"));
    }

    function assertDigest(uint256 index, bytes32 digest) private view {
        vm.assertEq(digest, vm.parseJsonBytes32(structs, member(index, "digest")), text(index, "name"));
    }

    /// Every digest that Settlement judges, and the ids that are hashes.
    function test_DigestsAreTheGoldenOnes() public view {
        assertDigest(5, settlement.hashOpenChannel(person(5, "payer"), person(5, "node")));
        for (uint256 i = 6; i < 8; ++i) {
            bytes32 head = word(i, "receiptsHead");
            assertDigest(
                i, settlement.hashVoucher(person(i, "node"), uint96(number(i, "settled")), word(i, "usageHash"), head)
            );
        }
        uint64 deadline = uint64(number(8, "deadline"));
        assertDigest(8, settlement.hashRequestClose(person(8, "signer"), person(8, "node"), deadline));
        uint96 settled = uint96(number(9, "settled"));
        assertDigest(
            9, settlement.hashClose(person(9, "signer"), person(9, "node"), settled, uint64(number(9, "deadline")))
        );
        vm.assertEq(settlement.channelId(signer, node), vm.parseJsonBytes32(structs, ".channelId"), "channel id");
        bytes32 salt = vm.parseJsonBytes32(structs, ".salt");
        bytes32 nonce = settlement.authorizationNonce(settlement.OPEN_KIND(), signer, node, salt);
        vm.assertEq(nonce, vm.parseJsonBytes32(structs, ".openNonce"), "opening's nonce");
        nonce = settlement.authorizationNonce(settlement.TOP_UP_KIND(), signer, node, salt);
        vm.assertEq(nonce, vm.parseJsonBytes32(structs, ".topUpNonce"), "top-up's nonce");
    }

    /// What only nodes and buyers check off chain has Settlement's domain: each member in its place.
    function test_OffChainStructsHashAsSolidityWould() public view {
        bytes32 kind = keccak256(bytes(text(10, "type")));
        bytes32 origin = keccak256(bytes(text(10, "message.origin")));
        assertDigest(
            10,
            typed(keccak256(abi.encode(kind, person(10, "node"), origin, word(10, "challenge"), number(10, "expiry"))))
        );
        kind = keccak256(bytes(text(11, "type")));
        bytes memory first = abi.encode(
            kind,
            person(11, "node"),
            person(11, "signer"),
            number(11, "adapterId"),
            word(11, "weightsDigest"),
            word(11, "tokenizerDigest")
        );
        bytes memory rest = abi.encode(
            number(11, "promptPrice"), number(11, "completionPrice"), number(11, "maxTokens"), number(11, "validUntil")
        );
        assertDigest(11, typed(keccak256(bytes.concat(first, rest))));
        kind = keccak256(bytes(text(12, "type")));
        first = abi.encode(
            kind,
            word(12, "channelId"),
            number(12, "seq"),
            word(12, "usageHash"),
            word(12, "quoteHash"),
            word(12, "requestHash"),
            word(12, "responseHash")
        );
        rest = abi.encode(
            number(12, "promptTokens"),
            number(12, "completionTokens"),
            number(12, "amount"),
            number(12, "total"),
            number(12, "time")
        );
        assertDigest(12, typed(keccak256(bytes.concat(first, rest))));
    }

    /// The golden consent and the golden authorisation open a channel; its payer's golden request closes it.
    function test_GoldenSignaturesOpenAndLeave() public {
        settlement.openWithAuthorization(
            payer,
            signer,
            node,
            number(13, "value"),
            vm.parseJsonBytes32(structs, ".salt"),
            number(13, "validAfter"),
            number(13, "validBefore"),
            signature(13),
            signature(5)
        );
        vm.assertEq(deposit(), number(13, "value"), "deposited");
        settlement.requestCloseFor(signer, node, uint64(number(8, "deadline")), signature(8));
        vm.warp(block.timestamp + DELAY);
        settlement.withdraw(signer, node);
        vm.assertEq(coin.balanceOf(payer), FUNDS, "and back");
        closeBooks();
    }

    /// The packed rows are claimed as they are, one upon the other, every digest being Settlement's.
    function test_GoldenRowsAreClaimed() public {
        openSigned(type(uint64).max);
        openSigned(1e9);
        adapters.set(7, trainer, 1_501, 733, NEVER);
        adapters.set(type(uint32).max, trainer, 1_501, 733, NEVER);
        bytes memory packed = vm.parseJsonBytes(claims, ".packed");
        ISettlement.RowStatus[] memory statuses = preview(packed);
        uint256 rows;
        for (; vm.keyExistsJson(claims, rowKey(rows, "")); ++rows) {
            checkRow(rows);
            vm.assertEq(uint256(statuses[rows]), 0, "good");
        }
        vm.assertEq(statuses.length, rows, "all of them");
        vm.assertEq(claim(packed), vm.parseJsonUint(claims, rowKey(rows - 1, ".end")), "the sum");
        vm.assertEq(total(), vm.parseJsonUint(claims, rowKey(rows - 1, ".end")), "the end point");
        closeBooks();
        bytes32 head;
        for (uint256 i; i < 2; ++i) {
            string memory at = string.concat("[", vm.toString(i), "]");
            head = keccak256(bytes.concat(head, vm.parseJsonBytes32(claims, string.concat(".receiptDigests", at))));
            vm.assertEq(head, vm.parseJsonBytes32(claims, string.concat(".receiptHeads", at)), "receipts' head");
        }
    }

    function openSigned(uint256 amount) private {
        vm.prank(payer);
        settlement.open(signer, node, amount, signature(5));
    }

    function rowKey(uint256 row, string memory key) private pure returns (string memory) {
        return string.concat(".rows[", vm.toString(row), "]", key);
    }

    function checkRow(uint256 row) private view {
        uint256 count;
        while (vm.keyExistsJson(claims, lineKey(row, count, ""))) ++count;
        ISettlement.UsageLine[] memory lines = new ISettlement.UsageLine[](count);
        bytes memory packed;
        for (uint256 i; i < count; ++i) {
            lines[i].adapterId = uint32(vm.parseJsonUint(claims, lineKey(row, i, "[0]")));
            lines[i].amount = uint96(vm.parseJsonUint(claims, lineKey(row, i, "[1]")));
            packed = bytes.concat(packed, line(lines[i].adapterId, lines[i].amount));
        }
        vm.assertEq(
            keccak256(packed), keccak256(vm.parseJsonBytes(claims, rowKey(row, ".packedLines"))), "packed lines"
        );
        bytes32 usage = settlement.hashUsage(lines);
        vm.assertEq(usage, vm.parseJsonBytes32(claims, rowKey(row, ".usageHash")), "usage");
        uint96 settled = uint96(vm.parseJsonUint(claims, rowKey(row, ".settled")));
        bytes32 head = vm.parseJsonBytes32(claims, rowKey(row, ".receiptsHead"));
        bytes32 digest = settlement.hashVoucher(node, settled, usage, head);
        vm.assertEq(digest, vm.parseJsonBytes32(claims, rowKey(row, ".digest")), "voucher");
    }

    function lineKey(uint256 row, uint256 index, string memory key) private pure returns (string memory) {
        return rowKey(row, string.concat(".lines[", vm.toString(index), "]", key));
    }

    /// Each golden share table hashes to the golden hash, by the library that judges distributions.
    function test_GoldenShareTablesHashAlike() public view {
        uint256 tables;
        for (; vm.keyExistsJson(splits, tableKey(tables, "")); ++tables) {
            bytes32 golden = vm.parseJsonBytes32(splits, tableKey(tables, ".hash"));
            vm.assertEq(this.hashOf(table(tables)), golden, "table");
        }
        vm.assertEq(tables, 3, "all of them");
    }

    function hashOf(uint256[] calldata shares) external pure returns (bytes32) {
        return ShareTable.hash(shares);
    }

    function tableKey(uint256 index, string memory key) private pure returns (string memory) {
        return string.concat(".tables[", vm.toString(index), "]", key);
    }

    function table(uint256 index) private view returns (uint256[] memory shares) {
        uint256 rows;
        while (vm.keyExistsJson(splits, wordKey(index, rows))) ++rows;
        shares = new uint256[](rows);
        for (uint256 i; i < rows; ++i) {
            shares[i] = vm.parseJsonUint(splits, wordKey(index, i));
        }
    }

    function wordKey(uint256 index, uint256 row) private pure returns (string memory) {
        return tableKey(index, string.concat(".words[", vm.toString(row), "]"));
    }

    /// The golden payments are split to the unit as Python splits them.
    function test_GoldenSplitsAreThoseOfPayments() public {
        uint256 royaltyBps = vm.parseJsonUint(splits, ".royaltyBps");
        adapters.set(A, trainer, uint16(royaltyBps), uint16(vm.parseJsonUint(splits, ".trainerBps")), NEVER);
        adapters.setServing(A, node, NEVER);
        uint256 count;
        for (; vm.keyExistsJson(splits, splitKey(count, "")); ++count) {
            vm.assertEq(settlement.revenue(A), splitOf(count, ".before"), "before");
            (uint256 contents, uint256 ofTrainer, uint256 ofNode) =
                (settlement.owed(A), collectable(trainer), collectable(node));
            vm.prank(stranger);
            settlement.pay(A, node, splitOf(count, ".amount"));
            vm.assertEq(settlement.owed(A) - contents, splitOf(count, ".toContents"), "to contents");
            vm.assertEq(collectable(trainer) - ofTrainer, splitOf(count, ".toTrainer"), "to trainer");
            vm.assertEq(collectable(node) - ofNode, splitOf(count, ".toNode"), "to node");
        }
        vm.assertEq(count, 8, "all of them");
        closeBooks();
    }

    function splitKey(uint256 index, string memory key) private pure returns (string memory) {
        return string.concat(".splits[", vm.toString(index), "]", key);
    }

    function splitOf(uint256 index, string memory key) private view returns (uint256) {
        return vm.parseJsonUint(splits, splitKey(index, key));
    }

    /// The golden distributions pay each work's owner to the unit what Python says.
    function test_GoldenDistributionsPayAlike() public {
        uint256[] memory shares = table(vm.parseJsonUint(splits, ".distributedTable"));
        adapters.set(A, trainer, 10_000, 0, NEVER);
        adapters.setShares(A, shares);
        works.mint(address(0xC9), shares[2] >> 16);
        address[3] memory owners = [creator, second, address(0xC9)];
        uint256[3] memory had;
        uint256 before;
        uint256 count;
        for (; vm.keyExistsJson(splits, paidKey(count, "")); ++count) {
            vm.assertEq(vm.parseJsonUint(splits, paidKey(count, ".before")), before, "before");
            uint256 accrued = vm.parseJsonUint(splits, paidKey(count, ".accrued"));
            vm.prank(stranger);
            settlement.pay(A, node, accrued);
            settlement.distribute(A, shares);
            for (uint256 i; i < 3; ++i) {
                uint256 golden =
                    vm.parseJsonUint(splits, paidKey(count, string.concat(".received[", vm.toString(i), "]")));
                vm.assertEq(coin.balanceOf(owners[i]) - had[i], golden, "received");
                had[i] += golden;
            }
            before += accrued;
        }
        vm.assertEq(count, 5, "all of them");
        closeBooks();
    }

    function paidKey(uint256 index, string memory key) private pure returns (string memory) {
        return string.concat(".distributions[", vm.toString(index), "]", key);
    }
}
