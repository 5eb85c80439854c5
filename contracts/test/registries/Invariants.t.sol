// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {TestUSD} from "../../dev/TestUSD.sol";
import {Adapter, IAdapterRegistry} from "../../interfaces/IAdapterRegistry.sol";
import {Content, Grant} from "../../interfaces/IContentRegistry.sol";
import {Terms} from "../../types/Terms.sol";
import {Cheats} from "../Cheats.sol";
import {Fixture, IWorks} from "./Fixture.sol";

/// @notice Does anything anyone may do to the registries, in any order, and writes down what must not change.
contract Handler {
    Cheats private constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));

    IWorks public immutable works;
    IAdapterRegistry public immutable adapters;
    TestUSD public immutable usd;

    uint256 public constant PEOPLE = 4;
    string public broken;
    mapping(uint256 contentId => bytes32) public identity;
    mapping(uint256 contentId => uint256) public withdrawnAt;
    mapping(uint32 adapterId => bytes32) public record;
    mapping(uint32 adapterId => uint64) public retiresAt;
    mapping(uint32 adapterId => uint256[]) private _shares;

    constructor(IWorks works_, IAdapterRegistry adapters_, TestUSD usd_) {
        (works, adapters, usd) = (works_, adapters_, usd_);
        for (uint256 i; i < PEOPLE; ++i) {
            usd.mint(person(i), 1_000_000e6);
            vm.prank(person(i));
            usd.approve(address(works), type(uint256).max);
        }
    }

    function person(uint256 i) public pure returns (address) {
        return address(uint160(0x1000 + i % PEOPLE));
    }

    function register(uint256 who, Terms memory terms) external {
        vm.prank(person(who));
        uint256 contentId = works.register(keccak256(abi.encode(who, terms)), "license", bounded(terms));
        Content memory content = works.contentOf(contentId);
        identity[contentId] = keccak256(abi.encode(content.creator, content.registeredAt, content.commitment));
    }

    function setTerms(uint256 contentId, Terms memory terms) external {
        (uint256 id, address owner) = pick(contentId);
        vm.prank(owner);
        works.setTerms(id, "license", bounded(terms));
    }

    function approve(uint256 contentId, uint256 who, bool allowed) external {
        (uint256 id, address owner) = pick(contentId);
        vm.prank(owner);
        works.approveTrainer(id, person(who), allowed);
    }

    function sell(uint256 contentId, uint256 who) external {
        (uint256 id, address owner) = pick(contentId);
        vm.prank(owner);
        works.transferFrom(owner, person(who), id);
    }

    function withdraw(uint256 contentId, uint256 luck) external {
        if (luck % 4 != 0) return;
        (uint256 id, address owner) = pick(contentId);
        vm.prank(owner);
        works.withdraw(id);
        withdrawnAt[id] = block.timestamp;
    }

    function acquire(uint256 contentId, uint256 who) external {
        (uint256 id, address owner) = pick(contentId);
        bytes32 termsHash = works.contentOf(id).termsHash;
        (Terms memory terms,) = works.termsOf(termsHash);
        uint256 paid = usd.balanceOf(person(who));
        uint256 received = usd.balanceOf(owner);
        vm.prank(person(who));
        works.acquireGrant(id, termsHash);
        if (person(who) != owner) {
            if (paid - usd.balanceOf(person(who)) != terms.trainingFee) broken = "fee paid";
            if (usd.balanceOf(owner) - received != terms.trainingFee) broken = "fee received";
        }
        if (works.contentOf(id).withdrawnAt != 0) broken = "grant to a withdrawn work";
    }

    /// The trainer first acquires what it can, else hardly any adapter would ever be registered.
    function registerAdapter(uint256 first, uint256 second, uint256 who, uint16 royalty, uint16 share) external {
        uint256 count = works.contentCount();
        (first, second) = (1 + first % count, 1 + second % count);
        if (first > second) (first, second) = (second, first);
        share = uint16(2_000 + share % 6_001);
        uint256[] memory shares = new uint256[](first == second ? 1 : 2);
        shares[0] = first << 16 | (first == second ? 10_000 : share);
        if (first != second) shares[1] = second << 16 | (10_000 - share);
        if (royalty % 3 != 0) {
            license(first, person(who));
            license(second, person(who));
        }
        royalty %= 10_001;
        vm.prank(person(who));
        uint32 adapterId = adapters.register("b", "w", "c", "m", royalty, 10_000 - royalty, shares);
        for (uint256 i; i < shares.length; ++i) {
            Grant memory grant = works.grantOf(shares[i] >> 16, person(who));
            if (grant.termsHash == 0 || block.timestamp >= grant.expiresAt) broken = "registered without a grant";
            if (grant.terms.uses & 7 != 7) broken = "registered without the uses";
            if (uint256(royalty) * uint16(shares[i]) < uint256(grant.terms.minRoyaltyBps) * 10_000) broken = "minimum";
        }
        _shares[adapterId] = shares;
        record[adapterId] = fixedPart(adapterId);
        retiresAt[adapterId] = type(uint64).max;
    }

    function retire(uint32 adapterId) external {
        adapterId = pickAdapter(adapterId);
        vm.prank(adapters.adapterOf(adapterId).trainer);
        adapters.retire(adapterId);
        noteRetirement(adapterId);
    }

    function enforce(uint32 adapterId, uint256 index) external {
        adapterId = pickAdapter(adapterId);
        uint256[] memory shares = _shares[adapterId];
        adapters.enforce(adapterId, shares, index % shares.length);
        noteRetirement(adapterId);
    }

    function setServing(uint32 adapterId, uint256 node, bool allowed) external {
        adapterId = pickAdapter(adapterId);
        (, uint64 before) = adapters.settlementTerms(adapterId, person(node));
        vm.prank(adapters.adapterOf(adapterId).trainer);
        adapters.setServing(adapterId, person(node), allowed);
        (, uint64 now_) = adapters.settlementTerms(adapterId, person(node));
        if (now_ < before && now_ < block.timestamp + adapters.MIN_NOTICE()) broken = "permission without notice";
    }

    function pass(uint32 time) external {
        vm.warp(block.timestamp + time % 20 days);
    }

    function license(uint256 contentId, address trainer) private {
        address owner = works.ownerOf(contentId);
        bytes32 termsHash = works.contentOf(contentId).termsHash;
        vm.prank(owner);
        works.approveTrainer(contentId, trainer, true);
        vm.prank(trainer);
        try works.acquireGrant(contentId, termsHash) {} catch {}
    }

    function noteRetirement(uint32 adapterId) private {
        uint64 now_ = adapters.adapterOf(adapterId).retiresAt;
        if (now_ > retiresAt[adapterId]) broken = "retirement moved later";
        if (now_ < retiresAt[adapterId] && now_ < block.timestamp + adapters.MIN_NOTICE()) broken = "no notice";
        retiresAt[adapterId] = now_;
    }

    function fixedPart(uint32 adapterId) public view returns (bytes32) {
        Adapter memory held = adapters.adapterOf(adapterId);
        held.retiresAt = 0;
        return keccak256(abi.encode(held));
    }

    function pick(uint256 contentId) private view returns (uint256 id, address owner) {
        id = 1 + contentId % works.contentCount();
        owner = works.ownerOf(id);
    }

    function pickAdapter(uint32 adapterId) private view returns (uint32) {
        return 1 + adapterId % adapters.adapterCount();
    }

    function bounded(Terms memory terms) private pure returns (Terms memory) {
        terms.trainingFee = uint96(terms.trainingFee % 1_000e6);
        terms.minRoyaltyBps = uint16(terms.minRoyaltyBps % 1_000);
        terms.grantDuration = uint32(terms.grantDuration % 60 days);
        terms.notice = uint32(terms.notice % (90 days + 1));
        terms.revocationClass = terms.revocationClass % 3;
        terms.uses = terms.uses % 4 == 0 ? 1 + terms.uses % 31 : 31;
        return terms;
    }
}

