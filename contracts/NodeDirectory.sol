// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {INodeDirectory, NodeEntry} from "./interfaces/INodeDirectory.sol";

/// @title Where nodes answer
/// @dev Invariant: position[node] is 1 + its index in the list, and 0 for a node that is not in it.
contract NodeDirectory is INodeDirectory {
    uint256 public constant MAX_URL_BYTES = 256;
    uint256 public constant MAX_AGE_KEY_BYTES = 128;

    NodeEntry[] private _entries;
    mapping(address node => uint256) private _position;

    /// @inheritdoc INodeDirectory
    function announce(string calldata url, string calldata ageKey) external {
        if (bytes(url).length == 0 || bytes(url).length > MAX_URL_BYTES) {
            revert UrlLengthOutOfBounds(bytes(url).length);
        }
        if (bytes(ageKey).length > MAX_AGE_KEY_BYTES) revert AgeKeyTooLong(bytes(ageKey).length);
        uint256 position = _position[msg.sender];
        if (position == 0) {
            _entries.push();
            position = _entries.length;
            _position[msg.sender] = position;
        }
        NodeEntry storage entry = _entries[position - 1];
        entry.node = msg.sender;
        entry.announcedAt = uint64(block.timestamp);
        entry.url = url;
        entry.ageKey = ageKey;
        emit NodeAnnounced(msg.sender, url, ageKey);
    }

    /// @inheritdoc INodeDirectory
    function remove() external {
        uint256 position = _position[msg.sender];
        if (position == 0) revert NotAnnounced(msg.sender);
        uint256 last = _entries.length;
        if (position != last) {
            NodeEntry storage moved = _entries[last - 1];
            _entries[position - 1] = moved;
            _position[moved.node] = position;
        }
        _entries.pop();
        delete _position[msg.sender];
        emit NodeRemoved(msg.sender);
    }

    /// @inheritdoc INodeDirectory
    function entryOf(address node) external view returns (NodeEntry memory entry) {
        uint256 position = _position[node];
        if (position != 0) entry = _entries[position - 1];
    }

    /// @inheritdoc INodeDirectory
    function count() external view returns (uint256) {
        return _entries.length;
    }

    /// @inheritdoc INodeDirectory
    function list(uint256 offset, uint256 limit) external view returns (NodeEntry[] memory page) {
        uint256 total = _entries.length;
        if (offset >= total) return page;
        uint256 size = total - offset;
        if (limit < size) size = limit;
        page = new NodeEntry[](size);
        for (uint256 i; i < size; ++i) {
            page[i] = _entries[offset + i];
        }
    }
}
