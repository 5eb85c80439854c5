// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {Cheats} from "../Cheats.sol";
import {Fixture} from "./Fixture.sol";

/// @notice Written for mutants of `claim` that every other test let live.
contract SurvivorsTest is Fixture {
    uint256 private constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
    /// The x of the curve's generator: the r of every signature whose nonce is 1; and its inverse.
    uint256 private constant R = 0x79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798;
    uint256 private constant R_INVERSE = 0x1dd887b3eaf153260a95e8b9fd31f60ac115d26ccbe1f572c0b8d7a6dec520fe;

    /// What recovers nobody is no signature, and says so: it is not taken for what was in memory before.
    function test_AClaimThatRecoversNobodyIsABadSignature() public {
        open(100);
        bytes memory lines = line(A, 1);
        bytes memory nobody = packed(0, 0, 1, lines);
        refused(nobody, ISettlement.RowStatus.BadSignature);
        readLogs();
        vm.assertEq(claim(bytes.concat(row(0, lines), nobody)), 1, "the good row before it");
        Cheats.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].topics[0] != ISettlement.RowRefused.selector) continue;
            (uint256 number, uint256 status) = abi.decode(logs[i].data, (uint256, uint256));
            vm.assertEq(number, 1, "row");
            vm.assertEq(status, uint256(ISettlement.RowStatus.BadSignature), "status");
        }
    }

    /// A high s that 64 bytes can spell is one in 2^127, so the key is made to fit: s is chosen, then who signs with it.
    function test_AClaimHasOneForm() public {
        bytes memory lines = line(A, 1);
        uint256 high = type(uint256).max >> 1;
        uint256 low = ORDER - high;
        uint256 digest = uint256(voucherDigest(node, 0, keccak256(lines), HEAD)) % ORDER;
        uint256 key = mulmod(addmod(low, ORDER - digest, ORDER), R_INVERSE, ORDER);
        openAs(payer, key, node, 100);
        refused(packed(bytes32(R), bytes32(high | 1 << 255), 0, lines), ISettlement.RowStatus.BadSignature);
        vm.assertEq(claim(packed(bytes32(R), bytes32(low), 0, lines)), 1, "the low form is its signer's");
    }
}
