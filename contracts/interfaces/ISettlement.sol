// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

/// @title Channels, claims, royalties and collection
/// @notice A buyer escrows tokens in a channel towards one node, signs vouchers off chain, and the node redeems many
/// of them in one transaction. Contents, trainers and nodes earn from each adapter in fixed parts.
///
/// Amounts are token base units and fit 96 bits. Adapter id 0 is the bare base model: it owes no royalty.
interface ISettlement {
    /// @notice How one row of a claim was judged. Only a `Good` row changes anything.
    enum RowStatus {
        Good,
        /// The bytes end before the row does; nothing after it can be read.
        Truncated,
        /// A voucher owes for at least one adapter.
        NoLines,
        /// No signer can be recovered, or s is high.
        BadSignature,
        /// The signer has no deposit and no history at this node (also: the voucher is for another node or chain).
        NoChannel,
        /// The channel's settled total is not the one the voucher was signed on.
        WrongBase,
        /// Adapter ids do not strictly ascend.
        BadOrder,
        /// A line names an adapter that is not registered.
        UnknownAdapter,
        /// A line owes nothing.
        ZeroAmount,
        /// The lines sum to more than the deposit.
        InsufficientDeposit,
        /// The settled total would no longer fit 96 bits.
        TotalTooLarge
    }

    /// @notice One adapter and its amount, as `hashUsage` takes it.
    struct UsageLine {
        uint32 adapterId;
        uint96 amount;
    }

    // ---------------------------------------------------------------- errors

    /// An address that must be given is zero.
    error ZeroAddress();
    /// Nothing was paid in.
    error ZeroAmount();
    /// The contract would hold more than 2^96 - 1 units.
    error AmountTooLarge();
    /// A signature is not of the one who must sign.
    error BadSignature();
    /// The deadline has passed (chain time).
    error DeadlinePassed(uint64 deadline);
    /// A signed request to close was used before; a new one needs a later deadline.
    error SignatureUsed(uint64 usedUntil);
    /// The channel was never opened.
    error NoChannel();
    /// The channel belongs to another payer, for ever.
    error WrongPayer(address payer);
    /// Only the payer may do this.
    error NotPayer();
    /// A close is already running.
    error AlreadyClosing(uint64 closeAt);
    /// No close was requested.
    error NotClosing();
    /// The close delay has not passed.
    error TooEarly(uint64 closeAt);
    /// The channel's settled total is not the one the node signed.
    error WrongTotal(uint96 settled);
    /// The adapter is not registered.
    error UnknownAdapter(uint32 adapterId);
    /// The share table is not the adapter's.
    error WrongShares(uint32 adapterId);
    /// Too little gas to give every recipient its full stipend; send more.
    error NotEnoughGas();
    /// The account has nothing to collect.
    error NothingToCollect(address account);

    // ---------------------------------------------------------------- events

    /// The first deposit of (signer, node); `channelId` names the pair in all later events.
    event ChannelOpened(bytes32 indexed channelId, address indexed signer, address indexed node, address payer);
    /// The deposit of a channel grew, at its opening too.
    event Deposited(bytes32 indexed channelId, address indexed from, uint256 amount);
    /// A row was claimed: the settled total rose to `settled`, the deposit fell by as much.
    event Claimed(bytes32 indexed channelId, uint256 settled, bytes32 receiptsHead);
    /// Row number `row` (from 0) of a claim by `node` was refused and changed nothing.
    event RowRefused(address indexed node, uint256 row, RowStatus status);
    /// An adapter earned `amount` at a node: once an adapter a claim, once a `pay`. `toTrainer` and `toNode` joined the
    /// balances of those two, `toContents` waits for `distribute`. What the three parts lack of `amount` is rounding, at
    /// most two units over the adapter's life; it stays undistributed.
    event Earned(
        uint32 indexed adapterId,
        address indexed node,
        address indexed trainer,
        uint256 amount,
        uint256 toContents,
        uint256 toTrainer,
        uint256 toNode
    );
    /// `accrued`, all that the contents of the adapter had earned since the last time, was distributed; `paid` of it
    /// became transfers or balances now (rounding may pay a unit a row later, or pay an earlier one now).
    event Distributed(uint32 indexed adapterId, uint256 accrued, uint256 paid);
    /// A transfer of royalties failed; its amount joined the account's balance instead.
    event TransferFailed(address indexed account, uint256 amount);
    /// An account's balance was sent to `to`.
    event Collected(address indexed account, address indexed to, uint256 amount);
    /// From `effectiveAt` on, the account's balance is collected to `to`.
    event PayoutAddressSet(address indexed account, address indexed to, uint64 effectiveAt);
    /// The channel can be withdrawn from `closeAt` on.
    event CloseRequested(bytes32 indexed channelId, uint64 closeAt);
    /// The rest of the deposit went back to the payer; the channel may be used again.
    event Withdrawn(bytes32 indexed channelId, address indexed payer, uint256 amount);

