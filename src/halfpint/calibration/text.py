"""Text for calibration and for measuring: bundled or the user's, cut into windows of tokens.

Two bundled sets exist and never overlap: the one beside this module calibrates, the one in
`halfpint.measuring` measures. Both were written for this project.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from halfpint.checkpoints.regular_file import marked_encoding
from halfpint.errors import CheckpointError, UsageError

LARGEST_TEXT_BYTES = 256 * 2**20

# Tokens that go through a block at a time: enough to make its products worth decoding a weight for.
BATCH_TOKENS = 2048


class TextTokenizer(Protocol):
    """What cutting text into windows needs of a tokenizer."""

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Token ids of a text; with `add_special`, the ones that every sequence of this model begins with too."""


@dataclass(frozen=True, slots=True)
class TextSource:
    """One piece of text and where it came from."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Window:
    """A run of consecutive tokens of one source, at most as long as the model's context."""

    source: str
    token_ids: tuple[int, ...]


Render = Callable[[Sequence[Mapping[str, Any]]], str]
"""A conversation (messages with `role` and `content`) as one text, usually by the model's own chat template."""


def plain_conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation without any template, for models that have none."""
    return "\n\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in messages)


def bundled(render: Render = plain_conversation) -> list[TextSource]:
    """The calibration text that comes with the package, one source per kind."""
    return read_folder(resources.files("halfpint.calibration") / "data", render)


def read_folder(folder: Traversable, render: Render) -> list[TextSource]:
    """Every .txt and .jsonl file of a package folder, in name order."""
    files = sorted((item for item in folder.iterdir() if item.name.endswith((".txt", ".jsonl"))), key=lambda f: f.name)
    return [_source(item.name, item.read_text(encoding="utf-8"), render) for item in files]


def read_files(paths: Sequence[Path], render: Render = plain_conversation) -> list[TextSource]:
    """The user's own text: plain UTF-8, or JSON lines with `messages` or `text`.

    Raises
    ------
    UsageError
        If a file is missing, not a regular file, not UTF-8, too large or empty.
    """
    sources = []
    for path in paths:
        if not path.is_file():
            raise UsageError(f"text file {path} does not exist or is not a regular file")
        if path.stat().st_size > LARGEST_TEXT_BYTES:
            raise UsageError(f"text file {path} is larger than {LARGEST_TEXT_BYTES >> 20} MiB; give a part of it")
        try:
            text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no text
        except UnicodeDecodeError as error:
            found = marked_encoding(error.object) or f"not UTF-8 (byte {error.start})"
            raise UsageError(f"text file {path} is {found}; convert it to UTF-8 first") from error
        if not text.strip():
            raise UsageError(f"text file {path} is empty")
        sources.append(_source(path.name, text, render))
    return sources


def _source(name: str, text: str, render: Render) -> TextSource:
    if not name.endswith(".jsonl"):
        return TextSource(name, text)
    return TextSource(name, "\n\n".join(_json_lines(name, text, render)))


def _json_lines(name: str, text: str, render: Render) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CheckpointError(f"{name}, line {number}: not JSON: {error}") from error
        if isinstance(record, dict) and isinstance(record.get("messages"), list):
            yield render(record["messages"])
        elif isinstance(record, dict) and isinstance(record.get("text"), str):
            yield record["text"]
        else:
            raise CheckpointError(f"{name}, line {number}: neither `messages` nor `text`")


@dataclass(frozen=True, slots=True)
class SourceUse:
    """How much of a source was taken.

    Attributes
    ----------
    source : str
    tokens : int
        In its windows, with what the model puts in front of each.
    tokens_left_out : int
        Of its text: beyond the limit, or too few at its end.
    """

    source: str
    tokens: int
    tokens_left_out: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Text cut into windows, and what was left out."""

    windows: list[Window]
    uses: tuple[SourceUse, ...]


