"""How a chat template takes what is said: as text, or as parts (`[{"type": "text", "text": ...}]`).

A template for one form can render the other without an error and drop what was said, so marker messages are rendered
and looked for in the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.tokenization.chat_templates import render_chat

Message = Mapping[str, Any]
"""One turn: `role` and `content`."""

Specials = tuple[tuple[str, str], ...]
"""Names and texts of the special tokens that a template may use."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message's reasoning is passed; templates read the first or the second."""

_MARKER = "marker{}message"
_PART = "'type'"
"""In a rendered text, this shows that a list of parts was printed as Python writes it."""


def in_form(template: str, specials: Specials, messages: Sequence[Message]) -> list[Message]:
    """Give the same conversation with contents in the form that a template takes.

    Texts become parts where the template drops texts. Parts that are all text become one text, joined by line breaks
    as llama.cpp joins them, where the template does not take parts.

    Raises
    ------
    UnsupportedError
        If the template drops what the user says in either form.
    """
    wants_parts = takes_parts(template, specials)
    listed = any(isinstance(message.get("content"), list) for message in messages)
    joins = listed and not wants_parts and not shows(template, specials, ("user",), parts=True)
    form = _as_parts if wants_parts else _as_text if joins else dict
    return [_with_reasoning(form(message)) for message in messages]


def takes_parts(template: str, specials: Specials) -> bool:
    """Whether contents must be lists of parts, because texts are dropped.

    A template that fails on every marker message (one that needs `tools`, say) gets texts: the conversation itself
    shows whether it renders.

    Raises
    ------
    UnsupportedError
        If what the user says is dropped in either form.
    """
    for roles in (("user", "assistant", "user"), ("user",)):
        for parts in (False, True):
            if shows(template, specials, roles, parts=parts):
                return parts
    try:
        render_chat(template, _variables(specials, ("user",), parts=False))
    except CheckpointError:
        return False
    raise UnsupportedError(
        "the chat template drops what the user says, as text and as a list of parts; put the right template beside the "
        "model as chat_template.jinja, or give plain text: `halfpint generate`, `--text FILE`"
    )


@lru_cache(maxsize=64)
def shows(template: str, specials: Specials, roles: tuple[str, ...], *, parts: bool) -> bool:
    """Whether what each of these roles says is in the rendered text; not where the template fails."""
    try:
        text = render_chat(template, _variables(specials, roles, parts=parts))
    except CheckpointError:
        return False
    return all(_MARKER.format(turn) in text for turn in range(len(roles))) and not (parts and _PART in text)


def _variables(specials: Specials, roles: Sequence[str], *, parts: bool) -> dict[str, Any]:
    said: list[Message] = [{"role": role, "content": _MARKER.format(turn)} for turn, role in enumerate(roles)]
    messages = [_as_parts(message) for message in said] if parts else said
    return {**dict(specials), "messages": messages, "add_generation_prompt": True, "tools": None, "documents": None}


def _with_reasoning(message: Message) -> Message:
    """Give a message's reasoning under both names that templates read, as transformers does."""
    found = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if found is None else {"thinking": found, **message, "reasoning_content": found}


def _as_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _as_text(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return message
    texts = [part.get("text") for part in content]
    return {**message, "content": "\n".join(texts)} if all(isinstance(text, str) for text in texts) else message
