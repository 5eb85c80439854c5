// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IAdapterRegistry} from "../interfaces/IAdapterRegistry.sol";
import {IContentRegistry} from "../interfaces/IContentRegistry.sol";
import {IERC3009} from "../interfaces/IERC3009.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";
import {BoundedTransfer} from "../libraries/BoundedTransfer.sol";
import {BPS} from "../types/Terms.sol";
import {Digests} from "./Digests.sol";

/// @title The books of Settlement: channels, revenues, accounts
/// @notice Storage, its views, and the few moves that everything else is made of. Each move keeps the accounting
/// sentence; who may ask for it, and when, is not known here.
abstract contract Books is Digests {
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

    uint256 internal constant MAX_UINT96 = type(uint96).max;

    /// @inheritdoc ISettlement
    uint256 public constant REVENUE_MODULUS = 79_228_162_514_264_337_593_543_950_000;
    /// @inheritdoc ISettlement
    uint256 public constant TRANSFER_GAS = BoundedTransfer.STIPEND;
    IERC20 internal immutable _token;
    IContentRegistry internal immutable _contents;
    IAdapterRegistry internal immutable _adapters;
    /// @inheritdoc ISettlement
    uint64 public immutable CLOSE_DELAY;

    mapping(bytes32 channelId => Channel) internal _channels;
    mapping(uint32 adapterId => Revenue) internal _revenues;
    mapping(address account => Account) internal _accounts;

    constructor(IERC20 token, IContentRegistry contents, IAdapterRegistry adapters) {
        if (address(token).code.length == 0 || address(contents).code.length == 0) revert ZeroAddress();
        _token = token;
        _contents = contents;
        _adapters = adapters;
        CLOSE_DELAY = adapters.CLOSE_DELAY();
    }

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

    function _pull(address from, uint256 amount) internal returns (uint256 received) {
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
    ) internal returns (uint256 received) {
        uint256 before = _token.balanceOf(address(this));
        IERC3009(address(_token))
            .receiveWithAuthorization(from, address(this), amount, validAfter, validBefore, nonce, authorization);
        return _received(before);
    }

    /// @dev What arrived, whatever was asked for; bounds all that the contract holds, hence every sum of it.
    function _received(uint256 before) private view returns (uint256 received) {
        uint256 held = _token.balanceOf(address(this));
        if (held > MAX_UINT96) revert AmountTooLarge();
        if (held <= before) revert ZeroAmount();
        return held - before;
    }

    function _deposit(bytes32 id, address from, uint256 amount) internal {
        _channels[id].deposit += uint96(amount);
        emit Deposited(id, from, amount);
    }

    function _requestClose(bytes32 id) internal {
        Channel storage c = _channels[id];
        if (c.closeAt != 0) revert AlreadyClosing(c.closeAt);
        c.closeAt = uint64(block.timestamp) + CLOSE_DELAY;
        emit CloseRequested(id, c.closeAt);
    }

    function _refund(bytes32 id) internal {
        Channel storage c = _channels[id];
        uint256 amount = c.deposit;
        (c.deposit, c.closeAt) = (0, 0);
        emit Withdrawn(id, c.payer, amount);
        if (amount != 0) _token.safeTransfer(c.payer, amount);
    }

    /// @dev Splits what an adapter earned at a node, credits the trainer, and returns the node's part, for the caller to
    /// credit once. Three floors over the cumulative revenue, so that the order and number of claims change nothing.
    function _earn(uint32 adapterId, address node, uint256 amount, uint256 economics, uint64 servesUntil)
        internal
        returns (uint256 toNode)
    {
        if (adapterId == 0) {
            emit Earned(0, node, address(0), amount, 0, 0, amount);
            return amount;
        }
        address trainer = address(uint160(economics >> 96));
        Revenue storage r = _revenues[adapterId];
        uint256 gross = r.gross;
        uint256 waiting = r.undistributed;
        uint256 toContents = amount;
        uint256 toTrainer;
        // Amounts, and whatever sums of them the contract holds, are below 2^96, parts of 10,000 below 2^16.
        unchecked {
            if (block.timestamp < uint64(economics)) {
                uint256 royaltyBps = uint16(economics >> 80);
                uint256 trainerBps = uint16(economics >> 64);
                uint256 total = gross + amount;
                toContents = total * royaltyBps / BPS - gross * royaltyBps / BPS;
                toTrainer = total * trainerBps / BPS - gross * trainerBps / BPS;
                uint256 nodeBps = BPS - royaltyBps - trainerBps;
                toNode = total * nodeBps / BPS - gross * nodeBps / BPS;
                if (block.timestamp >= servesUntil) (toTrainer, toNode) = (toTrainer + toNode, 0);
            }
            (r.gross, r.undistributed) = (uint96((gross + amount) % REVENUE_MODULUS), uint96(waiting + toContents));
        }
        emit Earned(adapterId, node, trainer, amount, toContents, toTrainer, toNode);
        if (toTrainer != 0) _credit(trainer, toTrainer);
    }

    function _credit(address account, uint256 amount) internal {
        _accounts[account].balance += uint96(amount);
    }

    function _send(address to, uint256 amount) internal {
        if (BoundedTransfer.trySend(_token, to, amount)) return;
        emit TransferFailed(to, amount);
        _credit(to, amount);
    }
}
