// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {BoundedTransfer} from "../../libraries/BoundedTransfer.sol";

/// @notice A transfer of bounded gas that answers whether it went, as plainly as Solidity can say it.
library PlainTransfer {
    function trySend(IERC20 token, address to, uint256 amount) internal returns (bool) {
        if (gasleft() < BoundedTransfer.NEEDED) revert BoundedTransfer.NotEnoughGas();
        bytes memory transfer = abi.encodeCall(IERC20.transfer, (to, amount));
        (bool through, bytes memory answer) = address(token).call{gas: BoundedTransfer.STIPEND}(transfer);
        if (!through) return false;
        if (answer.length == 0) return true;
        return answer.length >= 32 && abi.decode(answer, (uint256)) == 1;
    }
}
