// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IAdapterRegistry} from "./interfaces/IAdapterRegistry.sol";
import {IERC3009} from "./interfaces/IERC3009.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {BoundedTransfer} from "./libraries/BoundedTransfer.sol";
import {ClaimRow} from "./libraries/ClaimRow.sol";

/// @title Settlement
/// @notice THE ACCOUNTING SENTENCE. The contract's token balance is always at least the unspent channel deposits plus
/// the undistributed royalties (rounding not yet whole included) plus the uncollected balances; any excess is tokens
/// somebody sent unasked, and harms nothing.
/// @dev No administrator, no upgrade, no pause. Every function that moves tokens or money between books holds one
/// lock. Tokens are counted as they arrive, so a token that takes a fee is harmless, and they never exceed 2^96 - 1, so
/// no sum of what the contract holds can overflow its 96 bits.
contract Settlement is ISettlement, EIP712, Multicall, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// One word that claims read and write, one that they never touch.
    struct Channel {
        uint96 deposit;
        uint96 settled;
        uint64 closeAt;
        address payer;
        uint64 closeSignedUntil;
    }

    /// One word an adapter. `divided` is what was distributed so far modulo 10,000: all that the next distribution needs
    /// to know of it, since floor((10000 k + x) * bps / 10000) = k * bps + floor(x * bps / 10000).
    struct Revenue {
        uint96 gross;
        uint96 undistributed;
        uint16 divided;
    }

    /// One word for an account, one for a change of its payout address under way.
    struct Account {
        uint96 balance;
        address payout;
        address nextPayout;
        uint64 nextPayoutAt;
    }

    /// A channel as the rows before in a previewed claim would leave it.
    struct Preview {
        bytes32 id;
        uint256 deposit;
        uint256 settled;
    }

    uint256 private constant BPS = 10_000;
    uint256 private constant MAX_UINT96 = type(uint96).max;

    bytes32 private constant VOUCHER_TYPEHASH =
        keccak256("Voucher(address node,uint96 settled,bytes32 usageHash,bytes32 receiptsHead)");
    bytes32 private constant OPEN_CHANNEL_TYPEHASH = keccak256("OpenChannel(address payer,address node)");
    bytes32 private constant REQUEST_CLOSE_TYPEHASH =
        keccak256("RequestClose(address signer,address node,uint64 deadline)");
    bytes32 private constant CLOSE_TYPEHASH =
        keccak256("Close(address signer,address node,uint96 settled,uint64 deadline)");

    /// @inheritdoc ISettlement
    uint256 public constant REVENUE_MODULUS = 79_228_162_514_264_337_593_543_950_000;
    /// @inheritdoc ISettlement
    uint256 public constant TRANSFER_GAS = BoundedTransfer.STIPEND;
    /// @inheritdoc ISettlement
    bytes32 public constant OPEN_KIND = keccak256("Viz.OpenChannel");
    /// @inheritdoc ISettlement
    bytes32 public constant TOP_UP_KIND = keccak256("Viz.TopUp");

    IERC20 private immutable _token;
    IERC721 private immutable _contents;
    IAdapterRegistry private immutable _adapters;
    /// @inheritdoc ISettlement
    uint64 public immutable CLOSE_DELAY;

    mapping(bytes32 channelId => Channel) private _channels;
    mapping(uint32 adapterId => Revenue) private _revenues;
    mapping(address account => Account) private _accounts;

    constructor(IERC20 token, IERC721 contents, IAdapterRegistry adapters) EIP712("Viz Settlement", "1") {
        if (address(token).code.length == 0 || address(contents).code.length == 0) revert ZeroAddress();
        _token = token;
        _contents = contents;
        _adapters = adapters;
        CLOSE_DELAY = adapters.CLOSE_DELAY();
    }

    // Channels

    /// @inheritdoc ISettlement
    function open(address signer, address node, uint256 amount, bytes calldata signerSignature)
        external
        nonReentrant
    {
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

    // Earning

    /// @inheritdoc ISettlement
    function claim(bytes calldata rows) external nonReentrant returns (uint256 claimed) {
        uint256[] memory totals = new uint256[](rows.length / ClaimRow.LINE + 1);
        uint32[] memory ids = new uint32[](totals.length);
        uint256 known;
        uint256 at;
        for (uint256 row; at < rows.length; ++row) {
            uint256 next = ClaimRow.end(rows, at);
            if (next == 0) {
                emit RowRefused(msg.sender, row, RowStatus.Truncated);
                break;
            }
            (RowStatus status, bytes32 id) = _identify(msg.sender, rows, at, next);
            Channel storage c = _channels[id];
            uint256 sum;
            if (status == RowStatus.Good) {
                (status, sum) = _judge(msg.sender, rows, at, next, c.deposit, c.settled);
            }
            if (status != RowStatus.Good) {
                emit RowRefused(msg.sender, row, status);
            } else {
                c.deposit -= uint96(sum);
                c.settled += uint96(sum);
                claimed += sum;
                emit Claimed(id, c.settled, ClaimRow.receiptsHead(rows, at));
                bytes calldata lines = ClaimRow.lines(rows, at, next);
                for (uint256 i; i < lines.length; i += ClaimRow.LINE) {
                    (uint32 adapterId, uint96 amount) = ClaimRow.line(lines, i);
                    uint256 k;
                    while (k < known && ids[k] != adapterId) ++k;
                    if (k == known) ids[known++] = adapterId;
                    totals[k] += amount;
                }
            }
            at = next;
        }
        uint256 toNode;
        for (uint256 k; k < known; ++k) {
            (uint256 economics, uint64 servesUntil) =
                ids[k] == 0 ? (0, 0) : _adapters.settlementTerms(ids[k], msg.sender);
            toNode += _earn(ids[k], msg.sender, totals[k], economics, servesUntil);
        }
        if (toNode != 0) _credit(msg.sender, toNode);
    }

    /// @inheritdoc ISettlement
    function previewClaim(address node, bytes calldata rows) external view returns (RowStatus[] memory statuses) {
        // Rows of one channel may follow on each other: what a good row does is remembered here, not stored.
        Preview[] memory seen = new Preview[](rows.length / ClaimRow.HEADER + 1);
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
        (uint256 economics, uint64 servesUntil) =
            adapterId == 0 ? (0, 0) : _adapters.settlementTerms(adapterId, node);
        if (adapterId != 0 && economics == 0) revert UnknownAdapter(adapterId);
        uint256 toNode = _earn(adapterId, node, _pull(msg.sender, amount), economics, servesUntil);
        if (toNode != 0) _credit(node, toNode);
    }

    /// @inheritdoc ISettlement
    function distribute(uint32 adapterId, uint256[] calldata shares) external nonReentrant returns (uint256 paid) {
        if (keccak256(abi.encodePacked(shares)) != _adapters.sharesHash(adapterId)) revert WrongShares(adapterId);
        Revenue storage r = _revenues[adapterId];
        uint256 accrued = r.undistributed;
        uint256 before = r.divided;
        uint256 total = before + accrued;
        (r.undistributed, r.divided) = (0, uint16(total % BPS));

        address to;
        uint256 due;
        for (uint256 i; i < shares.length; ++i) {
            uint256 bps = shares[i] & type(uint16).max;
            uint256 part = total * bps / BPS - before * bps / BPS;
            if (part == 0) continue;
            address owner = _contents.ownerOf(shares[i] >> 16);
            if (owner != to) {
                if (due != 0) _send(to, due);
                (to, due) = (owner, 0);
            }
            due += part;
            paid += part;
        }
        if (due != 0) _send(to, due);
        emit Distributed(adapterId, accrued, paid);
    }

    /// @inheritdoc ISettlement
    function collect(address account) external nonReentrant returns (uint256 amount) {
        address to;
        (amount, to) = balance(account);
        if (amount == 0) revert NothingToCollect(account);
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

    // Views

    /// @inheritdoc ISettlement
    function channel(address signer, address node)
        external
        view
        returns (address payer, uint96 deposit, uint96 settled, uint64 closeAt)
    {
        Channel storage c = _channels[channelId(signer, node)];
        return (c.payer, c.deposit, c.settled, c.closeAt);
    }

    /// @inheritdoc ISettlement
    function channelId(address signer, address node) public pure returns (bytes32) {
        return keccak256(abi.encode(signer, node));
    }

    /// @inheritdoc ISettlement
    function revenue(uint32 adapterId) external view returns (uint96) {
        return _revenues[adapterId].gross;
    }

    /// @inheritdoc ISettlement
    function owed(uint32 adapterId) external view returns (uint96) {
        return _revenues[adapterId].undistributed;
    }

    /// @inheritdoc ISettlement
    function balance(address account) public view returns (uint96 amount, address to) {
        Account storage a = _accounts[account];
        to = a.nextPayoutAt != 0 && block.timestamp >= a.nextPayoutAt ? a.nextPayout : a.payout;
        return (a.balance, to == address(0) ? account : to);
    }

    /// @inheritdoc ISettlement
    function pendingPayout(address account) external view returns (address to, uint64 effectiveAt) {
        Account storage a = _accounts[account];
        return block.timestamp < a.nextPayoutAt ? (a.nextPayout, a.nextPayoutAt) : (address(0), 0);
    }

    /// @inheritdoc ISettlement
    function TOKEN() external view returns (address) {
        return address(_token);
    }

    /// @inheritdoc ISettlement
    function CONTENTS() external view returns (address) {
        return address(_contents);
    }

    /// @inheritdoc ISettlement
    function ADAPTERS() external view returns (address) {
        return address(_adapters);
    }

    /// @inheritdoc ISettlement
    function authorizationNonce(bytes32 kind, address signer, address node, bytes32 salt)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(kind, signer, node, salt));
    }

    /// @inheritdoc ISettlement
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc ISettlement
    function hashUsage(UsageLine[] calldata lines) external pure returns (bytes32) {
        bytes memory packed;
        for (uint256 i; i < lines.length; ++i) {
            packed = bytes.concat(packed, abi.encodePacked(lines[i].adapterId, lines[i].amount));
        }
        return keccak256(packed);
    }

    /// @inheritdoc ISettlement
    function hashVoucher(address node, uint96 settled, bytes32 usageHash, bytes32 receiptsHead)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(keccak256(abi.encode(VOUCHER_TYPEHASH, node, settled, usageHash, receiptsHead)));
    }

    /// @inheritdoc ISettlement
    function hashOpenChannel(address payer, address node) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(OPEN_CHANNEL_TYPEHASH, payer, node)));
    }

    /// @inheritdoc ISettlement
    function hashRequestClose(address signer, address node, uint64 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(REQUEST_CLOSE_TYPEHASH, signer, node, deadline)));
    }

    /// @inheritdoc ISettlement
    function hashClose(address signer, address node, uint96 settled, uint64 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(CLOSE_TYPEHASH, signer, node, settled, deadline)));
    }

    // What the above is made of

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
        if (signer != payer) {
            (address recovered, ECDSA.RecoverError failure,) =
                ECDSA.tryRecoverCalldata(hashOpenChannel(payer, node), signerSignature);
            if (failure != ECDSA.RecoverError.NoError || recovered != signer) revert BadSignature();
        }
        c.payer = payer;
        emit ChannelOpened(id, signer, node, payer);
    }

    function _requirePayer(bytes32 id, address expectedPayer) private view {
        address payer = _channels[id].payer;
        if (payer == address(0)) revert NoChannel();
        if (payer != expectedPayer) revert WrongPayer(payer);
    }

    /// @dev A key first, then a contract wallet: an account with delegated code (EIP-7702) still has its key.
    function _requireSignature(address by, bytes32 digest, bytes calldata signature) private view {
        (address recovered, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (failure == ECDSA.RecoverError.NoError && recovered == by) return;
        if (!SignatureChecker.isValidERC1271SignatureNow(by, digest, signature)) revert BadSignature();
    }

    function _pull(address from, uint256 amount) private returns (uint256 received) {
        uint256 before = _token.balanceOf(address(this));
        _token.safeTransferFrom(from, address(this), amount);
        return _received(before);
    }

    function _pullAuthorized(
        address from,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata authorization
    ) private returns (uint256 received) {
        uint256 before = _token.balanceOf(address(this));
        IERC3009(address(_token)).receiveWithAuthorization(
            from, address(this), amount, validAfter, validBefore, nonce, authorization
        );
        return _received(before);
    }

    /// @dev What arrived, whatever was asked for; bounds all that the contract holds, hence every sum of it.
    function _received(uint256 before) private view returns (uint256 received) {
        uint256 held = _token.balanceOf(address(this));
        if (held > MAX_UINT96) revert AmountTooLarge();
        if (held <= before) revert ZeroAmount();
        return held - before;
    }

    function _deposit(bytes32 id, address from, uint256 amount) private {
        _channels[id].deposit += uint96(amount);
        emit Deposited(id, from, amount);
    }

    function _requestClose(bytes32 id) private {
        Channel storage c = _channels[id];
        if (c.closeAt != 0) revert AlreadyClosing(c.closeAt);
        c.closeAt = uint64(block.timestamp) + CLOSE_DELAY;
        emit CloseRequested(id, c.closeAt);
    }

    function _refund(bytes32 id) private {
        Channel storage c = _channels[id];
        uint256 amount = c.deposit;
        (c.deposit, c.closeAt) = (0, 0);
        emit Withdrawn(id, c.payer, amount);
        if (amount != 0) _token.safeTransfer(c.payer, amount);
    }

    /// @dev Finds the channel of a row by who signed it.
    function _identify(address node, bytes calldata rows, uint256 at, uint256 next)
        private
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
    function _judge(
        address node,
        bytes calldata rows,
        uint256 at,
        uint256 next,
        uint256 deposit,
        uint256 settled
    ) private view returns (RowStatus status, uint256 sum) {
        if (deposit == 0 && settled == 0) return (RowStatus.NoChannel, 0);
        if (ClaimRow.settled(rows, at) != settled) return (RowStatus.WrongBase, 0);
        bytes calldata lines = ClaimRow.lines(rows, at, next);
        bool zero;
        uint256 last;
        for (uint256 i; i < lines.length; i += ClaimRow.LINE) {
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

    /// @dev Splits what an adapter earned at a node, credits the trainer, and returns the node's part, for the caller to
    /// credit once. Three floors over the cumulative revenue, so that the order and number of claims change nothing.
    function _earn(uint32 adapterId, address node, uint256 amount, uint256 economics, uint64 servesUntil)
        private
        returns (uint256 toNode)
    {
        if (adapterId == 0) {
            emit Earned(0, node, amount, 0, 0, amount);
            return amount;
        }
        Revenue storage r = _revenues[adapterId];
        uint256 gross = r.gross;
        uint256 toContents;
        uint256 toTrainer;
        if (block.timestamp >= uint64(economics)) {
            toContents = amount;
        } else {
            uint256 royaltyBps = uint16(economics >> 80);
            uint256 trainerBps = uint16(economics >> 64);
            toContents = _part(gross, amount, royaltyBps);
            toTrainer = _part(gross, amount, trainerBps);
            toNode = _part(gross, amount, BPS - royaltyBps - trainerBps);
            if (block.timestamp >= servesUntil) (toTrainer, toNode) = (toTrainer + toNode, 0);
            address trainer = address(uint160(economics >> 96));
            if (toTrainer != 0) _credit(trainer, toTrainer);
        }
        r.gross = uint96((gross + amount) % REVENUE_MODULUS);
        r.undistributed += uint96(toContents);
        emit Earned(adapterId, node, amount, toContents, toTrainer, toNode);
    }

    function _part(uint256 gross, uint256 amount, uint256 bps) private pure returns (uint256) {
        return (gross + amount) * bps / BPS - gross * bps / BPS;
    }

    function _credit(address account, uint256 amount) private {
        _accounts[account].balance += uint96(amount);
        emit Credited(account, amount);
    }

    function _send(address to, uint256 amount) private {
        if (BoundedTransfer.trySend(_token, to, amount)) return;
        emit TransferFailed(to, amount);
        _credit(to, amount);
    }
}
