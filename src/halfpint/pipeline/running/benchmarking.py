"""How fast a model runs here, and how near that is to what the machine can do.

Memory bounds the writing of text: each step reads every weight once. Arithmetic bounds the reading of a prompt. Both
limits are measured right before and right after each sample, because they change while one looks: machines are shared
with others, and processors change their clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.batching import BatchGeneration
from halfpint.engine.cost import TokenCost, token_cost
from halfpint.engine.decoder import Decoder
from halfpint.engine.generation import Generation
from halfpint.engine.sequence import GenerationOptions
from halfpint.errors import RoomError
from halfpint.kernels import machine
from halfpint.kernels.machine import peak_memory_bytes
from halfpint.kernels.probe import Limits, Probe, integer_instruction, share
from halfpint.models.opening import open_model
from halfpint.pipeline.looking.diagnosis import installed_version, processor_name
from halfpint.pipeline.options import BenchOptions, Progress, silent
from halfpint.pipeline.running_results import BenchResult, BenchRow, Spread
from halfpint.version import __version__

USUAL_PROMPTS = (128, 512)
"""Lengths of prompts when none are named, as far as the model's context holds them."""

_WARMING_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt read and continued, between two probes of the limits."""

    prefill_seconds: float
    decode_seconds: float
    limits: Limits


@dataclass(frozen=True, slots=True)
class Bench:
    """A loaded model, and what a token of it costs at least."""

    decoder: Decoder
    cost: TokenCost

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Bench:
        """Load the model of an open checkpoint."""
        decoder = Decoder.load(checkpoint, activations="int8")
        return cls(decoder, token_cost(checkpoint, decoder.config))

    def prompts(self, wanted: Sequence[int], tokens: int) -> tuple[int, ...]:
        """Lengths of prompts to try.

        Raises
        ------
        RoomError
            If one that was asked for does not fit the context with the tokens after it.
        """
        room = self.decoder.config.max_positions - tokens
        too_long = [prompt for prompt in wanted if prompt > room]
        if too_long or room < 1:
            raise RoomError(
                f"a prompt of {max(too_long, default=1)} tokens and {tokens} more do not fit the context of "
                f"{self.decoder.config.max_positions}; give a shorter --prompt or fewer --tokens"
            )
        return tuple(wanted) or tuple(length for length in USUAL_PROMPTS if length <= room) or (room,)

    def run(self, prompt_tokens: int, tokens: int, batch: int, seed: int) -> tuple[float, float]:
        """Read prompts of random tokens and continue them together; seconds of both.

        The likeliest token is always taken. There are as many steps as `tokens`: the first new token of a text comes
        from its prompt.
        """
        generator = np.random.default_rng(seed)
        prompts = generator.integers(0, self.decoder.config.vocab_size, (batch, prompt_tokens)).tolist()
        options = GenerationOptions(max_tokens=tokens + 1)
        running: Generation | BatchGeneration
        if batch == 1:
            running = Generation(self.decoder, prompts[0], options)
        else:
            running = BatchGeneration(self.decoder, prompts, options)
        for _ in running:
            pass
        return running.record.prefill_seconds, running.record.decode_seconds

    def row(self, prompt_tokens: int, options: BenchOptions, samples: Sequence[Sample]) -> BenchRow:
        """Put the samples of one length together: tokens of all texts count, and a step reads the weights once."""
        tokens, batch = options.tokens, options.batch
        operations = batch * self.cost.prompt_operations(prompt_tokens)
        read = tokens * self.cost.weight_bytes
        return BenchRow(
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            prefill_tokens_per_second=spread(batch * prompt_tokens / sample.prefill_seconds for sample in samples),
            decode_tokens_per_second=spread(batch * tokens / sample.decode_seconds for sample in samples),
            arithmetic_share=spread(
                share(operations, sample.prefill_seconds, sample.limits.integer_peak) for sample in samples
            ),
            bandwidth_share=spread(
                share(read, sample.decode_seconds, sample.limits.read_bandwidth) for sample in samples
            ),
            integer_peak=spread(sample.limits.integer_peak for sample in samples),
            read_bandwidth=spread(sample.limits.read_bandwidth for sample in samples),
        )


def spread(values: Iterable[float]) -> Spread:
    """Median, lowest and highest."""
    kept = sorted(values)
    return Spread(statistics.median(kept), kept[0], kept[-1])


def bench(model: str | Path, options: BenchOptions, progress: Progress = silent) -> BenchResult:
    """Measure how fast a model reads and writes on this machine.

    Parameters
    ----------
    model : str or Path
        A checkpoint of a known family, or `demo`; it needs no tokenizer, because tokens are drawn at random.
    options : BenchOptions
    progress : Progress
        Counts tokens, those of the prompts included.

    Returns
    -------
    BenchResult
        `peak_memory_bytes` is that of loading the model and running the longest prompt, before anything is probed.

    Raises
    ------
    RoomError
        If a prompt does not fit the model's context.
    """
    began = time.perf_counter()
    checkpoint = open_model(model)
    try:
        ready = Bench.load(checkpoint)
        load_seconds = time.perf_counter() - began
        prompts = ready.prompts(options.prompts, options.tokens)
        # Warm before it counts: pages of the file, buffers, threads.
        ready.run(max(prompts), _WARMING_TOKENS, options.batch, options.seed)
        peak = peak_memory_bytes()
        samples = _samples(ready, prompts, options, progress)
        rows = tuple(ready.row(prompt, options, samples[prompt]) for prompt in prompts)
    finally:
        checkpoint.close()
    return BenchResult(
        version=__version__,
        numpy=installed_version("numpy"),
        processor=processor_name(),
        kernel=machine.chosen(),
        instruction=integer_instruction(),
        threads=machine.thread_count(),
        repeats=options.repeats,
        batch=options.batch,
        weight_bytes=checkpoint.weight_bytes,
        weight_bytes_per_token=ready.cost.weight_bytes,
        operations_per_token=ready.cost.block_operations,
        load_seconds=load_seconds,
        peak_memory_bytes=peak,
        rows=rows,
    )


def _samples(
    ready: Bench, prompts: Sequence[int], options: BenchOptions, progress: Progress
) -> dict[int, list[Sample]]:
    """Samples of every length of prompt, in turns, so that a change of the machine meets them all."""
    probe = Probe(int(ready.cost.weight_bytes))
    samples: dict[int, list[Sample]] = {prompt: [] for prompt in prompts}
    total, done = options.repeats * sum(prompt + options.tokens for prompt in samples), 0
    before = probe.measure()
    for repeat in range(options.repeats):
        for prompt, taken in samples.items():
            progress("bench", done, total, f"{prompt} tokens read, {options.tokens} written")
            seconds = ready.run(prompt, options.tokens, options.batch, options.seed + repeat)
            after = probe.measure()
            taken.append(Sample(*seconds, _between(before, after)))
            before = after
            done += prompt + options.tokens
    progress("bench", done, total, "")
    return samples


def _between(before: Limits, after: Limits) -> Limits:
    """The limits during a sample, from those on both sides of it."""
    return Limits((before.read_bandwidth + after.read_bandwidth) / 2, (before.integer_peak + after.integer_peak) / 2)