def select(
    tokenizer: TextTokenizer,
    sources: Sequence[TextSource],
    tokens_per_window: int,
    token_limit: int,
    written: Sequence[Window] = (),
) -> Selection:
    """Cut texts into windows, taking from every source in turn so that a limit shortens all alike.

    Where a limit leaves windows out, those that are taken stand at even distances in their source.

    Parameters
    ----------
    tokenizer : TextTokenizer
    sources : sequence of TextSource
    tokens_per_window : int
        Each window has this many tokens, what the model puts in front included; a source's last, shorter one is
        kept when it has at least 16.
    token_limit : int
        No further window is taken once this many tokens are there.
    written : sequence of Window
        Windows that are tokens already, such as those that a model wrote itself: one more source for each name in them.

    Returns
    -------
    Selection
        In turn over the sources.

    Raises
    ------
    UsageError
        If no window comes out.
    """
    prefix = tokenizer.encode("")
    body = tokens_per_window - len(prefix)
    queues: list[tuple[str, list[Window], int]] = []
    for source in sources:
        ids = tokenizer.encode(source.text, add_special=False)
        pieces = [ids[start : start + body] for start in range(0, len(ids), body)]
        whole = [Window(source.name, (*prefix, *piece)) for piece in pieces if len(piece) >= min(16, body)]
        queues.append((source.name, whole, len(ids)))
    for name in dict.fromkeys(window.source for window in written):
        own = [window for window in written if window.source == name]
        queues.append((name, own, sum(len(window.token_ids) - len(prefix) for window in own)))
    windows = _in_turn([queue for _, queue, _ in queues], token_limit)
    if not windows:
        raise UsageError("the text is too short to measure or calibrate on: it gives fewer than 16 tokens")
    chosen = {id(window) for window in windows}
    uses = []
    for name, queue, tokens in queues:
        taken = [window for window in queue if id(window) in chosen]
        inside = sum(len(window.token_ids) for window in taken)
        uses.append(SourceUse(name, inside, tokens - inside + len(prefix) * len(taken)))
    return Selection(windows, tuple(uses))


def _in_turn(queues: Sequence[Sequence[Window]], token_limit: int) -> list[Window]:
    """One window of each queue, then another of each, until there are enough tokens; spread over each queue."""
    counts = [0] * len(queues)
    total = 0
    for turn in range(max((len(queue) for queue in queues), default=0)):
        for number, queue in enumerate(queues):
            if turn < len(queue) and total < token_limit:
                counts[number] += 1
                total += len(queue[turn].token_ids)
    chosen = [_spread(queue, count) for queue, count in zip(queues, counts, strict=True)]
    return [queue[turn] for turn in range(max(counts, default=0)) for queue in chosen if turn < len(queue)]


def _spread(queue: Sequence[Window], count: int) -> list[Window]:
    """So many windows at even distances: neighbours speak of the same things, and tell less together."""
    return [queue[(2 * place + 1) * len(queue) // (2 * count)] for place in range(count)]


def cut(
    tokenizer: TextTokenizer, sources: Sequence[TextSource], tokens_per_window: int, token_limit: int
) -> list[Window]:
    """Give the windows of `select`, without the account of what was left out."""
    return select(tokenizer, sources, tokens_per_window, token_limit).windows


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of one length, to go through a model together.

    Attributes
    ----------
    numbers : tuple of int
        Which windows.
    ids : int64 [sequences, tokens]
    """

    numbers: tuple[int, ...]
    ids: NDArray[np.int64]


def batches(windows: Sequence[Window]) -> list[Batch]:
    """Group windows of equal length, `BATCH_TOKENS` at a time."""
    by_length: dict[int, list[int]] = {}
    for number, window in enumerate(windows):
        by_length.setdefault(len(window.token_ids), []).append(number)
    made = []
    for length, numbers in by_length.items():
        step = max(1, BATCH_TOKENS // length)
        for start in range(0, len(numbers), step):
            members = numbers[start : start + step]
            ids = np.array([windows[number].token_ids for number in members], dtype=np.int64)
            made.append(Batch(tuple(members), ids))
    return made
