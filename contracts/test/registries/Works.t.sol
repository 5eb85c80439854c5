// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IContentRegistry, Content} from "../../interfaces/IContentRegistry.sol";
import {Terms} from "../../types/Terms.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Fixture, Wallet} from "./Fixture.sol";

/// @notice Registration, terms, approval and withdrawal of works, direct and relayed.
contract WorksTest is Fixture {
    bytes32 private constant COMMITMENT = keccak256("commitment");
    uint64 private constant LATER = uint64(START + 1 hours);

    /// A registration keeps who, when and what, and gives the creator the token.
    function test_register_records_creator_time_and_terms() public {
        Terms memory terms = openTerms();
        vm.prank(creator);
        uint256 contentId = works.register(COMMITMENT, LICENSE, terms);
        Content memory content = works.contentOf(contentId);
        vm.assertEq(contentId, 1, "ids start at 1");
        vm.assertEq(works.contentCount(), 1, "count");
        vm.assertEq(works.ownerOf(contentId), creator, "owner");
        vm.assertEq(content.creator, creator, "creator");
        vm.assertEq(content.registeredAt, START, "time");
        vm.assertEq(content.withdrawnAt, 0, "not withdrawn");
        vm.assertEq(content.commitment, COMMITMENT, "commitment");
        vm.assertEq(content.termsHash, keccak256(abi.encode(terms, LICENSE)), "terms hash");
        vm.assertEq(works.tokenURI(contentId), "", "URIs are off chain");
        (Terms memory stored, bytes32 licenseHash) = works.termsOf(content.termsHash);
        vm.assertEq(keccak256(abi.encode(stored, licenseHash)), content.termsHash, "stored terms");
    }

    /// The first registration's time survives new terms and a sale; the creator stays the one who registered.
    function test_register_time_and_creator_never_change() public {
        uint256 contentId = work(openTerms());
        until(START + 1 days);
        Terms memory terms = openTerms();
        terms.trainingFee = 1;
        vm.prank(creator);
        works.setTerms(contentId, LICENSE, terms);
        vm.prank(creator);
        works.transferFrom(creator, stranger, contentId);
        vm.assertEq(works.contentOf(contentId).registeredAt, START, "time");
        vm.assertEq(works.contentOf(contentId).creator, creator, "creator");
    }

    function test_register_refuses_empty_commitment() public {
        vm.expectRevert(IContentRegistry.CommitmentEmpty.selector);
        works.register(0, LICENSE, openTerms());
    }

    /// Terms outside what the contracts can honour are refused at every door.
    function test_setTerms_refuses_terms_out_of_bounds() public {
        uint256 contentId = work(openTerms());
        Terms memory terms = openTerms();
        terms.minRoyaltyBps = 10_001;
        expectRefused(contentId, terms, abi.encodeWithSelector(IContentRegistry.MinRoyaltyTooHigh.selector, 10_001));
        terms = openTerms();
        terms.notice = 90 days + 1;
        expectRefused(contentId, terms, abi.encodeWithSelector(IContentRegistry.NoticeTooLong.selector, 90 days + 1));
        terms = openTerms();
        terms.revocationClass = 3;
        expectRefused(contentId, terms, abi.encodeWithSelector(IContentRegistry.UnknownRevocationClass.selector, 3));
        terms = openTerms();
        terms.uses = 0;
        expectRefused(contentId, terms, abi.encodeWithSelector(IContentRegistry.UnknownUses.selector, 0));
        terms.uses = 32;
        expectRefused(contentId, terms, abi.encodeWithSelector(IContentRegistry.UnknownUses.selector, 32));
    }

    function expectRefused(uint256 contentId, Terms memory terms, bytes memory why) private {
        vm.expectRevert(why);
        vm.prank(creator);
        works.setTerms(contentId, LICENSE, terms);
        vm.expectRevert(why);
        works.register(COMMITMENT, LICENSE, terms);
    }

    /// The bounds themselves are allowed.
    function test_setTerms_accepts_the_bounds() public {
        Terms memory terms = Terms(type(uint96).max, 10_000, type(uint32).max, 90 days, 2, 31, true);
        uint256 contentId = work(terms);
        (Terms memory stored,) = works.termsOf(offer(contentId));
        vm.assertEq(keccak256(abi.encode(stored)), keccak256(abi.encode(terms)), "terms round trip");
    }

    /// The same terms twice are one set: defined once, under one hash.
    function test_setTerms_stores_a_set_once() public {
        uint256 first = work(openTerms());
        vm.recordLogs();
        uint256 second = work(openTerms());
        vm.assertEq(offer(first), offer(second), "one hash");
        vm.assertEq(vm.getRecordedLogs().length, 3, "registered, terms set, minted: no second definition");
    }

    /// Any terms in bounds survive storage, and the hash is the one the design states.
    function testFuzz_setTerms_round_trip(Terms memory terms, bytes32 licenseHash) public {
        terms.minRoyaltyBps = uint16(terms.minRoyaltyBps % 10_001);
        terms.notice = uint32(terms.notice % (90 days + 1));
        terms.revocationClass = terms.revocationClass % 3;
        terms.uses = 1 + terms.uses % 31;
        uint256 contentId = work(openTerms());
        vm.prank(creator);
        works.setTerms(contentId, licenseHash, terms);
        bytes32 termsHash = keccak256(abi.encode(terms, licenseHash));
        vm.assertEq(offer(contentId), termsHash, "hash");
        vm.assertEq(works.hashTerms(terms, licenseHash), termsHash, "hashTerms");
        (Terms memory stored, bytes32 storedLicense) = works.termsOf(termsHash);
        vm.assertEq(keccak256(abi.encode(stored, storedLicense)), termsHash, "stored");
    }

    /// Only the owner sets terms, approves and withdraws: not a stranger, not a marketplace operator.
    function test_only_the_owner_acts() public {
        uint256 contentId = work(openTerms());
        vm.prank(creator);
        works.setApprovalForAll(stranger, true);
        bytes memory why = abi.encodeWithSelector(IContentRegistry.NotOwner.selector, contentId, stranger);
        vm.expectRevert(why);
        vm.prank(stranger);
        works.setTerms(contentId, LICENSE, openTerms());
        vm.expectRevert(why);
        vm.prank(stranger);
        works.approveTrainer(contentId, trainer, true);
        vm.expectRevert(why);
        vm.prank(stranger);
        works.withdraw(contentId);
        vm.prank(stranger);
        works.transferFrom(creator, stranger, contentId);
        vm.prank(stranger);
        works.withdraw(contentId);
        vm.assertEq(works.contentOf(contentId).withdrawnAt, START, "the new owner may");
    }

    /// A withdrawal is for ever: no second one, no new terms, by either door.
    function test_withdraw_is_irrevocable() public {
        uint256 contentId = work(openTerms());
        withdrawWork(contentId);
        until(START + 1 days);
        bytes memory why = abi.encodeWithSelector(IContentRegistry.AlreadyWithdrawn.selector, contentId);
        vm.expectRevert(why);
        vm.prank(creator);
        works.withdraw(contentId);
        vm.expectRevert(why);
        vm.prank(creator);
        works.setTerms(contentId, LICENSE, openTerms());
        vm.assertEq(works.contentOf(contentId).withdrawnAt, START, "time");
    }

    /// Actions on a work that does not exist revert, each as ERC-721 says it.
    function test_nothing_happens_to_an_unknown_work() public {
        bytes memory why = abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 7);
        vm.expectRevert(why);
        works.setTerms(7, LICENSE, openTerms());
        vm.expectRevert(why);
        works.approveTrainer(7, trainer, true);
        vm.expectRevert(why);
        works.withdraw(7);
        vm.expectRevert(why);
        works.acquireGrant(7, 0);
        vm.expectRevert(why);
        works.contentOf(7);
        vm.expectRevert(why);
        works.withdrawFor(7, 0, LATER, "");
    }

    // Relayed

    /// A creator without gas registers by signature; the relayer gets nothing.
    function test_registerFor_mints_to_the_creator() public {
        Terms memory terms = openTerms();
        bytes memory signature = signed(CREATOR_KEY, registerDigest(creator, COMMITMENT, LICENSE, terms, 0, LATER));
        vm.prank(stranger);
        uint256 contentId = works.registerFor(creator, COMMITMENT, LICENSE, terms, 0, LATER, signature);
        vm.assertEq(works.ownerOf(contentId), creator, "owner");
        vm.assertEq(works.contentOf(contentId).creator, creator, "creator");
        vm.assertEq(works.contentOf(contentId).commitment, COMMITMENT, "commitment");
        vm.assertEq(works.nonces(creator), 1, "nonce used");
    }

    /// The whole life of a work by signatures alone.
    function test_relayed_actions_of_an_owner() public {
        uint256 contentId = work(openTerms());
        Terms memory terms = openTerms();
        terms.trainingFee = 5;
        bytes memory signature = signed(CREATOR_KEY, setTermsDigest(contentId, LICENSE, terms, 0, LATER));
        works.setTermsFor(contentId, LICENSE, terms, 0, LATER, signature);
        vm.assertEq(offer(contentId), keccak256(abi.encode(terms, LICENSE)), "terms");

        signature = signed(CREATOR_KEY, approveDigest(contentId, trainer, true, 1, LATER));
        works.approveTrainerFor(contentId, trainer, true, 1, LATER, signature);
        vm.assertTrue(works.isTrainerApproved(contentId, creator, trainer), "approved");

        signature = signed(CREATOR_KEY, withdrawDigest(contentId, 2, LATER));
        works.withdrawFor(contentId, 2, LATER, signature);
        vm.assertEq(works.contentOf(contentId).withdrawnAt, START, "withdrawn");
    }

    /// No relayed action of an owner works twice, late, out of order, or with anything changed.
    function test_relayed_actions_bind_what_was_signed() public {
        uint256 contentId = work(openTerms());
        uint256 other = work(openTerms());
        bytes memory signature = signed(CREATOR_KEY, approveDigest(contentId, trainer, true, 0, LATER));
        bytes memory invalid = abi.encodeWithSelector(IContentRegistry.SignatureInvalid.selector, creator);

        vm.expectRevert(invalid);
        works.approveTrainerFor(other, trainer, true, 0, LATER, signature);
        vm.expectRevert(invalid);
        works.approveTrainerFor(contentId, stranger, true, 0, LATER, signature);
        vm.expectRevert(invalid);
        works.approveTrainerFor(contentId, trainer, false, 0, LATER, signature);
        vm.expectRevert(invalid);
        works.approveTrainerFor(contentId, trainer, true, 0, LATER + 1, signature);
        vm.expectRevert(abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, creator, 0));
        works.approveTrainerFor(contentId, trainer, true, 1, LATER, signature);
        vm.expectRevert(invalid);
        works.withdrawFor(contentId, 0, LATER, signature);

        until(LATER + 1);
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.SignatureExpired.selector, LATER));
        works.approveTrainerFor(contentId, trainer, true, 0, LATER, signature);
        until(LATER);
        works.approveTrainerFor(contentId, trainer, true, 0, LATER, signature);
        vm.expectRevert(abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, creator, 1));
        works.approveTrainerFor(contentId, trainer, true, 0, LATER, signature);
    }

    /// New terms are bound whole: not one member, not the license text, may differ from what was signed.
    function test_setTermsFor_binds_terms_and_license() public {
        uint256 contentId = work(openTerms());
        Terms memory terms = openTerms();
        bytes memory signature = signed(CREATOR_KEY, setTermsDigest(contentId, LICENSE, terms, 0, LATER));
        bytes memory invalid = abi.encodeWithSelector(IContentRegistry.SignatureInvalid.selector, creator);
        vm.expectRevert(invalid);
        works.setTermsFor(contentId, keccak256("other"), terms, 0, LATER, signature);
        terms.approvalRequired = true;
        vm.expectRevert(invalid);
        works.setTermsFor(contentId, LICENSE, terms, 0, LATER, signature);
    }

    /// A former owner's signature is worth nothing after a sale.
    function test_relayed_actions_die_with_a_sale() public {
        uint256 contentId = work(openTerms());
        bytes memory signature = signed(CREATOR_KEY, withdrawDigest(contentId, 0, LATER));
        vm.prank(creator);
        works.transferFrom(creator, stranger, contentId);
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.SignatureInvalid.selector, stranger));
        works.withdrawFor(contentId, 0, LATER, signature);
    }

    /// A signature for one chain, or for another registry, is worth nothing here.
    function test_relayed_actions_bind_chain_and_contract() public {
        uint256 contentId = work(openTerms());
        bytes memory invalid = abi.encodeWithSelector(IContentRegistry.SignatureInvalid.selector, creator);
        bytes memory signature = signed(CREATOR_KEY, withdrawDigest(contentId, 0, LATER));
        uint256 here = block.chainid;
        vm.chainId(here + 1);
        vm.expectRevert(invalid);
        works.withdrawFor(contentId, 0, LATER, signature);
        vm.chainId(here);

        bytes32 typeHash = keccak256("Withdraw(uint256 contentId,uint256 nonce,uint64 deadline)");
        bytes32 structHash = keccak256(abi.encode(typeHash, contentId, 0, LATER));
        bytes32 elsewhere = domain("Viz ContentRegistry", address(adapters));
        signature = signed(CREATOR_KEY, keccak256(abi.encodePacked(hex"1901", elsewhere, structHash)));
        vm.expectRevert(invalid);
        works.withdrawFor(contentId, 0, LATER, signature);
    }

    /// A signature turned over (high s) is refused, so one action has one signature.
    function test_relayed_actions_refuse_high_s() public {
        uint256 contentId = work(openTerms());
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(CREATOR_KEY, withdrawDigest(contentId, 0, LATER));
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes memory turned = abi.encodePacked(r, bytes32(order - uint256(s)), uint8(55 - v));
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.SignatureInvalid.selector, creator));
        works.withdrawFor(contentId, 0, LATER, turned);
    }

    /// Garbage instead of a signature never acts for anybody, the zero address included.
    function testFuzz_registerFor_refuses_garbage(bytes memory signature, address by) public {
        vm.assume(by.code.length == 0);
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.SignatureInvalid.selector, by));
        works.registerFor(by, COMMITMENT, LICENSE, openTerms(), 0, LATER, signature);
    }

    /// A contract wallet owns works and acts by ERC-1271.
    function test_relayed_actions_of_a_contract_wallet() public {
        address wallet = address(new Wallet(creator));
        Terms memory terms = openTerms();
        bytes memory signature = signed(CREATOR_KEY, registerDigest(wallet, COMMITMENT, LICENSE, terms, 0, LATER));
        uint256 contentId = works.registerFor(wallet, COMMITMENT, LICENSE, terms, 0, LATER, signature);
        vm.assertEq(works.ownerOf(contentId), wallet, "owner");

        signature = signed(STRANGER_KEY, withdrawDigest(contentId, 1, LATER));
        vm.expectRevert(abi.encodeWithSelector(IContentRegistry.SignatureInvalid.selector, wallet));
        works.withdrawFor(contentId, 1, LATER, signature);
        signature = signed(CREATOR_KEY, withdrawDigest(contentId, 1, LATER));
        works.withdrawFor(contentId, 1, LATER, signature);
        vm.assertEq(works.contentOf(contentId).withdrawnAt, START, "withdrawn");
    }

    /// The owners of many works in one answer, in the order of the question; one unknown work refuses it whole.
    function test_ownersOf_answers_in_order_or_not_at_all() public {
        uint256[] memory ids = new uint256[](3);
        (ids[1], ids[0]) = (work(openTerms()), work(openTerms()));
        ids[2] = ids[0];
        vm.prank(creator);
        works.transferFrom(creator, stranger, ids[0]);
        address[] memory owners = works.ownersOf(ids);
        vm.assertEq(owners.length, 3, "all");
        vm.assertEq(owners[0], stranger, "the first asked");
        vm.assertEq(owners[1], creator, "the second");
        vm.assertEq(owners[2], stranger, "again");
        vm.assertEq(works.ownersOf(new uint256[](0)).length, 0, "none");
        ids[2] = 99;
        vm.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 99));
        works.ownersOf(ids);
    }
}
