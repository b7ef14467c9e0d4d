"""Claim: hours of generation over random prompts, lengths and batches hold no more memory, and give no wrong token.

    python benchmarks/soak.py MODEL.gguf --minutes 120

Every round draws a number of texts, their prompts and how many tokens each gets, and goes on with all of them in one
pass over the weights at a time, taking the likeliest tokens. Every so many rounds one text is read again by the
reference: activations in float32, plain C++ kernels, the whole text at once. A token is wrong when the reference likes
another better by more than rounding explains: by more than `TOLERANCE` standard deviations of its scores.

Memory is what the process holds after a round; it has grown when the median of the last quarter of the time is more
than `ALLOWED_GROWTH` above that of the second quarter (in the first, buffers and caches still find their sizes).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import halfpint
import reporting
from halfpint.engine.cache import Cache
from halfpint.engine.decoder import Decoder
from halfpint.kernels import _native, machine
from halfpint.report.progress import resident_bytes

TOLERANCE = 0.1
ALLOWED_GROWTH = 8 * 2**20
PREFILL_CHUNK = 512


@dataclass(frozen=True)
class Bounds:
    """The most of everything that a round draws."""

    texts: int
    prompt: int
    tokens: int


@dataclass
class Tally:
    """What happened so far."""

    rounds: int = 0
    tokens: int = 0
    checked: int = 0
    wrong: int = 0
    largest_gap: float = 0.0
    memory: list[tuple[float, int]] = field(default_factory=list)

    def growth(self, seconds: float) -> float:
        """Bytes that the last quarter of the time holds more than the second."""
        second = [held for when, held in self.memory if seconds / 4 <= when < seconds / 2]
        last = [held for when, held in self.memory if when >= 3 * seconds / 4]
        return statistics.median(last) - statistics.median(second) if second and last else float("nan")


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Use the plain C++ kernels, until the block is left."""
    before = _native.active_isa()
    _native.force_isa("portable")
    try:
        yield
    finally:
        _native.force_isa(before)


def texts_of_a_round(decoder: Decoder, bounds: Bounds, generator: np.random.Generator) -> list[list[int]]:
    """Draw prompts and go on with all of them together; of each the length of its prompt, then the whole text."""
    count = int(generator.integers(1, bounds.texts + 1))
    lengths = generator.integers(1, bounds.prompt + 1, count)
    wanted = generator.integers(1, bounds.tokens + 1, count)
    vocabulary = decoder.config.vocab_size
    texts = [generator.integers(0, vocabulary, length).tolist() for length in lengths]
    caches = [Cache(decoder.config) for _ in texts]
    pieces: list[NDArray[np.int64]] = []
    for text, cache in zip(texts, caches, strict=True):
        whole = np.array(text)
        for start in range(0, len(text) - 1, PREFILL_CHUNK):
            decoder.forward(whole[start : min(start + PREFILL_CHUNK, len(text) - 1)], cache, last_only=True)
        pieces.append(whole[-1:])
    going = list(range(count))
    while going:
        scores = decoder.forward_many([pieces[i] for i in going], [caches[i] for i in going])
        for i, token in zip(going, scores.argmax(axis=1).tolist(), strict=True):
            texts[i].append(token)
            pieces[i] = np.array([token])
        going = [i for i in going if len(texts[i]) < lengths[i] + wanted[i]]
    return [[int(length), *text] for length, text in zip(lengths, texts, strict=True)]


def gaps(reference: Decoder, text: list[int], prompt: int) -> NDArray[np.floating[Any]]:
    """How much better than each new token the reference likes its own, in standard deviations of its scores."""
    with plain_kernels():
        scores = reference.forward(np.array(text[:-1]))[prompt - 1 :]
    new = np.array(text[prompt:])
    behind: NDArray[np.floating[Any]] = scores.max(axis=1) - scores[np.arange(new.size), new]
    return behind / scores.std(axis=1)


def soak(decoder: Decoder, reference: Decoder, bounds: Bounds, arguments: argparse.Namespace) -> Tally:
    """Generate until the time is over."""
    generator = np.random.default_rng(arguments.seed)
    tally, started, told = Tally(), time.monotonic(), 0.0
    seconds = 60 * arguments.minutes
    while (now := time.monotonic() - started) < seconds:
        drawn = texts_of_a_round(decoder, bounds, generator)
        tally.rounds += 1
        tally.tokens += sum(len(text) - prompt for prompt, *text in drawn)
        if tally.rounds % arguments.check_every == 1 % arguments.check_every:
            prompt, *text = drawn[int(generator.integers(len(drawn)))]
            found = gaps(reference, text, prompt)
            tally.checked += found.size
            tally.wrong += int((found > TOLERANCE).sum())
            tally.largest_gap = max(tally.largest_gap, float(found.max()))
        tally.memory.append((now, resident_bytes()))
        if now - told > seconds / 20:
            told = now
            print(f"  {now:7.0f} s  {tally.rounds} rounds  {tally.memory[-1][1] / 1e6:.1f} MB", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--texts", type=int, default=8, help="most at a time")
    parser.add_argument("--prompt", type=int, default=300, help="most tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="most new tokens of a text")
    parser.add_argument("--check-every", type=int, default=5, help="rounds")
    parser.add_argument("--threads", type=int, default=machine.thread_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()
    machine.set_thread_count(arguments.threads)
    reporting.print_setting()
    with closing(halfpint.open_model(arguments.model)) as checkpoint:
        decoder, reference = Decoder.load(checkpoint, activations="int8"), Decoder.load(checkpoint)
        bounds = Bounds(arguments.texts, arguments.prompt, arguments.tokens)
        tally = soak(decoder, reference, bounds, arguments)
    growth = tally.growth(60 * arguments.minutes)
    row = {
        "model": Path(arguments.model).name,
        "minutes": arguments.minutes,
        "processor seconds": time.process_time(),
        "rounds": tally.rounds,
        "tokens": tally.tokens,
        "checked": tally.checked,
        "wrong": tally.wrong,
        "largest gap": tally.largest_gap,
        "growth MB": growth / 1e6,
        "peak MB": max(held for _, held in tally.memory) / 1e6,
    }
    print(
        "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
        )
    )
    reporting.save(arguments.json, [row], memory=tally.memory)
    if tally.wrong or growth > ALLOWED_GROWTH:
        raise SystemExit("failed: a wrong token, or memory that grows")


if __name__ == "__main__":
    main()
