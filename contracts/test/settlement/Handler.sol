// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {ISettlement} from "../../interfaces/ISettlement.sol";
import {BPS} from "../../types/Terms.sol";
import {Fixture} from "./Fixture.sol";

/// @notice Random moves of a few people, beside ghost balances that are kept by the rules of the design and never read
/// from the contract.
contract Handler is Fixture {
    uint256 internal constant SIGNERS = 3;
    uint256 internal constant NODES = 2;

    struct Ghost {
        address payer;
        uint256 deposit;
        uint256 settled;
        uint256 closeAt;
        uint256 signedUpTo;
    }

    struct Book {
        uint256 gross;
        uint256 contents;
        uint256 trainer;
        uint256 node;
        uint256 distributed;
        uint256 royaltyBps;
        uint256 trainerBps;
    }

    mapping(uint256 => mapping(uint256 => Ghost)) internal ghosts;
    mapping(uint32 => Book) internal books;
    mapping(address => uint256) internal balances;
    mapping(uint256 => uint256) internal received;
    address[] internal people;
    address[SIGNERS] internal signers;

    function setUp() public override {
        super.setUp();
        people = [creator, second, trainer, at(0), at(1), stranger];
        for (uint256 k; k < SIGNERS; ++k) {
            signers[k] = vm.addr(key(k));
        }
        for (uint256 n; n < NODES; ++n) {
            adapters.setServing(A, at(n), NEVER);
            adapters.setServing(B, at(n), NEVER);
        }
        (books[A].royaltyBps, books[A].trainerBps) = (3_000, 1_000);
        (books[B].royaltyBps, books[B].trainerBps) = (10_000, 0);
        vm.getRecordedLogs();
    }

    function at(uint256 n) internal pure returns (address) {
        return address(uint160(0xA00 + n));
    }

    function key(uint256 k) internal pure returns (uint256) {
        return 0x500 + k;
    }

    function moveOpenOrTopUp(uint256 k, uint256 n, uint256 amount, bool sponsored) external {
        (k, n, amount) = (k % SIGNERS, n % NODES, 1 + amount % 1e15);
        Ghost storage g = ghosts[k][n];
        if (g.payer == address(0)) {
            openAs(payer, key(k), at(n), amount);
            g.payer = payer;
        } else {
            vm.prank(sponsored ? stranger : payer);
            settlement.topUp(signers[k], at(n), payer, amount);
        }
        g.deposit += amount;
    }

    /// @dev Two vouchers on the channel's end point, one a run of the other or a rival, or garbage between them.
    function moveClaim(uint256 k, uint256 n, uint96 a, uint96 b, uint256 mix) external {
        (k, n) = (k % SIGNERS, n % NODES);
        Ghost storage g = ghosts[k][n];
        uint256 amountA = 1 + a % (g.deposit / 2 + 2);
        uint256 amountB = 1 + b % (g.deposit / 2 + 2);
        bytes memory rows = rowBy(key(k), at(n), g.settled, bytes.concat(line(A, amountA), line(B, amountB)));
        uint256 end = g.settled + amountA + amountB;
        if (mix % 3 == 1) rows = bytes.concat(rowBy(key(k), at(n), g.settled + 1, line(A, 1)), rows, rows);
        uint256 tail = mix % 5;
        if (mix % 3 == 2) rows = bytes.concat(rows, rowBy(key(k), at(n), end, line(0, tail)));
        vm.prank(at(n));
        uint256 claimed = settlement.claim(rows);

        uint256 expected;
        if (g.payer != address(0) && amountA + amountB <= g.deposit) {
            expected = amountA + amountB;
            earn(A, n, amountA);
            earn(B, n, amountB);
            if (mix % 3 == 2 && tail != 0 && expected + tail <= g.deposit) {
                expected += tail;
                balances[at(n)] += tail;
            }
        }
        vm.assertEq(claimed, expected, "claimed");
        (g.deposit, g.settled) = (g.deposit - expected, g.settled + expected);
        if (end + tail > g.signedUpTo) g.signedUpTo = end + tail;
    }

    function movePay(uint256 n, bool toB, uint256 amount) external {
        (n, amount) = (n % NODES, 1 + amount % 1e12);
        vm.prank(stranger);
        settlement.pay(toB ? B : A, at(n), amount);
        earn(toB ? B : A, n, amount);
    }

    function moveDistribute(bool ofB) external {
        uint32 id = ofB ? B : A;
        Book storage book = books[id];
        uint256[] storage shares = ofB ? sharesB : sharesA;
        for (uint256 i; i < shares.length; ++i) {
            uint256 bps = uint16(shares[i]);
            uint256 part = book.contents * bps / BPS - book.distributed * bps / BPS;
            address owner = works.ownerOf(shares[i] >> 16);
            received[shares[i] >> 16] += part;
            if (coin.blacklisted(owner)) balances[owner] += part;
        }
        book.distributed = book.contents;
        settlement.distribute(id, shares);
    }

    function moveCollect(uint256 who) external {
        address account = people[who % people.length];
        if (balances[account] == 0 || coin.blacklisted(account)) return;
        uint256 had = coin.balanceOf(account);
        settlement.collect(account);
        vm.assertEq(coin.balanceOf(account) - had, balances[account], "collected");
        balances[account] = 0;
    }

    function moveClose(uint256 k, uint256 n, uint256 wait) external {
        (k, n) = (k % SIGNERS, n % NODES);
        Ghost storage g = ghosts[k][n];
        if (g.payer == address(0)) return;
        if (g.closeAt == 0) {
            vm.prank(payer);
            settlement.requestClose(signers[k], at(n));
            g.closeAt = block.timestamp + DELAY;
            return;
        }
        vm.warp(block.timestamp + wait % (2 * DELAY));
        if (block.timestamp < g.closeAt) return;
        uint256 had = coin.balanceOf(payer);
        settlement.withdraw(signers[k], at(n));
        vm.assertEq(coin.balanceOf(payer) - had, g.deposit, "refund");
        (g.deposit, g.closeAt) = (0, 0);
    }

    function moveWork(uint256 contentId, bool back) external {
        contentId = 1 + contentId % 2;
        address owner = works.ownerOf(contentId);
        address to = back ? creator : second;
        if (owner == to) return;
        vm.prank(owner);
        works.transferFrom(owner, to, contentId);
    }

    function moveBlacklist(bool yes) external {
        coin.setBlacklisted(creator, yes);
    }

    function moveDonate(uint256 amount) external {
        amount = amount % 1e6;
        vm.prank(stranger);
        coin.transfer(address(settlement), amount);
        donated += amount;
    }

    function earn(uint32 id, uint256 n, uint256 amount) private {
        Book storage book = books[id];
        book.gross += amount;
        uint256 contents = book.gross * book.royaltyBps / BPS;
        uint256 cut = book.gross * book.trainerBps / BPS;
        uint256 rest = book.gross * (BPS - book.royaltyBps - book.trainerBps) / BPS;
        balances[trainer] += cut - book.trainer;
        balances[at(n)] += rest - book.node;
        (book.contents, book.trainer, book.node) = (contents, cut, rest);
    }

    /// @dev The accounting sentence and every ghost, in one pass.
    function check() external view {
        uint256 held = donated;
        for (uint256 k; k < SIGNERS; ++k) {
            for (uint256 n; n < NODES; ++n) {
                Ghost storage g = ghosts[k][n];
                (, uint96 left, uint96 settled, uint64 closeAt) = settlement.channel(signers[k], at(n));
                vm.assertEq(left, g.deposit, "deposit");
                vm.assertEq(settled, g.settled, "settled");
                vm.assertEq(closeAt, g.closeAt, "closeAt");
                vm.assertTrue(g.settled <= g.signedUpTo, "claimed <= signed");
                held += left;
            }
        }
        for (uint256 i; i < people.length; ++i) {
            uint256 amount = collectable(people[i]);
            vm.assertEq(amount, balances[people[i]], "balance");
            held += amount;
        }
        for (uint32 id = A; id <= B; ++id) {
            Book storage book = books[id];
            vm.assertEq(settlement.revenue(id), book.gross, "gross");
            vm.assertEq(settlement.owed(id), book.contents - book.distributed, "owed");
            held += book.gross - book.trainer - book.node;
            vm.assertTrue(book.gross - book.trainer - book.node - book.contents <= 2, "dust of an adapter");
        }
        held -= received[1] + received[2];
        uint256 a = books[A].distributed;
        vm.assertEq(received[1], a * 3_333 / BPS, "work 1 has its floor");
        vm.assertEq(received[2], a * 6_667 / BPS + books[B].distributed, "work 2 has its floors");
        vm.assertEq(coin.balanceOf(address(settlement)), held, "the accounting sentence");
    }
}
