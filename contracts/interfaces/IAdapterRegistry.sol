// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IContentRegistry} from "./IContentRegistry.sol";

/// @notice What was registered, all of it fixed for ever but `retiresAt`.
struct Adapter {
    address trainer;
    uint16 royaltyBps;
    uint16 trainerBps;
    /// Revenue claimed later goes to the contents whole; type(uint64).max while not retiring.
    uint64 retiresAt;
    bytes32 baseModel;
    bytes32 weightsDigest;
    bytes32 manifestHash;
    bytes32 sharesHash;
}

/// @notice Whether a node may serve an adapter now, and if not, why.
enum Service {
    Servable,
    /// Still, until the time returned with it.
    Ending,
    NotRegistered,
    Retired,
    NotPermitted,
    PermissionEnded
}

/// @title Adapters, their royalty tables and their retirement
/// @notice An adapter can be registered only by a trainer who holds a live grant to every work it
///         declares. Its shares and rates never change; it ends by retirement, which always leaves nodes
///         MIN_NOTICE to claim what they earned. No administrator, no money.
/// @dev A share table is one 32-byte word a row, contentId << 16 | bps, strictly ascending by contentId,
///      bps summing to 10,000, 1 to 128 rows. Its hash (keccak256 of the words) is stored; the rows are
///      in `AdapterRegistered`, and whoever needs them passes them in. The CID too is only in the event.
interface IAdapterRegistry {
    event AdapterRegistered(
        uint32 indexed adapterId,
        address indexed trainer,
        bytes32 indexed baseModel,
        bytes32 weightsDigest,
        string cid,
        bytes32 manifestHash,
        uint16 royaltyBps,
        uint16 trainerBps,
        uint256[] shares
    );
    /// @notice The retirement is now at `retiresAt`; it can only move earlier.
    event RetirementSet(uint32 indexed adapterId, uint64 retiresAt);
    /// @notice `node` may serve until `servesUntil`; type(uint64).max while nothing ends it.
    event ServingSet(uint32 indexed adapterId, address indexed node, uint64 servesUntil);

    error CloseDelayOutOfBounds(uint64 closeDelay);
    error CidLengthOutOfBounds(uint256 length);
    error BaseModelEmpty();
    error WeightsDigestEmpty();
    error ManifestHashEmpty();
    error RatesTooHigh(uint16 royaltyBps, uint16 trainerBps);
    error ShareCountOutOfBounds(uint256 count);
    /// @notice The row's contentId is not above the one before it.
    error SharesNotAscending(uint256 index);
    error ShareEmpty(uint256 contentId);
    error SharesDoNotSum(uint256 totalBps);
    /// @notice `trainer` holds no grant to the work that permits registering now.
    error Unlicensed(uint256 contentId, address trainer);
    /// @notice The grant does not permit training, embodiment and serving alike.
    error UseNotPermitted(uint256 contentId, address trainer, uint8 uses);
    /// @notice The work would get less than the grant's minimum of the gross revenue.
    error RoyaltyBelowMinimum(uint256 contentId, address trainer, uint16 minRoyaltyBps);
    error NotRegistered(uint32 adapterId);
    error NotTrainer(uint32 adapterId, address caller);
    error TrainerAlwaysServes(uint32 adapterId);
    /// @notice The table passed in is not the adapter's.
    error WrongShares(uint32 adapterId);
    error ShareIndexOutOfBounds(uint256 index);
    /// @notice Neither a class-2 withdrawal nor a lapsed grant: this work retires nothing now.
    error NothingToEnforce(uint256 contentId, address trainer);

    /// @notice Registers an adapter that the caller trained.
    /// @param baseModel The digest of the base model it belongs to.
    /// @param weightsDigest The hash of the plain safetensors file.
    /// @param cid Where the stored bytes are (sealed or not); 1 to 128 bytes of text.
    /// @param manifestHash The hash of the signed provenance statement.
    /// @param royaltyBps The works' part of gross revenue, shared by `shares`.
    /// @param trainerBps The trainer's part of gross revenue; the node gets the rest.
    /// @param shares The share table.
    /// @return adapterId Sequential from 1; rely on it only after its confirmations.
    function register(
        bytes32 baseModel,
        bytes32 weightsDigest,
        string calldata cid,
        bytes32 manifestHash,
        uint16 royaltyBps,
        uint16 trainerBps,
        uint256[] calldata shares
    ) external returns (uint32 adapterId);

    /// @notice Retires the adapter MIN_NOTICE from now. Trainer only. Does nothing where it retires earlier.
    /// @return retiresAt The retirement that holds now.
    function retire(uint32 adapterId) external returns (uint64 retiresAt);

    /// @notice Retires the adapter because of the work in row `index`: it was withdrawn and the trainer's
    ///         grant says class 2 (from the withdrawal, after the grant's notice), or the trainer has no
    ///         grant any more that permits embodiment and serving (from the lapse, no notice). Never
    ///         earlier than MIN_NOTICE from now, never later than already set. By anyone.
    /// @return retiresAt The retirement that holds now.
    function enforce(uint32 adapterId, uint256[] calldata shares, uint256 index) external returns (uint64 retiresAt);

    /// @notice Lets another node serve the adapter, or ends that MIN_NOTICE from now. Trainer only.
    function setServing(uint32 adapterId, address node, bool allowed) external;

    /// @notice What a claim needs, in one call.
    /// @return economics trainer(160) << 96 | royaltyBps(16) << 80 | trainerBps(16) << 64 | retiresAt(64);
    ///         0 when not registered; retiresAt is type(uint64).max while not retiring.
    /// @return servesUntil 0 never permitted, type(uint64).max permitted, else permission ends then; the
    ///         trainer's own node always max.
    function settlementTerms(uint32 adapterId, address node)
        external
        view
        returns (uint256 economics, uint64 servesUntil);

    /// @notice keccak256 of the share table; 0 when not registered.
    function sharesHash(uint32 adapterId) external view returns (bytes32);

    /// @notice The adapter's record; reverts where there is none.
    function adapterOf(uint32 adapterId) external view returns (Adapter memory);

    /// @notice Whether `node` may serve the adapter now, why not, and until when if an end is known
    ///         (type(uint64).max if not, 0 where it never could).
    function servable(uint32 adapterId, address node) external view returns (bool ok, Service why, uint64 until);

    /// @notice The first row whose work makes `enforce` move the retirement now: what a watcher asks.
    /// @return found Whether there is one.
    /// @return index The row.
    /// @return retiresAt The retirement that `enforce` would set.
    function enforceable(uint32 adapterId, uint256[] calldata shares)
        external
        view
        returns (bool found, uint256 index, uint64 retiresAt);

    /// @notice The number of adapters; their ids are 1 to this. Id 0 is the bare base model.
    function adapterCount() external view returns (uint32);

    /// @notice The registry whose works and grants count here.
    function contents() external view returns (IContentRegistry);

    /// @notice How long a channel takes to close, in seconds; Settlement takes it from here.
    // solhint-disable-next-line func-name-mixedcase
    function CLOSE_DELAY() external view returns (uint64);

    /// @notice Twice CLOSE_DELAY: what every node keeps to claim what it earned.
    // solhint-disable-next-line func-name-mixedcase
    function MIN_NOTICE() external view returns (uint64);
}
