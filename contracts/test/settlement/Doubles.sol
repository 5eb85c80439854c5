// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";

import {TestUSD} from "../../dev/TestUSD.sol";

/// @notice Works with owners, without the rest of a registry.
contract Works is ERC721("Works", "WORK") {
    function mint(address owner, uint256 contentId) external {
        _mint(owner, contentId);
    }

    function ownersOf(uint256[] calldata contentIds) external view returns (address[] memory owners) {
        owners = new address[](contentIds.length);
        for (uint256 i; i < contentIds.length; ++i) {
            owners[i] = ownerOf(contentIds[i]);
        }
    }
}

/// @notice The seam of the adapter registry, set by hand.
contract Adapters {
    uint64 public constant CLOSE_DELAY = 1 days;

    mapping(uint32 => uint256) private _economics;
    mapping(uint32 => address) private _trainer;
    mapping(uint32 => mapping(address => uint64)) private _servesUntil;
    mapping(uint32 => bytes32) public sharesHash;

    function set(uint32 id, address trainer, uint16 royaltyBps, uint16 trainerBps, uint64 retiresAt) external {
        _trainer[id] = trainer;
        _economics[id] =
            uint256(uint160(trainer)) << 96 | uint256(royaltyBps) << 80 | uint256(trainerBps) << 64 | retiresAt;
    }

    function setShares(uint32 id, uint256[] calldata shares) external {
        sharesHash[id] = keccak256(abi.encodePacked(shares));
    }

    function setServing(uint32 id, address node, uint64 until) external {
        _servesUntil[id][node] = until;
    }

    function settlementTerms(uint32 id, address node) external view returns (uint256, uint64) {
        if (_economics[id] == 0) return (0, 0);
        return (_economics[id], node == _trainer[id] ? type(uint64).max : _servesUntil[id][node]);
    }
}

/// @notice A dollar that can be told to misbehave.
contract Coin is TestUSD {
    uint256 public feeBps;
    bool public refuses;
    mapping(address => bool) public blacklisted;
    mapping(address => bool) public burns;
    address public callee;
    bytes public reentry;
    bool public reentered;

    function mintAny(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function setFee(uint256 bps) external {
        feeBps = bps;
    }

    function setRefuses(bool yes) external {
        refuses = yes;
    }

    function setBlacklisted(address account, bool yes) external {
        blacklisted[account] = yes;
    }

    function setBurns(address account, bool yes) external {
        burns[account] = yes;
    }

    /// @notice On every move from now on, calls `target` with `data` and notes whether that went through.
    function setReentry(address target, bytes calldata data) external {
        (callee, reentry, reentered) = (target, data, false);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        if (refuses) return false;
        return super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        if (refuses) return false;
        return super.transferFrom(from, to, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        require(!blacklisted[to], "blacklisted");
        while (burns[to]) {}
        if (callee != address(0)) {
            (bool through,) = callee.call(reentry);
            if (through) reentered = true;
        }
        uint256 fee = from == address(0) ? 0 : amount * feeBps / 10_000;
        super._update(from, to, amount - fee);
        if (fee != 0) super._update(from, address(0xFEE), fee);
    }
}

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
