// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {Cheats} from "../Cheats.sol";

/// @notice Every balance of Settlement, rebuilt from logs alone by one who knows nothing else: of each channel, adapter
/// and account that any log ever named. Equality with the contract's own views shows that the logs say enough.
abstract contract LogBooks {
    struct LoggedChannel {
        address signer;
        address node;
        address payer;
        uint256 deposit;
        uint256 settled;
        uint64 closeAt;
    }

    struct LoggedAdapter {
        uint256 gross;
        uint256 owed;
    }

    struct LoggedAccount {
        uint256 balance;
        address payout;
        address nextPayout;
        uint64 nextPayoutAt;
    }

    Cheats private constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));

    bytes32[] private _ids;
    uint32[] private _adapterIds;
    address[] private _people;
    mapping(bytes32 => LoggedChannel) private _channels;
    mapping(uint32 => LoggedAdapter) private _adapters;
    mapping(uint32 => bool) private _adapterSeen;
    mapping(address => LoggedAccount) private _accounts;
    mapping(address => bool) private _personSeen;
    uint256 private _held;
    /// What rounding keeps for later; it may fall again.
    int256 private _rounding;

    /// @dev Takes in the logs since the last time; `donated` in all was sent to Settlement unasked.
    function rebuild(ISettlement settlement, uint256 donated) internal {
        Cheats.Log[] memory logs = vm.getRecordedLogs();
        address token = settlement.TOKEN();
        uint64 delay = settlement.CLOSE_DELAY();
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter == token) _readToken(logs[i], address(settlement));
            else if (logs[i].emitter == address(settlement)) _read(logs[i], delay);
        }
        _compare(settlement, token, donated);
    }

    function _readToken(Cheats.Log memory log, address settlement) private {
        if (log.topics[0] != IERC20.Transfer.selector) return;
        uint256 amount = abi.decode(log.data, (uint256));
        if (_person(log.topics[1]) == settlement) _held -= amount;
        if (_person(log.topics[2]) == settlement) _held += amount;
    }

    function _read(Cheats.Log memory log, uint64 delay) private {
        bytes32 topic = log.topics[0];
        if (topic == ISettlement.Earned.selector) {
            _readEarned(log);
        } else if (topic == ISettlement.PayoutAddressSet.selector) {
            _readPayout(log, delay);
        } else if (topic == ISettlement.Distributed.selector) {
            _readDistributed(log);
        } else if (topic == ISettlement.TransferFailed.selector) {
            _credit(log.topics[1], abi.decode(log.data, (uint256)));
        } else if (topic == ISettlement.Collected.selector) {
            _account(log.topics[1]).balance -= abi.decode(log.data, (uint256));
        } else if (topic != ISettlement.RowRefused.selector) {
            _readChannel(log, topic, _channels[log.topics[1]]);
        }
    }

    function _readChannel(Cheats.Log memory log, bytes32 topic, LoggedChannel storage c) private {
        if (topic == ISettlement.ChannelOpened.selector) {
            _ids.push(log.topics[1]);
            (c.signer, c.node) = (_person(log.topics[2]), _person(log.topics[3]));
            c.payer = abi.decode(log.data, (address));
        } else if (topic == ISettlement.Deposited.selector) {
            c.deposit += abi.decode(log.data, (uint256));
        } else if (topic == ISettlement.Claimed.selector) {
            (uint256 settled,) = abi.decode(log.data, (uint256, bytes32));
            c.deposit -= settled - c.settled;
            c.settled = settled;
        } else if (topic == ISettlement.CloseRequested.selector) {
            c.closeAt = abi.decode(log.data, (uint64));
        } else {
            vm.assertEq(topic, ISettlement.Withdrawn.selector, "an event that this reader does not know");
            c.deposit -= abi.decode(log.data, (uint256));
            c.closeAt = 0;
        }
    }

    function _readEarned(Cheats.Log memory log) private {
        (uint256 amount, uint256 toContents, uint256 toTrainer, uint256 toNode) =
            abi.decode(log.data, (uint256, uint256, uint256, uint256));
        uint32 adapterId = uint32(uint256(log.topics[1]));
        if (!_adapterSeen[adapterId]) _adapterIds.push(adapterId);
        _adapterSeen[adapterId] = true;
        if (adapterId != 0) _adapters[adapterId].gross += amount;
        _adapters[adapterId].owed += toContents;
        _credit(log.topics[2], toNode);
        _credit(log.topics[3], toTrainer);
        _rounding += int256(amount) - int256(toContents + toTrainer + toNode);
    }

    function _readDistributed(Cheats.Log memory log) private {
        (uint256 accrued, uint256 paid) = abi.decode(log.data, (uint256, uint256));
        _adapters[uint32(uint256(log.topics[1]))].owed -= accrued;
        _rounding += int256(accrued) - int256(paid);
    }

    function _readPayout(Cheats.Log memory log, uint64 delay) private {
        uint64 effectiveAt = abi.decode(log.data, (uint64));
        LoggedAccount storage a = _account(log.topics[1]);
        // An address named earlier that was in effect at this event stays in effect until the new one is.
        if (a.nextPayoutAt != 0 && effectiveAt - delay >= a.nextPayoutAt) a.payout = a.nextPayout;
        (a.nextPayout, a.nextPayoutAt) = (_person(log.topics[2]), effectiveAt);
    }

    function _credit(bytes32 topic, uint256 amount) private {
        _account(topic).balance += amount;
    }

    function _account(bytes32 topic) private returns (LoggedAccount storage) {
        address account = _person(topic);
        if (!_personSeen[account]) _people.push(account);
        _personSeen[account] = true;
        return _accounts[account];
    }

    function _person(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }

    function _compare(ISettlement settlement, address token, uint256 donated) private view {
        int256 books = _rounding;
        for (uint256 i; i < _ids.length; ++i) {
            _compareChannel(settlement, _channels[_ids[i]]);
            books += int256(_channels[_ids[i]].deposit);
        }
        for (uint256 i; i < _adapterIds.length; ++i) {
            LoggedAdapter storage adapter = _adapters[_adapterIds[i]];
            vm.assertEq(settlement.revenue(_adapterIds[i]), adapter.gross, "an adapter's revenue");
            vm.assertEq(settlement.owed(_adapterIds[i]), adapter.owed, "what its works wait for");
            books += int256(adapter.owed);
        }
        for (uint256 i; i < _people.length; ++i) {
            _compareAccount(settlement, _people[i], _accounts[_people[i]]);
            books += int256(_accounts[_people[i]].balance);
        }
        vm.assertEq(IERC20(token).balanceOf(address(settlement)), _held, "the token's own logs");
        vm.assertEq(_held, uint256(books) + donated, "the accounting sentence, with equality");
    }

    function _compareChannel(ISettlement settlement, LoggedChannel storage c) private view {
        (address payer, uint96 deposit, uint96 settled, uint64 closeAt) = settlement.channel(c.signer, c.node);
        vm.assertEq(payer, c.payer, "a channel's payer");
        vm.assertEq(deposit, c.deposit, "a channel's deposit");
        vm.assertEq(settled, c.settled, "a channel's settled total");
        vm.assertEq(closeAt, c.closeAt, "a channel's close");
    }

    function _compareAccount(ISettlement settlement, address account, LoggedAccount storage a) private view {
        address to = a.nextPayoutAt != 0 && block.timestamp >= a.nextPayoutAt ? a.nextPayout : a.payout;
        (uint96 amount, address seen) = settlement.balance(account);
        vm.assertEq(amount, a.balance, "an account's balance");
        vm.assertEq(seen, to == address(0) ? account : to, "an account's payout address");
    }
}
