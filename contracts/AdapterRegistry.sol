// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {Adapter, IAdapterRegistry, Service} from "./interfaces/IAdapterRegistry.sol";
import {Grant, IContentRegistry} from "./interfaces/IContentRegistry.sol";
import {BPS, USE_EMBODY, USE_SERVE, USE_TRAIN} from "./types/Terms.sol";

/// @title Adapters, their royalty tables and their retirement
/// @dev Invariants: everything but retiresAt is written once; retiresAt never rises, and is never set
///      to less than MIN_NOTICE from the moment of setting; so is the end of a serving permission.
contract AdapterRegistry is IAdapterRegistry {
    uint256 public constant MAX_SHARES = 128;
    uint256 public constant MAX_CID_BYTES = 128;
    uint64 public constant MAX_CLOSE_DELAY = 30 days;
    uint64 private constant NEVER = type(uint64).max;

    uint8 private constant USES_TO_REGISTER = USE_TRAIN | USE_EMBODY | USE_SERVE;
    uint8 private constant USES_TO_KEEP = USE_EMBODY | USE_SERVE;

    IContentRegistry public immutable contents;
    uint64 public immutable CLOSE_DELAY;
    uint64 public immutable MIN_NOTICE;

    uint32 public adapterCount;
    mapping(uint32 adapterId => Adapter) private _adapters;
    mapping(uint32 adapterId => mapping(address node => uint64)) private _servesUntil;

    /// @param contents_ The registry whose works and grants count here.
    /// @param closeDelay How long a channel takes to close, in seconds; 1 day unless there is a reason.
    constructor(IContentRegistry contents_, uint64 closeDelay) {
        if (closeDelay == 0 || closeDelay > MAX_CLOSE_DELAY) revert CloseDelayOutOfBounds(closeDelay);
        contents = contents_;
        CLOSE_DELAY = closeDelay;
        MIN_NOTICE = 2 * closeDelay;
    }

    /// @inheritdoc IAdapterRegistry
    function register(
        bytes32 baseModel,
        bytes32 weightsDigest,
        string calldata cid,
        bytes32 manifestHash,
        uint16 royaltyBps,
        uint16 trainerBps,
        uint256[] calldata shares
    ) external returns (uint32 adapterId) {
        if (baseModel == 0) revert BaseModelEmpty();
        if (weightsDigest == 0) revert WeightsDigestEmpty();
        if (manifestHash == 0) revert ManifestHashEmpty();
        if (bytes(cid).length == 0 || bytes(cid).length > MAX_CID_BYTES) {
            revert CidLengthOutOfBounds(bytes(cid).length);
        }
        if (uint256(royaltyBps) + trainerBps > BPS) revert RatesTooHigh(royaltyBps, trainerBps);
        _checkShares(msg.sender, royaltyBps, shares);

        adapterId = ++adapterCount;
        Adapter storage adapter = _adapters[adapterId];
        adapter.trainer = msg.sender;
        adapter.royaltyBps = royaltyBps;
        adapter.trainerBps = trainerBps;
        adapter.retiresAt = NEVER;
        adapter.baseModel = baseModel;
        adapter.weightsDigest = weightsDigest;
        adapter.manifestHash = manifestHash;
        adapter.sharesHash = keccak256(abi.encodePacked(shares));
        emit AdapterRegistered(
            adapterId, msg.sender, baseModel, weightsDigest, cid, manifestHash, royaltyBps, trainerBps, shares
        );
    }

    /// @inheritdoc IAdapterRegistry
    function retire(uint32 adapterId) external returns (uint64) {
        _requireTrainer(adapterId);
        return _retireBy(adapterId, uint64(block.timestamp));
    }

    /// @inheritdoc IAdapterRegistry
    function enforce(uint32 adapterId, uint256[] calldata shares, uint256 index) external returns (uint64) {
        address trainer = _requireShares(adapterId, shares);
        if (index >= shares.length) revert ShareIndexOutOfBounds(index);
        uint256 contentId = shares[index] >> 16;
        uint64 due = _due(contentId, trainer);
        if (due == NEVER) revert NothingToEnforce(contentId, trainer);
        return _retireBy(adapterId, due);
    }

    /// @inheritdoc IAdapterRegistry
    function setServing(uint32 adapterId, address node, bool allowed) external {
        _requireTrainer(adapterId);
        if (node == msg.sender) revert TrainerAlwaysServes(adapterId);
        uint64 current = _servesUntil[adapterId][node];
        // Taking back what was never given, or is already ending, changes nothing.
        if (!allowed && current != NEVER) return;
        if (allowed && current == NEVER) return;
        uint64 next = allowed ? NEVER : uint64(block.timestamp) + MIN_NOTICE;
        _servesUntil[adapterId][node] = next;
        emit ServingSet(adapterId, node, next);
    }

    /// @inheritdoc IAdapterRegistry
    function settlementTerms(uint32 adapterId, address node)
        external
        view
        returns (uint256 economics, uint64 servesUntil)
    {
        Adapter storage adapter = _adapters[adapterId];
        address trainer = adapter.trainer;
        if (trainer == address(0)) return (0, 0);
        economics = uint256(uint160(trainer)) << 96 | uint256(adapter.royaltyBps) << 80 | uint256(adapter.trainerBps)
            << 64 | adapter.retiresAt;
        servesUntil = node == trainer ? NEVER : _servesUntil[adapterId][node];
    }

    /// @inheritdoc IAdapterRegistry
    function sharesHash(uint32 adapterId) external view returns (bytes32) {
        return _adapters[adapterId].sharesHash;
    }

    /// @inheritdoc IAdapterRegistry
    function adapterOf(uint32 adapterId) external view returns (Adapter memory) {
        _trainerOf(adapterId);
        return _adapters[adapterId];
    }

    /// @inheritdoc IAdapterRegistry
    function servable(uint32 adapterId, address node) external view returns (bool ok, Service why, uint64 until) {
        Adapter storage adapter = _adapters[adapterId];
        address trainer = adapter.trainer;
        if (trainer == address(0)) return (false, Service.NotRegistered, 0);
        uint64 retiresAt = adapter.retiresAt;
        if (block.timestamp >= retiresAt) return (false, Service.Retired, retiresAt);
        uint64 permitted = node == trainer ? NEVER : _servesUntil[adapterId][node];
        if (permitted == 0) return (false, Service.NotPermitted, 0);
        if (block.timestamp >= permitted) return (false, Service.PermissionEnded, permitted);
        until = permitted < retiresAt ? permitted : retiresAt;
        return (true, until == NEVER ? Service.Servable : Service.Ending, until);
    }

    /// @inheritdoc IAdapterRegistry
    function enforceable(uint32 adapterId, uint256[] calldata shares)
        external
        view
        returns (bool found, uint256 index, uint64 retiresAt)
    {
        address trainer = _requireShares(adapterId, shares);
        uint64 current = _adapters[adapterId].retiresAt;
        for (; index < shares.length; ++index) {
            uint64 due = _due(shares[index] >> 16, trainer);
            if (due == NEVER) continue;
            retiresAt = _notBeforeNotice(due);
            if (retiresAt < current) return (true, index, retiresAt);
        }
        return (false, 0, current);
    }

    /// @dev Reverts unless the table is well formed and `trainer` is licensed for every row.
    function _checkShares(address trainer, uint16 royaltyBps, uint256[] calldata shares) private view {
        if (shares.length == 0 || shares.length > MAX_SHARES) revert ShareCountOutOfBounds(shares.length);
        uint256 previous;
        uint256 totalBps;
        for (uint256 i; i < shares.length; ++i) {
            uint256 contentId = shares[i] >> 16;
            uint256 shareBps = uint16(shares[i]);
            // Ids start at 1, so this also refuses a row for content 0.
            if (contentId <= previous) revert SharesNotAscending(i);
            if (shareBps == 0) revert ShareEmpty(contentId);
            previous = contentId;
            totalBps += shareBps;

            Grant memory grant = contents.grantOf(contentId, trainer);
            if (block.timestamp >= grant.registersUntil) revert Unlicensed(contentId, trainer);
            if (grant.terms.uses & USES_TO_REGISTER != USES_TO_REGISTER) {
                revert UseNotPermitted(contentId, trainer, grant.terms.uses);
            }
            // royaltyBps * shareBps / 10,000 >= minimum, without the rounding.
            if (royaltyBps * shareBps < uint256(grant.terms.minRoyaltyBps) * BPS) {
                revert RoyaltyBelowMinimum(contentId, trainer, grant.terms.minRoyaltyBps);
            }
        }
        if (totalBps != BPS) revert SharesDoNotSum(totalBps);
    }

    /// @dev When this work makes an adapter of `trainer` end, were there no MIN_NOTICE: the trigger plus
    ///      its notice. NEVER where nothing triggers now.
    function _due(uint256 contentId, address trainer) private view returns (uint64 due) {
        Grant memory grant = contents.grantOf(contentId, trainer);
        due = NEVER;
        if (grant.withdrawnAt != 0 && grant.terms.revocationClass == 2) {
            due = grant.withdrawnAt + grant.terms.notice;
        }
        // A lapse: the agreed end has passed, or the trainer replaced the grant by one that does not
        // permit what the adapter does. A withdrawal under class 1 is no lapse: such adapters stay.
        uint64 lapsedAt = NEVER;
        if (grant.terms.uses & USES_TO_KEEP != USES_TO_KEEP) lapsedAt = grant.acquiredAt;
        else if (block.timestamp >= grant.expiresAt) lapsedAt = grant.expiresAt;
        if (lapsedAt < due) due = lapsedAt;
    }

    /// @dev retiresAt = min(retiresAt, max(due, now + MIN_NOTICE)).
    function _retireBy(uint32 adapterId, uint64 due) private returns (uint64 retiresAt) {
        retiresAt = _notBeforeNotice(due);
        Adapter storage adapter = _adapters[adapterId];
        uint64 current = adapter.retiresAt;
        if (retiresAt >= current) return current;
        adapter.retiresAt = retiresAt;
        emit RetirementSet(adapterId, retiresAt);
    }

    function _notBeforeNotice(uint64 due) private view returns (uint64) {
        uint64 earliest = uint64(block.timestamp) + MIN_NOTICE;
        return due > earliest ? due : earliest;
    }

    function _requireShares(uint32 adapterId, uint256[] calldata shares) private view returns (address trainer) {
        trainer = _trainerOf(adapterId);
        if (keccak256(abi.encodePacked(shares)) != _adapters[adapterId].sharesHash) revert WrongShares(adapterId);
    }

    function _requireTrainer(uint32 adapterId) private view {
        if (_trainerOf(adapterId) != msg.sender) revert NotTrainer(adapterId, msg.sender);
    }

    function _trainerOf(uint32 adapterId) private view returns (address trainer) {
        trainer = _adapters[adapterId].trainer;
        if (trainer == address(0)) revert NotRegistered(adapterId);
    }
}
