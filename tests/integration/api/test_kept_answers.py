"""What the ledger keeps of an answer: enough to repeat it to who asked, and nothing to read."""

from __future__ import annotations

from pathlib import Path

from tests.integration.api.harness import Buyer, running_node

from viz.services.upkeep.maintenance import Maintenance

KEY = {"Idempotency-Key": "one"}


async def test_no_answer_and_no_question_stands_in_the_ledger(tmp_path: Path) -> None:
    """Database, journal and backups hold no text: it is encrypted under the buyer's own token."""
    question = "When does the tide turn at Portree in the first week of a leap year?"
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        first = await buyer.ask(buyer.chat(question), headers=KEY)
        words = first.text.encode()
        assert len(words) > 8
        held = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))
        for secret in (words, b"chatcmpl-", question.encode(), buyer.token.encode()):
            assert secret not in held
        again = await buyer.ask(buyer.chat(question), headers=KEY)
        assert again.headers["Idempotent-Replayed"] == "true" and again.text == first.text


async def test_a_whole_answer_is_repeated_byte_for_byte(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        body = buyer.chat(stream=False)
        first = await buyer.ask(body, headers=KEY)
        again = await buyer.ask(body, headers=KEY)
        assert again.headers["Idempotent-Replayed"] == "true" and again.body == first.body
        assert (await buyer.ask(buyer.chat("other"), headers=KEY)).status == 400


async def test_an_answer_is_kept_as_long_as_it_can_be_asked_for(tmp_path: Path) -> None:
    """An access token lives an hour, and so does what only its holder could ask for."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        await buyer.ask(headers=KEY)
        kept = Maintenance(node.store, node.clock)
        node.clock.now += 3_599
        assert (await kept.step())[0] == 0
        node.clock.now += 2
        assert (await kept.step())[0] == 1
