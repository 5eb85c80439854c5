"""What a trusted deployment says is never a node's to say."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, address_of

from viz.domain.trust import require_as_trusted
from viz.errors import NodeNotTrusted


def test_a_node_of_the_same_deployment_is_taken() -> None:
    """All fields equal, or some of them left out: nothing is raised."""
    require_as_trusted(
        DEPLOYMENT,
        chain_id=DEPLOYMENT.chain_id,
        settlement=DEPLOYMENT.settlement,
        content_registry=DEPLOYMENT.content_registry,
        adapter_registry=DEPLOYMENT.adapter_registry,
        token=DEPLOYMENT.token,
        token_decimals=DEPLOYMENT.token_decimals,
    )
    require_as_trusted(DEPLOYMENT)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("chain_id", 1, "chain id"),
        ("settlement", address_of(0x51), "Settlement"),
        ("content_registry", address_of(0xC1), "ContentRegistry"),
        ("adapter_registry", address_of(0xA1), "AdapterRegistry"),
        ("token", address_of(0x71), "token"),
        ("token_decimals", 0, "token decimals"),
        ("token_decimals", 8, "token decimals"),
        ("token_decimals", 36, "token decimals"),
    ],
)
def test_every_field_that_differs_is_named(field: str, value: Any, named: str) -> None:
    """A lie about any of them could turn 250.00 into 250 units, or money towards a stranger."""
    with pytest.raises(NodeNotTrusted, match=f"gives {value} as its {named}, and") as caught:
        require_as_trusted(DEPLOYMENT, **{field: value})
    assert str(getattr(DEPLOYMENT, field)) in caught.value.detail
