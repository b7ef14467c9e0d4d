"""What running a model gives back: a text, and speeds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Generated:
    """A continued text and how fast it came.

    Attributes
    ----------
    text : str
        The new text only.
    prompt_tokens : int
        Tokens of the prompt that were read.
    generated_tokens : int
    prefill_tokens_per_second, decode_tokens_per_second : float
    peak_memory_bytes : int
    cached_tokens : int
        Tokens before those, whose keys and values were there already.
    drafted_tokens, accepted_tokens : int
        Tokens that were guessed, and those of them that were right.
    """

    text: str
    prompt_tokens: int
    generated_tokens: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    peak_memory_bytes: int
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """What several samples of one quantity gave."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class BenchRow:
    """How fast prompts of one length are read, and continued.

    Attributes
    ----------
    prompt_tokens, tokens : int
        Read, and written after that.
    prefill_tokens_per_second, decode_tokens_per_second : Spread
    arithmetic_share : Spread
        Operations of the weights' products in reading the prompt, as a part of `integer_peak` measured beside it.
    bandwidth_share : Spread
        Bytes of weights read in writing, as a part of `read_bandwidth` measured beside it. Above 1 for a model that
        stays in the caches.
    integer_peak : Spread
        Operations a second on 8-bit integers, multiplications and additions counted apart.
    read_bandwidth : Spread
        Bytes a second.
    """

    prompt_tokens: int
    tokens: int
    prefill_tokens_per_second: Spread
    decode_tokens_per_second: Spread
    arithmetic_share: Spread
    bandwidth_share: Spread
    integer_peak: Spread
    read_bandwidth: Spread


@dataclass(frozen=True, slots=True)
class BenchResult:
    """How fast a model runs on this machine.

    Attributes
    ----------
    version, numpy, processor : str
    kernel : str
        The instruction set in use.
    instruction : str
        What the peak of arithmetic was measured with.
    threads, repeats, batch : int
        The last: texts that were read and continued together, whose tokens count together.
    weight_bytes : int
        Of the weight files.
    weight_bytes_per_token : float
        Read for each token: without the table of the embedding, and of experts only those that are used.
    operations_per_token : float
        Of the products in the blocks.
    load_seconds : float
    peak_memory_bytes : int
        Of loading, and of the longest prompt.
    rows : tuple of BenchRow
        In the order in which they were asked for.
    """

    version: str
    numpy: str
    processor: str
    kernel: str
    instruction: str
    threads: int
    repeats: int
    batch: int
    weight_bytes: int
    weight_bytes_per_token: float
    operations_per_token: float
    load_seconds: float
    peak_memory_bytes: int
    rows: tuple[BenchRow, ...]

    @property
    def longest(self) -> BenchRow:
        """The row of the longest prompt, whose figures stand for the whole."""
        return max(self.rows, key=lambda row: row.prompt_tokens)
