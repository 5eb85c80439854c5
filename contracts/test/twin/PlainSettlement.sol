// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";

import {Settlement} from "../../Settlement.sol";
import {IAdapterRegistry} from "../../interfaces/IAdapterRegistry.sol";
import {IContentRegistry} from "../../interfaces/IContentRegistry.sol";
import {ClaimRow, LINE} from "../../libraries/ClaimRow.sol";
import {BPS} from "../../types/Terms.sol";
import {PlainTransfer} from "./PlainTransfer.sol";

/// @notice Settlement with its two loops written plainly. Claim: first the whole row is judged, then it is applied.
/// Distribution: row by row, a failed transfer credited at once.
contract PlainSettlement is Settlement {
    constructor(IERC20 token, IContentRegistry contents, IAdapterRegistry adapters)
        Settlement(token, contents, adapters)
    {}

    function claim(bytes calldata rows) external override nonReentrant returns (uint256 claimed) {
        uint256[] memory totals = new uint256[](rows.length / LINE + 1);
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
                for (uint256 i; i < lines.length; i += LINE) {
                    (uint32 adapterId, uint96 amount) = ClaimRow.line(lines, i);
                    // Insertion keeps the ids ascending.
                    uint256 k = known;
                    while (k != 0 && ids[k - 1] >= adapterId) --k;
                    if (k == known || ids[k] != adapterId) {
                        for (uint256 m = known++; m > k; --m) {
                            (ids[m], totals[m]) = (ids[m - 1], totals[m - 1]);
                        }
                        (ids[k], totals[k]) = (adapterId, 0);
                    }
                    totals[k] += amount;
                }
            }
            at = next;
        }
        uint256 toNode;
        for (uint256 k; k < known; ++k) {
            (uint256 economics, uint64 servesUntil) = (0, 0);
            if (ids[k] != 0) (economics, servesUntil) = _adapters.settlementTerms(ids[k], msg.sender);
            toNode += _earn(ids[k], msg.sender, totals[k], economics, servesUntil);
        }
        if (toNode != 0) _credit(msg.sender, toNode);
    }

    function distribute(uint32 adapterId, uint256[] calldata shares)
        external
        override
        nonReentrant
        returns (uint256 paid)
    {
        if (keccak256(abi.encodePacked(shares)) != _adapters.sharesHash(adapterId)) {
            revert WrongShares(adapterId);
        }
        Revenue storage r = _revenues[adapterId];
        (uint256 accrued, uint256 before) = (r.undistributed, r.divided);
        uint256 total = before + accrued;
        (r.undistributed, r.divided) = (0, uint16(total % BPS));
        address to;
        uint256 due;
        for (uint256 i; i < shares.length; ++i) {
            uint256 bps = shares[i] % (1 << 16);
            uint256 part = total * bps / BPS - before * bps / BPS;
            if (part == 0) continue;
            address owner = IERC721(address(_contents)).ownerOf(shares[i] >> 16);
            if (owner != to) {
                _sendPlainly(to, due);
                (to, due) = (owner, 0);
            }
            due += part;
            paid += part;
        }
        _sendPlainly(to, due);
        emit Distributed(adapterId, accrued, paid);
    }

    function _sendPlainly(address to, uint256 amount) private {
        if (amount == 0 || PlainTransfer.trySend(_token, to, amount)) return;
        emit TransferFailed(to, amount);
        _credit(to, amount);
    }
}
