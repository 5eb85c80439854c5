"""A base model's chat template, rendered as Hugging Face's libraries render it.

Owns the sandbox and what templates may use beside plain jinja: loop controls, the ``generation``
mark, ``tojson`` without HTML escapes, ``raise_exception`` and ``strftime_now``. Does not know
tokens. Invariant: a template that cannot render an ordinary chat is found out when it is loaded,
so what fails later is what a chat's author wrote.
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
# What a repetition must not depend on is fixed: the day that Llama 3's own template falls back to.
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
    """The template itself refuses a chat, by ``raise_exception``: some take no system message."""


class ChatTemplate:
    """One template with the model's named special tokens.

    ``now`` tells ``strftime_now`` the time; in UTC by default, so that a node and a buyer who
    counts after it render the same day.
    """

    def __init__(
        self,
        text: str,
        special: Mapping[str, Any],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Compile the template and render fixed chats. Raises ModelUnavailable."""
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
                self._prove(chat, reply)
        except Exception as error:
            raise ModelUnavailable(
                f"the model's chat template cannot render an ordinary chat ({_words(error)}): "
                "mend its chat template, or choose another base model"
            ) from error
        try:
            self._prove([_TOLD, _ASKED], reply=True)
        except TemplateRefuses:
            pass
        except Exception as error:
            raise ModelUnavailable(
                f"the model's chat template cannot render a system message ({_words(error)}): "
                "mend its chat template, or choose another base model"
            ) from error

    def fix_time(self) -> None:
        """Tell templates one fixed time from now on."""
        self._now = lambda: _FIXED_TIME

    def render(self, messages: Messages, *, reply: bool) -> str:
        """Return the chat as text, ending where the reply begins if ``reply``.

        Raises InvalidRequest where the template refuses the chat, ModelUnavailable where it fails.
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

    def _prove(self, chat: Messages, reply: bool) -> None:
        text = self._render(chat, reply)
        for message in chat:
            # Not for an answer, of which some templates cut what they take for thoughts.
            if message is not _TOLD and message["content"] not in text:
                raise ValueError(f"it leaves out what the {message['role']} said")


class _GenerationMark(Extension):
    """``{% generation %}``: marks what the model wrote, for training by others; renders as is."""

    tags = {"generation"}  # noqa: RUF012  jinja's own way to name them

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
