"""Render a base model's chat template in the same way as Hugging Face's libraries.

Owns the sandbox, and the extensions of plain jinja that templates may use: loop controls, the
``generation`` tag, ``tojson`` without HTML escapes, ``raise_exception`` and ``strftime_now``.
Invariant: a template that cannot render an ordinary chat is refused when it is loaded. So a later
failure is caused by the content of the chat.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from viz.errors import InvalidRequest, ModelUnavailable

Messages = Sequence[Mapping[str, str]]
# The day used where results must be repeatable: the default of Llama 3's own template.
_FIXED_TIME: Final = datetime(2024, 7, 26, tzinfo=UTC)
_ASKED: Final = {"role": "user", "content": "ping"}
_SAID: Final = {"role": "assistant", "content": "pong"}
_TOLD: Final = {"role": "system", "content": "peng"}
_CHATS: Final[tuple[tuple[Messages, bool], ...]] = (
    ([_ASKED], True),
    ([_ASKED, _SAID], False),
    ([_ASKED, _SAID, _ASKED], True),
)


class TemplateRefuses(TemplateError):
    """The template called ``raise_exception``: some refuse a system message, for example."""


class ChatTemplate:
    """One template with the model's special tokens.

    ``now`` gives the time for ``strftime_now``. It is UTC by default, so that a node and a buyer
    who counts its tokens again render the same day.
    """

    def __init__(
        self,
        text: str,
        special: Mapping[str, Any],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Compile the template and test it on fixed chats; raise ModelUnavailable if it fails."""
        self._now = now
        self._special = special
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationMark, "jinja2.ext.loopcontrols"],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: self._now().strftime(form)
        try:
            self._template = environment.from_string(text)
            for chat, reply in _CHATS:
                self._test(chat, reply)
        except Exception as error:
            raise ModelUnavailable(
                f"the model's chat template cannot render an ordinary chat ({_words(error)}): "
                "correct the template, or choose another base model"
            ) from error
        try:
            self._test([_TOLD, _ASKED], reply=True)
        except TemplateRefuses:
            pass
        except Exception as error:
            raise ModelUnavailable(
                f"the model's chat template cannot render a system message ({_words(error)}): "
                "correct the template, or choose another base model"
            ) from error

    def fix_time(self) -> None:
        """Give templates one fixed time from now on."""
        self._now = lambda: _FIXED_TIME

    def render(self, messages: Messages, *, reply: bool) -> str:
        """Return the chat as text; with ``reply``, it ends where the model's reply begins.

        Raises InvalidRequest if the template refuses the chat, and ModelUnavailable if it fails.
        """
        try:
            return self._render(messages, reply)
        except TemplateRefuses as error:
            raise InvalidRequest(f"the model's chat template refuses: {error}") from error
        except Exception as error:
            raise ModelUnavailable(
                f"the model's chat template cannot render this chat ({_words(error)}): ask "
                "another model"
            ) from error

    def _render(self, messages: Messages, reply: bool) -> str:
        return self._template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=reply,
            **self._special,
        )

    def _test(self, chat: Messages, reply: bool) -> None:
        text = self._render(chat, reply)
        for message in chat:
            # A template may leave out a system message.
            if message is not _TOLD and message["content"] not in text:
                raise ValueError(f"it leaves out the {message['role']}'s message")


class _GenerationMark(Extension):
    """The tag ``{% generation %}``, which marks the model's text for training; rendered as is."""

    tags = {"generation"}  # noqa: RUF012  jinja declares an extension's tags in this way

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_as_is"), [], [], body).set_lineno(line)

    @staticmethod
    def _as_is(caller: Callable[[], str]) -> str:
        return caller()


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> None:
    raise TemplateRefuses(message)


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
