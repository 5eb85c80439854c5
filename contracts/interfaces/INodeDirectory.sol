// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

/// @notice What a node says of itself.
struct NodeEntry {
    address node;
    /// When it last announced, in chain seconds.
    uint64 announcedAt;
    /// Where it answers over HTTP.
    string url;
    /// The age recipient to which blobs for it are sealed; empty if it takes none.
    string ageKey;
}

/// @title Where nodes answer
/// @notice A list that each node keeps of itself: no administrator, no stake, no money. An entry proves
///         only that the node's key wrote it: whoever reads treats `url` and `ageKey` as hostile text.
interface INodeDirectory {
    event NodeAnnounced(address indexed node, string url, string ageKey);
    event NodeRemoved(address indexed node);

    error UrlLengthOutOfBounds(uint256 length);
    error AgeKeyTooLong(uint256 length);
    error NotAnnounced(address node);

    /// @notice Lists the caller, or replaces what it said before.
    /// @param url 1 to 256 bytes.
    /// @param ageKey 0 to 128 bytes.
    function announce(string calldata url, string calldata ageKey) external;

    /// @notice Takes the caller off the list.
    function remove() external;

    /// @notice One node's entry; all empty where it is not listed.
    function entryOf(address node) external view returns (NodeEntry memory);

    /// @notice How many nodes are listed.
    function count() external view returns (uint256);

    /// @notice Up to `limit` entries from position `offset`; fewer at the end, none beyond it. A removal
    ///         moves the last entry into the gap, so read all pages at one block.
    function list(uint256 offset, uint256 limit) external view returns (NodeEntry[] memory);
}
