// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {Handler} from "./Handler.sol";

/// @notice After any number of moves by anyone, the accounting sentence and every ghost balance hold.
contract InvariantTest {
    Handler private handler;

    function setUp() public {
        handler = new Handler();
        handler.setUp();
    }

    /// @notice forge's way to be told whom to call, and with what.
    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        bytes4[] memory moves = new bytes4[](12);
        moves[0] = moves[1] = Handler.moveOpenOrTopUp.selector;
        moves[2] = moves[3] = moves[4] = Handler.moveClaim.selector;
        moves[5] = Handler.movePay.selector;
        moves[6] = Handler.moveDistribute.selector;
        moves[7] = Handler.moveCollect.selector;
        moves[8] = Handler.moveClose.selector;
        moves[9] = Handler.moveWork.selector;
        moves[10] = Handler.moveBlacklist.selector;
        moves[11] = Handler.moveDonate.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), moves);
    }

    /// @notice Every twenty-fifth move, for time; every move also asserts its own result.
    /// forge-config: default.invariant.runs = 400
    /// forge-config: default.invariant.depth = 500
    /// forge-config: default.invariant.fail-on-revert = true
    /// forge-config: default.invariant.check-interval = 25
    /// forge-config: default.invariant.include-storage = false
    /// forge-config: default.invariant.include-push-bytes = false
    /// forge-config: fuzz.invariant.runs = 20000
    /// forge-config: fuzz.invariant.depth = 500
    /// forge-config: fuzz.invariant.fail-on-revert = true
    /// forge-config: fuzz.invariant.check-interval = 25
    /// forge-config: fuzz.invariant.include-storage = false
    /// forge-config: fuzz.invariant.include-push-bytes = false
    function invariant_TheAccountingSentence() external view {
        handler.check();
    }

    /// @notice And at the end of every run.
    function afterInvariant() external view {
        handler.check();
    }
}
