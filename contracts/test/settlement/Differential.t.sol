// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {Cheats} from "../Cheats.sol";
import {Fixture} from "./Fixture.sol";

/// @notice The assembly of `claim`, its plain twin and `previewClaim` agree on every batch, good or bad, to the last
/// log and balance; so do the assembly of `distribute` and its twin. The twin runs at the same address, so on the same
/// signatures.
contract DifferentialTest is Fixture {
    uint256 private constant KEYS = 3;
    uint32[6] private IDS = [0, 1, 2, 3, 77, type(uint32).max];

    uint256 private seed;
    bytes private plain;
    uint256[4] private bases;

    function setUp() public override {
        super.setUp();
        bytes memory arguments = abi.encode(coin, works, adapters);
        plain = vm.deployCode("PlainSettlement.sol:PlainSettlement", arguments).code;
        // 3 retired, 77 unpermitted at this node, the last of a trainer that is the node itself.
        adapters.set(3, trainer, 2_500, 2_500, uint64(START));
        adapters.setServing(3, node, NEVER);
        adapters.set(77, stranger, 1, 9_998, NEVER);
        adapters.set(type(uint32).max, node, 5_001, 1_234, NEVER);
        for (uint256 key = 1; key <= KEYS; ++key) {
            openAs(payer, key, node, 1e9);
        }
    }

    function testFuzz_AssemblyPlainTwinAndPreviewAgree(uint256 entropy) public {
        seed = entropy;
        bytes memory rows;
        uint256 count = 1 + draw(12);
        for (uint256 i; i < count; ++i) {
            rows = bytes.concat(rows, someRow());
        }
        if (draw(4) == 0) rows = bytes.concat(rows, new bytes(draw(140)));

        ISettlement.RowStatus[] memory statuses = preview(rows);
        readLogs();
        uint256 state = vm.snapshotState();
        (bytes32 fast, uint256[] memory seen) = outcome(rows);
        vm.revertToState(state);
        vm.etch(address(settlement), plain);
        (bytes32 slow,) = outcome(rows);
        vm.assertEq(fast, slow, "the twin");
        vm.assertEq(keccak256(abi.encode(statuses)), keccak256(abi.encode(seen)), "the preview");
    }

    /// Any table, any owners, some of them refused or burning by the token, any amounts before and now.
    function testFuzz_DistributionAndPlainTwinAgree(uint256 entropy) public {
        seed = entropy;
        uint256[] memory shares = someTable();
        adapters.set(3, trainer, 10_000, 0, NEVER);
        adapters.setShares(3, shares);
        for (uint256 i = draw(3); i < 3; ++i) {
            vm.prank(stranger);
            settlement.pay(3, node, 1 + draw(draw(2) == 0 ? 20 : 1e9));
            if (draw(2) == 0) settlement.distribute(3, shares);
        }
        if (draw(2) == 0) coin.setBlacklisted(owner(draw(4)), true);
        if (draw(8) == 0) coin.setBurns(owner(draw(4)), true);
        if (draw(8) == 0) coin.setRefuses(true);
        readLogs();
        uint256 state = vm.snapshotState();
        bytes32 fast = paidOut(shares);
        vm.revertToState(state);
        vm.etch(address(settlement), plain);
        vm.assertEq(fast, paidOut(shares), "the twin");
    }

    function owner(uint256 index) private pure returns (address) {
        return address(uint160(0xD0 + index));
    }

    /// @dev Works 100, 101, ... of four owners in any order, with any shares.
    function someTable() private returns (uint256[] memory shares) {
        shares = new uint256[](1 + draw(12));
        uint256 left = 10_000 - shares.length;
        for (uint256 i; i < shares.length; ++i) {
            works.mint(owner(draw(4)), 100 + i);
            uint256 bps = i + 1 == shares.length ? left : draw(left + 1);
            left -= bps;
            shares[i] = (100 + i) << 16 | (bps + 1);
        }
    }

    /// @dev The token's logs, Settlement's logs, and whom it owes, after a distribution.
    function paidOut(uint256[] memory shares) private returns (bytes32 digest) {
        digest = bytes32(settlement.distribute(3, shares));
        Cheats.Log[] memory logs = vm.getRecordedLogs();
        bytes32 transfers;
        for (uint256 i; i < logs.length; ++i) {
            bytes32 log = keccak256(abi.encode(logs[i].topics, logs[i].data));
            if (logs[i].emitter == address(coin)) transfers = keccak256(abi.encode(transfers, log));
            else digest = keccak256(abi.encode(digest, log));
        }
        digest = keccak256(abi.encode(digest, transfers, settlement.owed(3), settlement.revenue(3)));
        for (uint256 i; i < 4; ++i) {
            digest = keccak256(abi.encode(digest, coin.balanceOf(owner(i)), collectable(owner(i))));
        }
    }

    function outcome(bytes memory rows) private returns (bytes32 digest, uint256[] memory statuses) {
        uint256 claimed = claim(rows);
        Cheats.Log[] memory logs = vm.getRecordedLogs();
        digest = keccak256(abi.encode(claimed, logs));
        for (uint256 key = 1; key <= KEYS; ++key) {
            (, uint96 left, uint96 settled,) = settlement.channel(vm.addr(key), node);
            digest = keccak256(abi.encode(digest, left, settled));
        }
        for (uint256 i; i < IDS.length; ++i) {
            digest = keccak256(abi.encode(digest, settlement.revenue(IDS[i]), settlement.owed(IDS[i])));
        }
        digest = keccak256(abi.encode(digest, collectable(node), collectable(trainer), collectable(stranger)));

        uint256 rowsSeen;
        statuses = new uint256[](logs.length);
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].topics[0] == ISettlement.Claimed.selector) ++rowsSeen;
            if (logs[i].topics[0] != ISettlement.RowRefused.selector) continue;
            (uint256 row, uint256 status) = abi.decode(logs[i].data, (uint256, uint256));
            vm.assertEq(row, rowsSeen, "row number");
            statuses[rowsSeen++] = status;
        }
        assembly ("memory-safe") {
            mstore(statuses, rowsSeen)
        }
    }

    /// @dev Mostly a good row on the end of the channel's run, else one with a single fault or any lines at all.
    function someRow() private returns (bytes memory) {
        uint256 key = 1 + draw(KEYS);
        uint256 kind = draw(14);
        uint256 base = kind == 0 ? draw(1e9) : bases[key];
        bytes memory lines;
        uint256 sum;
        if (kind < 3) {
            uint256 count = draw(5);
            for (uint256 i; i < count; ++i) {
                lines = bytes.concat(lines, line(anyId(), anyAmount()));
            }
        } else {
            for (uint256 i = draw(3); i < IDS.length; i += 1 + draw(3)) {
                uint256 amount = 1 + draw(1e7);
                lines = bytes.concat(lines, line(IDS[i], amount));
                sum += amount;
            }
        }
        if (kind == 3) return tampered(rowBy(key, node, base, lines));
        if (kind == 4) return rowBy(key + 7, node, base, lines);
        if (kind == 5) return rowBy(key, stranger, base, lines);
        if (lines.length != 0 && kind > 5) bases[key] += sum;
        return rowBy(key, node, base, lines);
    }

    function tampered(bytes memory row) private returns (bytes memory) {
        if (draw(3) == 0) {
            // a high s
            for (uint256 i = 32; i < 40; ++i) {
                row[i] |= 0x7f;
            }
        } else {
            row[draw(row.length - 1)] ^= 0x01;
        }
        return row;
    }

    function anyId() private returns (uint32) {
        return draw(8) == 0 ? 5 : IDS[draw(IDS.length)];
    }

    function anyAmount() private returns (uint256) {
        uint256 kind = draw(6);
        return kind == 0 ? 0 : kind == 1 ? type(uint96).max : draw(2e9);
    }

    function draw(uint256 below) private returns (uint256) {
        seed = uint256(keccak256(abi.encode(seed)));
        return seed % below;
    }
}