    // ---------------------------------------------------------------- channels

    /// @notice Opens the channel (signer, node) with a deposit from the caller, its payer for ever.
    /// @param signerSignature the signer's `OpenChannel(payer, node)`; unused, so may be empty, where the signer is the
    /// payer or the channel is the payer's already.
    function open(address signer, address node, uint256 amount, bytes calldata signerSignature) external;

    /// @notice `open` for a payer without gas: the deposit comes by EIP-3009, relayed by anyone.
    /// @param authorization the payer's signature over `ReceiveWithAuthorization` with nonce
    /// `authorizationNonce(OPEN_KIND, signer, node, salt)`.
    function openWithAuthorization(
        address payer,
        address signer,
        address node,
        uint256 amount,
        bytes32 salt,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata authorization,
        bytes calldata signerSignature
    ) external;

    /// @notice Adds to a channel's deposit from anyone; what is left of it belongs to the payer, whom the caller names.
    function topUp(address signer, address node, address expectedPayer, uint256 amount) external;

    /// @notice `topUp` by the channel's payer, by EIP-3009 with nonce
    /// `authorizationNonce(TOP_UP_KIND, signer, node, salt)`, relayed by anyone.
    function topUpWithAuthorization(
        address payer,
        address signer,
        address node,
        uint256 amount,
        bytes32 salt,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata authorization
    ) external;

    /// @notice Starts a close; the caller is the payer. Claims stay valid until the withdrawal.
    function requestClose(address signer, address node) external;

    /// @notice Starts a close on the payer's signed `RequestClose` (EOA or ERC-1271), relayed by anyone. A signature
    /// works once: the next one needs a later deadline.
    function requestCloseFor(address signer, address node, uint64 deadline, bytes calldata signature) external;

    /// @notice After the close delay, by anyone: the rest of the deposit goes to the payer.
    function withdraw(address signer, address node) external;

    /// @notice Ends a channel at once with the node's signed `Close`, which states the total after its last claim.
    function closeNow(address signer, address node, uint96 settled, uint64 deadline, bytes calldata nodeSignature)
        external;

    // ---------------------------------------------------------------- earning

    /// @notice Redeems vouchers made out to the caller. Every row is judged whole, then applied or refused alone.
    /// @param rows packed rows, each: r (32 bytes) | yParityAndS (32, EIP-2098) | settled (12) | receiptsHead (32) |
    /// count of lines (1) | lines, each: adapterId (4) | amount (12); all big-endian.
    /// @return claimed the sum of all good rows.
    function claim(bytes calldata rows) external returns (uint256 claimed);

    /// @notice How `claim(rows)` by `node` would judge each row now; a truncated one is the last.
    function previewClaim(address node, bytes calldata rows) external view returns (RowStatus[] memory statuses);

    /// @notice Adds revenue to an adapter at a node, from the caller's tokens, split like a claim's.
    function pay(uint32 adapterId, address node, uint256 amount) external;

