// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {INodeDirectory, NodeEntry} from "../../interfaces/INodeDirectory.sol";
import {Fixture} from "./Fixture.sol";

/// @notice The list that nodes keep of themselves.
contract DirectoryTest is Fixture {
    INodeDirectory private directory;

    function setUp() public override {
        super.setUp();
        directory = INodeDirectory(vm.deployCode("NodeDirectory.sol:NodeDirectory", ""));
    }

    function announce(address who, string memory url) private {
        vm.prank(who);
        directory.announce(url, "age1key");
    }

    /// A node lists and replaces itself; nobody is listed twice.
    function test_announce_lists_and_replaces() public {
        announce(node, "https://one.example");
        until(START + 5);
        announce(node, "https://two.example");
        vm.assertEq(directory.count(), 1, "one entry");
        NodeEntry memory entry = directory.entryOf(node);
        vm.assertEq(entry.node, node, "node");
        vm.assertEq(entry.url, "https://two.example", "url");
        vm.assertEq(entry.ageKey, "age1key", "key");
        vm.assertEq(entry.announcedAt, START + 5, "time");
        vm.assertEq(directory.entryOf(stranger).node, address(0), "not listed");
    }

    function test_announce_bounds_sizes() public {
        vm.expectRevert(abi.encodeWithSelector(INodeDirectory.UrlLengthOutOfBounds.selector, 0));
        directory.announce("", "k");
        vm.expectRevert(abi.encodeWithSelector(INodeDirectory.UrlLengthOutOfBounds.selector, 257));
        directory.announce(string(new bytes(257)), "k");
        vm.expectRevert(abi.encodeWithSelector(INodeDirectory.AgeKeyTooLong.selector, 129));
        directory.announce("u", string(new bytes(129)));
        directory.announce(string(new bytes(256)), string(new bytes(128)));
        directory.announce("u", "");
    }

    function test_remove_needs_an_entry() public {
        vm.expectRevert(abi.encodeWithSelector(INodeDirectory.NotAnnounced.selector, node));
        vm.prank(node);
        directory.remove();
    }

    /// Pages cover the list once, and end where it ends.
    function test_list_pages() public {
        for (uint160 i = 1; i <= 5; ++i) {
            announce(address(i), "u");
        }
        vm.assertEq(directory.list(0, 2).length, 2, "first");
        vm.assertEq(directory.list(4, 2).length, 1, "last");
        vm.assertEq(directory.list(4, 2)[0].node, address(5), "last entry");
        vm.assertEq(directory.list(5, 2).length, 0, "beyond");
        vm.assertEq(directory.list(type(uint256).max, 2).length, 0, "far beyond");
        vm.assertEq(directory.list(1, type(uint256).max).length, 4, "rest");
    }

    /// After any announcements and removals the list holds exactly those who are in it, each once.
    function testFuzz_list_is_the_set_of_announced(uint8[] calldata moves) public {
        bool[8] memory listed;
        uint256 expected;
        for (uint256 i; i < moves.length; ++i) {
            uint256 who = moves[i] % 8;
            address actor = address(uint160(who + 1));
            if (moves[i] < 160) {
                announce(actor, "u");
                if (!listed[who]) ++expected;
                listed[who] = true;
            } else if (listed[who]) {
                vm.prank(actor);
                directory.remove();
                listed[who] = false;
                --expected;
            }
        }
        NodeEntry[] memory all = directory.list(0, 100);
        vm.assertEq(all.length, expected, "size");
        vm.assertEq(directory.count(), expected, "count");
        for (uint256 i; i < all.length; ++i) {
            uint256 who = uint160(all[i].node) - 1;
            vm.assertTrue(listed[who], "listed, and once");
            listed[who] = false;
            vm.assertEq(directory.entryOf(all[i].node).node, all[i].node, "entry found");
        }
        vm.assertEq(directory.entryOf(address(9)).node, address(0), "others are not");
    }
}