/// @notice What holds of the registries after anything.
contract RegistryInvariantsTest is Fixture {
    Handler private handler;

    function setUp() public override {
        super.setUp();
        handler = new Handler(works, adapters, usd);
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// Nothing that the handler saw in passing was wrong.
    function invariant_nothing_broke() public view {
        vm.assertEq(handler.broken(), "", "broken");
    }

    /// At the end of each history everything still is what it was when it came to be.
    function afterInvariant() public view {
        noMoneyIsHeld();
        worksKeepWhatTheyAre();
        adaptersKeepWhatTheyAre();
    }

    /// Fees pass through: the registry holds nothing, no token appears or vanishes.
    function noMoneyIsHeld() private view {
        vm.assertEq(usd.balanceOf(address(works)), 0, "registry");
        uint256 total = usd.balanceOf(trainer);
        for (uint256 i; i < handler.PEOPLE(); ++i) {
            total += usd.balanceOf(handler.person(i));
        }
        vm.assertEq(total, usd.totalSupply(), "conserved");
    }

    /// A work keeps its creator, time and commitment, always has an owner, and is withdrawn once at most.
    function worksKeepWhatTheyAre() private view {
        for (uint256 id = 1; id <= works.contentCount(); ++id) {
            Content memory content = works.contentOf(id);
            bytes32 identity = keccak256(abi.encode(content.creator, content.registeredAt, content.commitment));
            vm.assertEq(identity, handler.identity(id), "identity");
            vm.assertEq(content.withdrawnAt, handler.withdrawnAt(id), "withdrawal");
            vm.assertTrue(works.ownerOf(id) != address(0), "owner");
            (Terms memory terms, bytes32 license) = works.termsOf(content.termsHash);
            vm.assertEq(keccak256(abi.encode(terms, license)), content.termsHash, "terms under their hash");
        }
    }

    /// An adapter keeps everything but its retirement, which only its own functions move, and only earlier.
    function adaptersKeepWhatTheyAre() private view {
        for (uint32 id = 1; id <= adapters.adapterCount(); ++id) {
            vm.assertEq(handler.fixedPart(id), handler.record(id), "record");
            vm.assertEq(adapters.adapterOf(id).retiresAt, handler.retiresAt(id), "retirement");
        }
    }
}