    /// @notice Pays what the adapter's contents have earned to their owners of this moment. By anyone.
    /// @param shares the adapter's share table: one word a row, contentId << 16 | bps.
    /// @return paid the sum of all that was sent or, where sending failed, credited.
    function distribute(uint32 adapterId, uint256[] calldata shares) external returns (uint256 paid);

    /// @notice Sends an account's balance to it, or to the payout address it named. By anyone.
    function collect(address account) external returns (uint256 amount);

    /// @notice Names where the caller's balance is collected to, after the close delay; zero means itself.
    function setPayoutAddress(address to) external;

    // ---------------------------------------------------------------- views

    /// @notice The state of (signer, node); `payer` is zero where it was never opened.
    function channel(address signer, address node)
        external
        view
        returns (address payer, uint96 deposit, uint96 settled, uint64 closeAt);

    /// @notice keccak256(abi.encode(signer, node)).
    function channelId(address signer, address node) external pure returns (bytes32);

    /// @notice All that an adapter ever earned, gross, modulo `REVENUE_MODULUS`.
    function revenue(uint32 adapterId) external view returns (uint96);

    /// @notice What the adapter's contents earned and `distribute` has not yet divided.
    function owed(uint32 adapterId) external view returns (uint96);

    /// @notice What `collect(account)` would send now, and where to.
    function balance(address account) external view returns (uint96 amount, address to);

    /// @notice The payout address that is on its way; `effectiveAt` is zero where there is none.
    function pendingPayout(address account) external view returns (address to, uint64 effectiveAt);

    /// @notice The token that everything here is counted in.
    function TOKEN() external view returns (address);

    /// @notice The works whose owners are paid.
    function CONTENTS() external view returns (address);

    /// @notice The adapters that may earn.
    function ADAPTERS() external view returns (address);

    /// @notice Seconds between a request to close and the withdrawal.
    function CLOSE_DELAY() external view returns (uint64);

    /// @notice `revenue` counts modulo this multiple of 10,000, so that no amount of revenue can stop an adapter.
    function REVENUE_MODULUS() external view returns (uint256);

    /// @notice The gas that a transfer of royalties is given, always in full.
    function TRANSFER_GAS() external view returns (uint256);

    /// @notice The first word of an opening's authorization nonce: keccak256("Viz.OpenChannel").
    function OPEN_KIND() external view returns (bytes32);

    /// @notice The first word of a top-up's authorization nonce: keccak256("Viz.TopUp").
    function TOP_UP_KIND() external view returns (bytes32);

    /// @notice keccak256(abi.encode(kind, signer, node, salt)).
    function authorizationNonce(bytes32 kind, address signer, address node, bytes32 salt)
        external
        pure
        returns (bytes32);

    /// @notice The EIP-712 domain separator: "Viz Settlement", "1".
    function domainSeparator() external view returns (bytes32);

    /// @notice keccak256 of the packed lines of a voucher.
    function hashUsage(UsageLine[] calldata lines) external pure returns (bytes32);

    /// @notice The digest a signer signs: `Voucher(address node,uint96 settled,bytes32 usageHash,bytes32 receiptsHead)`.
    function hashVoucher(address node, uint96 settled, bytes32 usageHash, bytes32 receiptsHead)
        external
        view
        returns (bytes32);

    /// @notice The digest a signer signs: `OpenChannel(address payer,address node)`.
    function hashOpenChannel(address payer, address node) external view returns (bytes32);

    /// @notice The digest a payer signs: `RequestClose(address signer,address node,uint64 deadline)`.
    function hashRequestClose(address signer, address node, uint64 deadline) external view returns (bytes32);

    /// @notice The digest a node signs: `Close(address signer,address node,uint96 settled,uint64 deadline)`.
    function hashClose(address signer, address node, uint96 settled, uint64 deadline) external view returns (bytes32);
}
