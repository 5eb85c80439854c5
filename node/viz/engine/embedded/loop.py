"""Run the generation thread: schedule, run and postprocess, one step after another.

Owns the thread and the content of a step. Invariants: every live sequence ends with exactly one
finishing piece or one error; a fault in one sequence changes no token of another. For this, a
failed step is repeated for each sequence alone, and only those that fail again end. A position is
run again only if it was not counted as cached.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import structlog

from viz.domain.ports.engine import Piece
from viz.domain.units import AdapterId
from viz.engine.embedded.decoder import PrefillChunk
from viz.engine.embedded.sampling import choose, choose_run
from viz.engine.embedded.scheduler import Scheduler
from viz.errors import EngineError

if TYPE_CHECKING:
    from viz.engine.embedded.adapter_pool import AdapterPool
    from viz.engine.embedded.decoder import DecoderModel
    from viz.engine.embedded.sequence import Sequence
    from viz.engine.embedded.settings import EngineSettings
    from viz.engine.sequence import SampledToken
    from viz.engine.stream import StreamState

_log = structlog.get_logger()
_Item = TypeVar("_Item")
PieceBatch = list[tuple["StreamState", "Piece | EngineError"]]
# While no sequence decodes, prefill may take more tokens a step: it delays nobody's next token.
_IDLE_PREFILL_FACTOR = 4
# With so few rows a decoding step is bound by reading the weights: a guessed token costs little.
_GUESSING_ROWS = 5


class EngineLoop:
    """The batch of one model. ``submit`` and ``wake`` may be called from any thread."""

    def __init__(
        self,
        decoder: DecoderModel,
        pool: AdapterPool,
        settings: EngineSettings,
        deliver: Callable[[PieceBatch], None],
    ) -> None:
        self._decoder, self._settings, self._deliver = decoder, settings, deliver
        self.counts: Counter[str] = Counter()
        self._scheduler = Scheduler(
            decoder.cache, pool, settings, self.counts, self._loaded, packed=decoder.packed
        )
        self._live = self._scheduler.live
        self._inbox: deque[Sequence] = deque()
        self._load_errors: deque[tuple[AdapterId, EngineError]] = deque()
        self._out: PieceBatch = []
        self._news = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="viz-generation", daemon=True)

    def start(self) -> None:
        """Start the generation thread."""
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Hand a sequence to the generation thread. Callable from any thread."""
        self._inbox.append(sequence)
        self._news.set()

    def wake(self) -> None:
        """Make the generation thread look for changes. Callable from any thread."""
        self._news.set()

    def close(self) -> None:
        """End every sequence as cancelled and wait for the thread to end. Blocks."""
        self._closing = True
        self._news.set()
        self._thread.join()

    def gauges(self) -> dict[str, float]:
        """Return how many sequences run, wait and are paused; approximate if they change now."""
        live = list(self._live)
        with_slot = [sequence for sequence in live if sequence.slot is not None]
        paused = sum(1 for sequence in with_slot if sequence.paused_since is not None)
        return {
            "running": len(with_slot) - paused,
            "waiting": len(live) - len(with_slot) + len(self._inbox),
            "paused": paused,
            "kept_prefixes": len(self._scheduler.prefixes),
        }

    def _loop(self) -> None:
        while not self._closing:
            self._news.clear()
            try:
                ran = self._step()
            except Exception as error:  # noqa: BLE001 - a fault must not end the thread
                _log.exception("engine step failed")
                ran = True
                for sequence in list(self._live):
                    self._fail(sequence, error)
            self._flush()
            if not ran:
                self._news.wait(self._scheduler.wait_s())
        self._live.extend(self._inbox)
        for sequence in list(self._live):
            self._end(sequence, sequence.cancel())
        self._flush()

    def _step(self) -> bool:
        """Schedule, run one prefill and one decoding step; return whether anything ran.

        The prefill of a step is bounded, so that running sequences get their next token in time.
        """
        self._admit()
        self._scheduler.fill()
        prefilled = self._prefill()
        self._flush()
        return self._decode() or prefilled

    # schedule

    def _admit(self) -> None:
        while self._inbox:
            self._live.append(self._inbox.popleft())
        while self._load_errors:
            adapter_id, error = self._load_errors.popleft()
            for sequence in self._scheduler.without_slot():
                if sequence.request.adapter_id == adapter_id:
                    self._end(sequence, error)
        now = time.monotonic()
        for sequence in list(self._live):
            if sequence.state.cancelled:
                self._end(sequence, sequence.cancel())
            elif sequence.may_run():
                sequence.paused_since = None
            elif sequence.paused_since is None:
                sequence.paused_since = now

    def _loaded(self, adapter_id: AdapterId, error: EngineError | None) -> None:
        """Called on the loader's thread."""
        if error is not None:
            self._load_errors.append((adapter_id, error))
        self._news.set()

    # run

    def _prefill(self) -> bool:
        waiting = [
            sequence
            for sequence in self._live
            if sequence.slot is not None and not sequence.decodable and sequence.may_run()
            # After a copy from its sibling only the newest token may be left: then it decodes.
            if not self._scheduler.copy_from_sibling(sequence) and not sequence.decodable
        ]
        budget = self._settings.prefill_tokens
        if not any(sequence.decodable for sequence in self._live):
            budget *= _IDLE_PREFILL_FACTOR
        picked: list[tuple[Sequence, PrefillChunk]] = []
        for sequence in waiting:
            if budget <= 0:
                break
            tokens = sequence.tokens[sequence.cached : sequence.cached + budget]
            budget -= len(tokens)
            slot = sequence.slot
            assert slot is not None
            picked.append((sequence, PrefillChunk(slot, sequence.cached, tokens, sequence.adapter)))
        if picked:
            self._isolating(picked, self._run_chunks, lambda pair: pair[0])
        return bool(picked)

    def _run_chunks(self, picked: list[tuple[Sequence, PrefillChunk]]) -> None:
        ends = [
            place
            for place, (sequence, chunk) in enumerate(picked)
            if chunk.start + len(chunk.tokens) == len(sequence.tokens)
        ]
        logits = self._decoder.prefill([chunk for _, chunk in picked], ends)
        ended = [picked[place][0] for place in ends]
        chosen = choose(logits, [sequence.draw() for sequence in ended])
        for sequence, chunk in picked:
            sequence.cached += len(chunk.tokens)
            self.counts["prefilled_tokens"] += len(chunk.tokens)
        if ended:
            # Siblings copy the finished prompt now: after its first token the sequence may end
            # and lose its slot.
            for sequence in self._live:
                self._scheduler.copy_from_sibling(sequence)
        self._accept(ended, chosen)

    def _decode(self) -> bool:
        batch = [s for s in self._live if s.decodable and s.may_run()]
        if batch:
            if self._decoder.packed:
                self._scheduler.pack(batch)
            guesses = self._guesses(batch)
            if any(guesses):
                pairs = list(zip(batch, guesses, strict=True))
                self._isolating(pairs, self._run_guesses, lambda pair: pair[0])
            else:
                self._isolating(batch, self._run_batch, lambda sequence: sequence)
        return bool(batch)

    def _guesses(self, batch: list[Sequence]) -> list[list[int]]:
        """Return guesses of each sequence's next tokens; none if a check costs more than it saves.

        A sequence that gets several tokens at once gets no more than is paid for.
        """
        most = _GUESSING_ROWS // len(batch) - 1
        # The torch path's rows depend on how many there are: a guess could change a token.
        if most < 1 or self._decoder.packed or not self._settings.guesses:
            return []
        return [each.lookup.guess(each.tokens, min(most, each.room() - 1)) for each in batch]

    def _run_guesses(self, batch: list[tuple[Sequence, list[int]]]) -> None:
        """Compute the newest token and the guessed ones; take those that would be chosen anyway."""
        chunks = []
        for sequence, guess in batch:
            assert sequence.slot is not None
            tokens = [sequence.tokens[-1], *guess]
            chunks.append(PrefillChunk(sequence.slot, sequence.cached, tokens, sequence.adapter))
        logits, chosen, start = self._decoder.verify(chunks), [], 0
        for (sequence, guess), chunk in zip(batch, chunks, strict=True):
            rows = logits[start : start + len(chunk.tokens)]
            chosen.append(choose_run(rows, sequence.draw(), guess))
            start += len(chunk.tokens)
        self.counts["decode_steps"] += 1
        for (sequence, guess), run in zip(batch, chosen, strict=True):
            self.counts["guessed_tokens"] += len(guess)
            self.counts["right_guesses"] += len(run) - 1
            if guess:
                sequence.lookup.judge(len(sequence.tokens), len(run) - 1)
            for choice in run:
                if sequence.slot is None:  # it ended with the token before
                    break
                sequence.cached += 1
                self._accept([sequence], [choice])

    def _run_batch(self, batch: list[Sequence]) -> None:
        slots = [sequence.slot for sequence in batch if sequence.slot is not None]
        rows = max(slots) + 1
        tokens, positions = [0] * rows, [0] * rows
        for sequence in self._live:
            # Every row up to the highest slot runs. A row whose sequence does not run now writes
            # at the position that its next real token overwrites: harmless.
            if sequence.slot is not None and sequence.slot < rows:
                positions[sequence.slot] = sequence.cached
        for sequence, slot in zip(batch, slots, strict=True):
            tokens[slot] = sequence.tokens[-1]
        active_adapters = [
            (slot, s.adapter) for s, slot in zip(batch, slots, strict=True) if s.adapter
        ]
        logits = self._decoder.decode(tokens, positions, slots, active_adapters)
        chosen = choose(logits, [sequence.draw() for sequence in batch])
        for sequence in batch:
            sequence.cached += 1
        self.counts["decode_steps"] += 1
        self._accept(batch, chosen)

    def _isolating(
        self,
        batch: list[_Item],
        run: Callable[[list[_Item]], None],
        owner: Callable[[_Item], Sequence],
    ) -> None:
        """Run the batch; if it fails, run each item alone and end those that fail alone.

        ``run`` must raise before it changes any sequence, or not at all: otherwise the second run
        would count a token twice.
        """
        try:
            run(batch)
        except Exception as error:  # noqa: BLE001 - one sequence must not end the others
            self.counts["failed_steps"] += 1
            _log.warning("engine batch failed", error=repr(error), sequences=len(batch))
            for item in batch:
                if owner(item) not in self._live:
                    continue
                try:
                    run([item])
                except Exception as alone:  # noqa: BLE001 - this one is the cause
                    self._fail(owner(item), alone)

    # postprocess

    def _accept(self, batch: list[Sequence], chosen: list[SampledToken | EngineError]) -> None:
        """Give each sequence its token; a fault ends only its own sequence and is not raised."""
        for sequence, choice in zip(batch, chosen, strict=True):
            if isinstance(choice, EngineError):
                self._fail(sequence, choice)
                continue
            try:
                piece = sequence.accept(choice)
            except Exception as error:  # noqa: BLE001 - one sequence must not end the others
                self._fail(sequence, error)
                continue
            self.counts["generated_tokens"] += len(piece.token_ids)
            if sequence.finished:
                self._end(sequence, piece)
            else:
                self._out.append((sequence.state, piece))

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        _log.warning("sequence failed", request=sequence.request.request_id, error=repr(error))
        told = error if isinstance(error, EngineError) else None
        self._end(sequence, told or EngineError("the model step failed: try again"))

    def _end(self, sequence: Sequence, last: Piece | EngineError) -> None:
        self._scheduler.end(sequence)
        self._out.append((sequence.state, last))

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._deliver(out)
