// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IAdapterRegistry} from "./interfaces/IAdapterRegistry.sol";
import {IContentRegistry} from "./interfaces/IContentRegistry.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {ClaimLoop} from "./libraries/ClaimLoop.sol";
import {ClaimRow, HEADER, LINE} from "./libraries/ClaimRow.sol";
import {ShareTable} from "./libraries/ShareTable.sol";
import {Books} from "./settlement/Books.sol";
import {BPS} from "./types/Terms.sol";

/// @title Settlement
/// @notice THE ACCOUNTING SENTENCE. The contract's token balance is always at least the unspent channel deposits plus
/// the undistributed royalties (rounding not yet whole included) plus the uncollected balances; any excess is tokens
/// somebody sent unasked, and harms nothing.
/// @dev No administrator, no upgrade, no pause. Every function that moves tokens or money between books holds one
/// lock. Tokens are counted as they arrive, so a token that takes a fee is harmless, and they never exceed 2^96 - 1, so
/// no sum of what the contract holds can overflow its 96 bits.
contract Settlement is Books, Multicall, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// A channel as the rows before in a previewed claim would leave it.
    struct Preview {
        bytes32 id;
        uint256 deposit;
        uint256 settled;
    }

    constructor(IERC20 token, IContentRegistry contents, IAdapterRegistry adapters) Books(token, contents, adapters) {}

    /// @inheritdoc ISettlement
    function open(address signer, address node, uint256 amount, bytes calldata signerSignature) external nonReentrant {
        bytes32 id = _open(msg.sender, signer, node, signerSignature);
        _deposit(id, msg.sender, _pull(msg.sender, amount));
    }

    /// @inheritdoc ISettlement
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
    ) external nonReentrant {
        bytes32 id = _open(payer, signer, node, signerSignature);
        bytes32 nonce = authorizationNonce(OPEN_KIND, signer, node, salt);
        _deposit(id, payer, _pullAuthorized(payer, amount, validAfter, validBefore, nonce, authorization));
    }

    /// @inheritdoc ISettlement
    function topUp(address signer, address node, address expectedPayer, uint256 amount) external nonReentrant {
        bytes32 id = channelId(signer, node);
        _requirePayer(id, expectedPayer);
        _deposit(id, msg.sender, _pull(msg.sender, amount));
    }

    /// @inheritdoc ISettlement
    function topUpWithAuthorization(
        address payer,
        address signer,
        address node,
        uint256 amount,
        bytes32 salt,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata authorization
    ) external nonReentrant {
        bytes32 id = channelId(signer, node);
        _requirePayer(id, payer);
        bytes32 nonce = authorizationNonce(TOP_UP_KIND, signer, node, salt);
        _deposit(id, payer, _pullAuthorized(payer, amount, validAfter, validBefore, nonce, authorization));
    }

    /// @inheritdoc ISettlement
    function requestClose(address signer, address node) external nonReentrant {
        bytes32 id = channelId(signer, node);
        if (_channels[id].payer != msg.sender) revert NotPayer();
        _requestClose(id);
    }

    /// @inheritdoc ISettlement
    function requestCloseFor(address signer, address node, uint64 deadline, bytes calldata signature)
        external
        nonReentrant
    {
        bytes32 id = channelId(signer, node);
        Channel storage c = _channels[id];
        if (c.payer == address(0)) revert NoChannel();
        if (block.timestamp > deadline) revert DeadlinePassed(deadline);
        if (deadline <= c.closeSignedUntil) revert SignatureUsed(c.closeSignedUntil);
        _requireSignature(c.payer, hashRequestClose(signer, node, deadline), signature);
        c.closeSignedUntil = deadline;
        _requestClose(id);
    }

    /// @inheritdoc ISettlement
    function withdraw(address signer, address node) external nonReentrant {
        bytes32 id = channelId(signer, node);
        uint64 closeAt = _channels[id].closeAt;
        if (closeAt == 0) revert NotClosing();
        if (block.timestamp < closeAt) revert TooEarly(closeAt);
        _refund(id);
    }

    /// @inheritdoc ISettlement
    function closeNow(address signer, address node, uint96 settled, uint64 deadline, bytes calldata nodeSignature)
        external
        nonReentrant
    {
        bytes32 id = channelId(signer, node);
        Channel storage c = _channels[id];
        if (c.payer == address(0)) revert NoChannel();
        if (block.timestamp > deadline) revert DeadlinePassed(deadline);
        if (c.settled != settled) revert WrongTotal(c.settled);
        _requireSignature(node, hashClose(signer, node, settled, deadline), nodeSignature);
        _refund(id);
    }

    /// @inheritdoc ISettlement
    function claim(bytes calldata rows) external virtual nonReentrant returns (uint256 claimed) {
        uint256 channels;
        assembly ("memory-safe") {
            channels := _channels.slot
        }
        uint256 entry;
        uint256 last;
        (claimed, entry, last) = ClaimLoop.run(rows, _domainSeparatorV4(), VOUCHER_TYPEHASH, _adapters, channels);
        uint256 toNode;
        while (entry != last) {
            uint32 adapterId;
            uint256 amount;
            uint256 economics;
            uint64 servesUntil;
            (adapterId, amount, economics, servesUntil, entry) = ClaimLoop.read(entry);
            // An adapter that only refused rows named is in the table with nothing.
            if (amount != 0) toNode += _earn(adapterId, msg.sender, amount, economics, servesUntil);
        }
        if (toNode != 0) _credit(msg.sender, toNode);
    }

    /// @inheritdoc ISettlement
    function previewClaim(address node, bytes calldata rows) external view returns (RowStatus[] memory statuses) {
        // Rows of one channel may follow on each other: what a good row does is remembered here, not stored.
        Preview[] memory seen = new Preview[](rows.length / HEADER + 1);
        statuses = new RowStatus[](seen.length);
        uint256 channels;
        uint256 row;
        for (uint256 at; at < rows.length; ++row) {
            uint256 next = ClaimRow.end(rows, at);
            if (next == 0) {
                statuses[row++] = RowStatus.Truncated;
                break;
            }
            (RowStatus status, bytes32 id) = _identify(node, rows, at, next);
            if (status == RowStatus.Good) {
                uint256 k;
                while (k < channels && seen[k].id != id) ++k;
                if (k == channels) seen[channels++] = Preview(id, _channels[id].deposit, _channels[id].settled);
                Preview memory c = seen[k];
                uint256 sum;
                (status, sum) = _judge(node, rows, at, next, c.deposit, c.settled);
                if (status == RowStatus.Good) (c.deposit, c.settled) = (c.deposit - sum, c.settled + sum);
            }
            statuses[row] = status;
            at = next;
        }
        assembly ("memory-safe") {
            mstore(statuses, row)
        }
    }

    /// @inheritdoc ISettlement
    function pay(uint32 adapterId, address node, uint256 amount) external nonReentrant {
        if (node == address(0)) revert ZeroAddress();
        (uint256 economics, uint64 servesUntil) = adapterId == 0 ? (0, 0) : _adapters.settlementTerms(adapterId, node);
        if (adapterId != 0 && economics == 0) revert UnknownAdapter(adapterId);
        uint256 toNode = _earn(adapterId, node, _pull(msg.sender, amount), economics, servesUntil);
        if (toNode != 0) _credit(node, toNode);
    }

    /// @inheritdoc ISettlement
    function distribute(uint32 adapterId, uint256[] calldata shares)
        external
        virtual
        nonReentrant
        returns (uint256 paid)
    {
        if (ShareTable.hash(shares) != _adapters.sharesHash(adapterId)) revert WrongShares(adapterId);
        Revenue storage r = _revenues[adapterId];
        uint256 accrued = r.undistributed;
        uint256 before = r.divided;
        uint256 total = before + accrued;
        (r.undistributed, r.divided) = (0, uint16(total % BPS));

        address[] memory owners = ShareTable.owners(_contents, shares);
        address to;
        uint256 due;
        // Below: a share is under 2^16, total under 2^97, so no product overflows.
        unchecked {
            for (uint256 i; i < shares.length; ++i) {
                (address owner, uint256 bps) = ShareTable.row(shares, owners, i);
                uint256 part = total * bps / BPS - before * bps / BPS;
                if (part == 0) continue;
                if (owner != to) {
                    if (due != 0) _send(to, due);
                    (to, due) = (owner, 0);
                }
                due += part;
                paid += part;
            }
        }
        if (due != 0) _send(to, due);
        emit Distributed(adapterId, accrued, paid);
    }

    /// @inheritdoc ISettlement
    function collect(address account) external nonReentrant returns (uint256 amount) {
        address to;
        (amount, to) = balance(account);
        if (amount == 0) revert NothingToCollect(account);
        // Its payout address spelled out keeps the word from becoming empty, so that the next credit costs a sixth.
        if (_accounts[account].payout == address(0)) _accounts[account].payout = account;
        _accounts[account].balance = 0;
        emit Collected(account, to, amount);
        _token.safeTransfer(to, amount);
    }

    /// @inheritdoc ISettlement
    function setPayoutAddress(address to) external {
        Account storage a = _accounts[msg.sender];
        if (a.nextPayoutAt != 0 && block.timestamp >= a.nextPayoutAt) a.payout = a.nextPayout;
        uint64 effectiveAt = uint64(block.timestamp) + CLOSE_DELAY;
        (a.nextPayout, a.nextPayoutAt) = (to, effectiveAt);
        emit PayoutAddressSet(msg.sender, to, effectiveAt);
    }

    /// @dev The signer's consent is needed once: it never expires, and where payer and signer are one it is the
    /// payer's own call or authorization (whose nonce names signer and node).
    function _open(address payer, address signer, address node, bytes calldata signerSignature)
        private
        returns (bytes32 id)
    {
        if (signer == address(0) || node == address(0)) revert ZeroAddress();
        id = channelId(signer, node);
        Channel storage c = _channels[id];
        address owner = c.payer;
        if (owner == payer) return id;
        if (owner != address(0)) revert WrongPayer(owner);
        if (signer != payer) _requireKey(signer, hashOpenChannel(payer, node), signerSignature);
        c.payer = payer;
        emit ChannelOpened(id, signer, node, payer);
    }

    function _requirePayer(bytes32 id, address expectedPayer) private view {
        address payer = _channels[id].payer;
        if (payer == address(0)) revert NoChannel();
        if (payer != expectedPayer) revert WrongPayer(payer);
    }

    /// @dev Finds the channel of a row by who signed it.
    function _identify(address node, bytes calldata rows, uint256 at, uint256 next)
        internal
        view
        returns (RowStatus status, bytes32 id)
    {
        bytes calldata lines = ClaimRow.lines(rows, at, next);
        if (lines.length == 0) return (RowStatus.NoLines, id);
        bytes32 digest =
            hashVoucher(node, ClaimRow.settled(rows, at), keccak256(lines), ClaimRow.receiptsHead(rows, at));
        address signer = ClaimRow.signer(rows, at, digest);
        return signer == address(0) ? (RowStatus.BadSignature, id) : (RowStatus.Good, channelId(signer, node));
    }

    /// @dev Judges a row whole against a channel's state.
    function _judge(address node, bytes calldata rows, uint256 at, uint256 next, uint256 deposit, uint256 settled)
        internal
        view
        returns (RowStatus status, uint256 sum)
    {
        if (deposit == 0 && settled == 0) return (RowStatus.NoChannel, 0);
        if (ClaimRow.settled(rows, at) != settled) return (RowStatus.WrongBase, 0);
        bytes calldata lines = ClaimRow.lines(rows, at, next);
        bool zero;
        uint256 last;
        for (uint256 i; i < lines.length; i += LINE) {
            (uint32 adapterId, uint96 amount) = ClaimRow.line(lines, i);
            if (i != 0 && adapterId <= last) return (RowStatus.BadOrder, 0);
            if (adapterId != 0) {
                (uint256 economics,) = _adapters.settlementTerms(adapterId, node);
                if (economics == 0) return (RowStatus.UnknownAdapter, 0);
            }
            if (amount == 0) zero = true;
            sum += amount;
            last = adapterId;
        }
        if (zero) return (RowStatus.ZeroAmount, 0);
        if (sum > deposit) return (RowStatus.InsufficientDeposit, 0);
        if (settled + sum > MAX_UINT96) return (RowStatus.TotalTooLarge, 0);
    }
}
