// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC721Metadata} from "@openzeppelin/contracts/token/ERC721/extensions/IERC721Metadata.sol";
import {TestUSD} from "../../dev/TestUSD.sol";
import {IAdapterRegistry} from "../../interfaces/IAdapterRegistry.sol";
import {IContentRegistry} from "../../interfaces/IContentRegistry.sol";
import {Terms, ALL_USES} from "../../types/Terms.sol";
import {Cheats} from "../Cheats.sol";

/// @notice A contract wallet that accepts what its key signs.
contract Wallet {
    address private immutable _key;

    constructor(address key) {
        _key = key;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        (bytes32 r, bytes32 s) = abi.decode(signature[:64], (bytes32, bytes32));
        return ecrecover(hash, uint8(signature[64]), r, s) == _key ? this.isValidSignature.selector : bytes4(0);
    }
}

/// @notice All that a ContentRegistry answers to.
interface IWorks is IContentRegistry, IERC721Metadata {
    function nonces(address owner) external view returns (uint256);
}

/// @notice The registries, a few people with keys, and the EIP-712 digests written down a second time, by hand.
/// @dev The contracts come as the artifacts that are shipped, so the tests need not be compiled with them.
abstract contract Fixture {
    Cheats internal constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint64 internal constant CLOSE_DELAY = 1 days;
    uint64 internal constant MIN_NOTICE = 2 days;
    uint64 internal constant NEVER = type(uint64).max;
    uint256 internal constant START = 1_700_000_000;
    bytes32 internal constant LICENSE = keccak256("license text");

    uint256 internal constant CREATOR_KEY = 0xC0FFEE;
    uint256 internal constant TRAINER_KEY = 0x7A;
    uint256 internal constant STRANGER_KEY = 0x57;

    address internal creator = vm.addr(CREATOR_KEY);
    address internal trainer = vm.addr(TRAINER_KEY);
    address internal stranger = vm.addr(STRANGER_KEY);
    address internal node = address(0xA0DE);

    TestUSD internal usd;
    IWorks internal works;
    IAdapterRegistry internal adapters;

    string private constant TERMS_TYPE =
        "Terms(uint96 trainingFee,uint16 minRoyaltyBps,uint32 grantDuration,uint32 notice,uint8 revocationClass,uint8 uses,bool approvalRequired)";

    function setUp() public virtual {
        vm.warp(START);
        usd = new TestUSD();
        works = deployWorks(address(usd));
        adapters = deployAdapters(CLOSE_DELAY);
        usd.mint(trainer, 1_000_000e6);
        vm.prank(trainer);
        usd.approve(address(works), type(uint256).max);
    }

    function deployWorks(address token) internal returns (IWorks) {
        return IWorks(vm.deployCode("ContentRegistry.sol:ContentRegistry", abi.encode(token)));
    }

    function deployAdapters(uint64 closeDelay) internal returns (IAdapterRegistry) {
        return IAdapterRegistry(vm.deployCode("AdapterRegistry.sol:AdapterRegistry", abi.encode(works, closeDelay)));
    }

    // Actors' moves

    function openTerms() internal pure returns (Terms memory) {
        return Terms({
            trainingFee: 0,
            minRoyaltyBps: 0,
            grantDuration: 0,
            notice: 0,
            revocationClass: 0,
            uses: ALL_USES,
            approvalRequired: false
        });
    }

    function work(Terms memory terms) internal returns (uint256 contentId) {
        bytes32 commitment = keccak256(abi.encode(creator, works.contentCount()));
        vm.prank(creator);
        return works.register(commitment, LICENSE, terms);
    }

    function offer(uint256 contentId) internal view returns (bytes32) {
        return works.contentOf(contentId).termsHash;
    }

    function grant(uint256 contentId) internal {
        bytes32 termsHash = offer(contentId);
        vm.prank(trainer);
        works.acquireGrant(contentId, termsHash);
    }

    function licensedWork(Terms memory terms) internal returns (uint256 contentId) {
        contentId = work(terms);
        grant(contentId);
    }

    function withdrawWork(uint256 contentId) internal {
        address owner = works.ownerOf(contentId);
        vm.prank(owner);
        works.withdraw(contentId);
    }

    function row(uint256 contentId, uint256 bps) internal pure returns (uint256) {
        return contentId << 16 | bps;
    }

    function whole(uint256 contentId) internal pure returns (uint256[] memory shares) {
        shares = new uint256[](1);
        shares[0] = row(contentId, 10_000);
    }

    function halves(uint256 first, uint256 second) internal pure returns (uint256[] memory shares) {
        shares = new uint256[](2);
        shares[0] = row(first, 5_000);
        shares[1] = row(second, 5_000);
    }

    function adapter(uint256[] memory shares) internal returns (uint32) {
        vm.prank(trainer);
        return adapters.register("base", "weights", "bafkadapter", "manifest", 3_000, 1_000, shares);
    }

    function retiresAt(uint32 adapterId) internal view returns (uint64) {
        return adapters.adapterOf(adapterId).retiresAt;
    }

    function until(uint256 time) internal {
        vm.warp(time);
    }

    // Signatures

    function signed(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
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

    function worksDigest(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain("Viz ContentRegistry", address(works)), structHash));
    }

    function usdDigest(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain("Viz Test USD", address(usd)), structHash));
    }

    function termsStruct(Terms memory terms) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256(bytes(TERMS_TYPE)),
                terms.trainingFee,
                terms.minRoyaltyBps,
                terms.grantDuration,
                terms.notice,
                terms.revocationClass,
                terms.uses,
                terms.approvalRequired
            )
        );
    }

    function registerDigest(
        address by,
        bytes32 commitment,
        bytes32 licenseHash,
        Terms memory terms,
        uint256 nonce,
        uint64 deadline
    ) internal view returns (bytes32) {
        bytes32 typeHash = keccak256(
            bytes.concat(
                "Register(address creator,bytes32 commitment,bytes32 licenseHash,Terms terms,uint256 nonce,uint64 deadline)",
                bytes(TERMS_TYPE)
            )
        );
        return
            worksDigest(
                keccak256(abi.encode(typeHash, by, commitment, licenseHash, termsStruct(terms), nonce, deadline))
            );
    }

    function setTermsDigest(uint256 contentId, bytes32 licenseHash, Terms memory terms, uint256 nonce, uint64 deadline)
        internal
        view
        returns (bytes32)
    {
        bytes32 typeHash = keccak256(
            bytes.concat(
                "SetTerms(uint256 contentId,bytes32 licenseHash,Terms terms,uint256 nonce,uint64 deadline)",
                bytes(TERMS_TYPE)
            )
        );
        return worksDigest(keccak256(abi.encode(typeHash, contentId, licenseHash, termsStruct(terms), nonce, deadline)));
    }

    function approveDigest(uint256 contentId, address who, bool allowed, uint256 nonce, uint64 deadline)
        internal
        view
        returns (bytes32)
    {
        bytes32 typeHash =
            keccak256("Approve(uint256 contentId,address trainer,bool allowed,uint256 nonce,uint64 deadline)");
        return worksDigest(keccak256(abi.encode(typeHash, contentId, who, allowed, nonce, deadline)));
    }

    function withdrawDigest(uint256 contentId, uint256 nonce, uint64 deadline) internal view returns (bytes32) {
        bytes32 typeHash = keccak256("Withdraw(uint256 contentId,uint256 nonce,uint64 deadline)");
        return worksDigest(keccak256(abi.encode(typeHash, contentId, nonce, deadline)));
    }

    function receiveDigest(address from, address to, uint256 value, bytes32 nonce) internal view returns (bytes32) {
        bytes32 typeHash = keccak256(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        );
        return usdDigest(keccak256(abi.encode(typeHash, from, to, value, uint256(0), type(uint256).max, nonce)));
    }
}
