// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {Terms} from "../../types/Terms.sol";
import {Fixture, IWorks} from "./Fixture.sol";

/// @notice The golden vectors that the Python side reads too: its signatures work here, its hashes are ours.
contract VectorsTest is Fixture {
    string private json;

    function setUp() public override {
        super.setUp();
        json = vm.readFile("../tests/vectors/eip712.json");
        // The registry at the address, on the chain, that the vectors were signed for.
        address at = vm.parseJsonAddress(json, ".contentRegistry");
        vm.etch(at, address(works).code);
        works = IWorks(at);
        vm.chainId(vm.parseJsonUint(json, ".chainId"));
    }

    function number(string memory index, string memory key) private view returns (uint256) {
        return vm.parseJsonUint(json, string.concat(".structs[", index, "].message.", key));
    }

    function word(string memory index, string memory key) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, string.concat(".structs[", index, "].message.", key));
    }

    function signature(string memory index) private view returns (bytes memory) {
        return vm.parseJsonBytes(json, string.concat(".structs[", index, "].signature"));
    }

    function signedTerms(string memory index) private view returns (Terms memory) {
        return Terms({
            trainingFee: uint96(number(index, "terms.trainingFee")),
            minRoyaltyBps: uint16(number(index, "terms.minRoyaltyBps")),
            grantDuration: uint32(number(index, "terms.grantDuration")),
            notice: uint32(number(index, "terms.notice")),
            revocationClass: uint8(number(index, "terms.revocationClass")),
            uses: uint8(number(index, "terms.uses")),
            approvalRequired: vm.parseJsonBool(
                json, string.concat(".structs[", index, "].message.terms.approvalRequired")
            )
        });
    }

    /// What Python signs for a creator, the registry does: register, set terms, approve, take the approval back.
    function test_relayed_actions_accept_the_golden_signatures() public {
        address payer = vm.parseJsonAddress(json, ".payer");
        work(openTerms());
        work(openTerms());
        uint256 contentId = works.registerFor(
            payer,
            word("0", "commitment"),
            word("0", "licenseHash"),
            signedTerms("0"),
            0,
            uint64(number("0", "deadline")),
            signature("0")
        );
        vm.assertEq(contentId, number("1", "contentId"), "the third work");
        works.setTermsFor(
            contentId, word("1", "licenseHash"), signedTerms("1"), 1, uint64(number("1", "deadline")), signature("1")
        );
        address named = vm.parseJsonAddress(json, ".structs[2].message.trainer");
        works.approveTrainerFor(contentId, named, true, 2, uint64(number("2", "deadline")), signature("2"));
        vm.assertTrue(works.isTrainerApproved(contentId, payer, named), "approved");
        works.approveTrainerFor(contentId, named, false, 3, uint64(number("3", "deadline")), signature("3"));
        vm.assertFalse(works.isTrainerApproved(contentId, payer, named), "taken back");
    }

    /// Hashes that no signature shows: terms, the grant's nonce, and Withdraw's digest.
    function test_hashes_match_the_golden_ones() public view {
        bytes32 termsHash = works.hashTerms(signedTerms("0"), word("0", "licenseHash"));
        vm.assertEq(termsHash, vm.parseJsonBytes32(json, ".termsHash"), "terms");
        bytes32 digest = withdrawDigest(number("4", "contentId"), number("4", "nonce"), uint64(number("4", "deadline")));
        vm.assertEq(digest, vm.parseJsonBytes32(json, ".structs[4].digest"), "withdraw");
        bytes32 salt = vm.parseJsonBytes32(json, ".salt");
        bytes32 nonce = works.grantNonce(number("1", "contentId"), keccak256("terms"), salt);
        vm.assertEq(nonce, vm.parseJsonBytes32(json, ".grantNonce"), "grant nonce");
    }
}
