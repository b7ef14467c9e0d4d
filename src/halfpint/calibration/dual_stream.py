"""Text through two models at once, one block in memory at a time: the original, and itself as quantized so far.

For every input of weights, in the order of the forward pass, both streams come to it first; what is seen there is
gathered; the weight is chosen; and the quantized stream goes on with it. So each weight is chosen for the input that it
will really see, and can make up for what the weights before it did, as in Qronos (arXiv 2505.11695) and GPTAQ (arXiv
2504.02692); what projections into the residual stream make up for besides is WaterSIC's idea.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfpint.calibration.activation_store import Shelf, StreamOptions
from halfpint.calibration.block_calibration import Findings, Passage, Solve, ask
from halfpint.calibration.head_statistics import HeadInput, row_groups
from halfpint.calibration.moment_accumulators import SecondMoments
from halfpint.calibration.state import StreamState
from halfpint.calibration.stream_pair import output
from halfpint.calibration.text import Batch, Window, batches
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.activation import rms_norm
from halfpint.engine.block import load_block
from halfpint.engine.decoder import Ends, load_ends
from halfpint.engine.steps import Products
from halfpint.engine.weights import model_tensors
from halfpint.errors import NonFiniteError, UsageError
from halfpint.families import ModelConfig, Role, TensorRole, read_config
from halfpint.kernels.linear import Linear
from halfpint.kernels.machine import one_blas_thread
from halfpint.solvers.statistics import Statistics
from halfpint.tensors import FloatArray

EMBEDDING_SHARE = 0.3
"""Of the mean second moment of a head's input, for errors of an embedding that is the head as well: measured."""

Finished = Callable[[int, StreamState], None]
"""Called after each block with its number and the state, which may be saved; it is gone when the call returns."""


def unheard(layer: int, state: StreamState) -> None:
    """Save nothing."""


@dataclass(frozen=True, slots=True)
class Resume:
    """How to be interrupted: where to begin, and what to do after each block.

    Attributes
    ----------
    start : StreamState or None
        Go on after this; nothing of what comes before is solved again. None begins with the embedding.
    finished : Finished
    """

    start: StreamState | None = None
    finished: Finished = unheard


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What calibration read.

    Attributes
    ----------
    tokens_by_source : Mapping of str to int
        Tokens of each source of text.
    routed : Mapping of int to tuple of int
        Layer with experts -> tokens that went to each of them.
    scarce : Mapping of str to int
        Wanted tensors whose input had fewer tokens than `StreamOptions.scarce_share` of its columns, and how many it
        had: their solver had little to go by; with 0 tokens, nothing.
    activation_bytes : int
        Most bytes of activations that waited at once.
    file_bytes : int
        Size of the file for those that did not fit memory; 0 if all did.
    """

    tokens_by_source: Mapping[str, int]
    routed: Mapping[int, tuple[int, ...]]
    scarce: Mapping[str, int]
    activation_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class HalfBatch:
    """A batch, and which half of the text it belongs to."""

    half: int
    batch: Batch


def halved(windows: Sequence[Window]) -> list[HalfBatch]:
    """Put windows into batches of one length and one half; the windows of each source take turns between the halves."""
    turns: dict[str, int] = {}
    halves: tuple[list[Window], list[Window]] = ([], [])
    for window in windows:
        turn = turns.get(window.source, 0)
        halves[turn % 2].append(window)
        turns[window.source] = turn + 1
    return [HalfBatch(half, batch) for half, members in enumerate(halves) for batch in batches(members)]


def calibrate(
    checkpoint: Checkpoint,
    windows: Sequence[Window],
    wanted: Collection[str],
    solve: Solve,
    options: StreamOptions = StreamOptions(),  # noqa: B008 - frozen
    resume: Resume = Resume(),
) -> CalibrationReport:
    """Pass text through a model and its quantized twin, and have every weight solved on the way.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a known family, open.
    windows : sequence of Window
    wanted : collection of str
        Names of tensors whose solver wants to know their input.
    solve : Solve
        Called once for each weight that vectors are multiplied with, router, embedding and head, in the order of the
        forward pass: embedding first, an expert's three weights one after the other, an untied head last. What it gives
        is what the quantized stream goes on with. The arrays it is given are its own, but for `second`, which weights
        with one input share. A wanted embedding gets `row_counts` in addition; when it is tied, its `second` is that of
        the original's last norm (see `tied_statistics`), otherwise it has no tokens.
    options : StreamOptions
    resume : Resume

    Returns
    -------
    CalibrationReport

    Raises
    ------
    UsageError
        If a token is not in the vocabulary, there is no text, or a state of another text is to be continued.
    NonFiniteError
        If a stream comes to NaN or infinity.
    ShapeError
        If a solver gives another shape than it was given.
    RoomError
        If activations do not fit the disk.
    """
    if not windows:
        raise UsageError("there is no text to calibrate on")
    config = read_config(checkpoint.config)
    with one_blas_thread(), Shelf(options) as shelf:
        job = _Job(checkpoint, config, halved(windows), shelf, solve)
        findings = Findings(wanted, options.scarce_share)
        ends = load_ends(checkpoint, config, head=job.head.name in wanted)
        if resume.start is None:
            state = job.begin(ends, findings, lambda: tied_statistics(checkpoint, windows, options))
        else:
            state = job.go_on(resume.start, findings)
        for layer in range(state.layer + 1, job.config.layers):
            state = job.pass_block(layer, state, findings)
            resume.finished(layer, state)
        job.solve_head(ends, state, findings)
        most_bytes, file_bytes = shelf.most_bytes, shelf.file_bytes
    sources = _tokens_by_source(windows)
    routed = {layer: tuple(counts.tolist()) for layer, counts in findings.routed.items()}
    return CalibrationReport(sources, routed, dict(findings.scarce), most_bytes, file_bytes)


def _tokens_by_source(windows: Sequence[Window]) -> dict[str, int]:
    sources: dict[str, int] = {}
    for window in windows:
        sources[window.source] = sources.get(window.source, 0) + len(window.token_ids)
    return sources


def tied_statistics(
    checkpoint: Checkpoint,
    windows: Sequence[Window],
    options: StreamOptions = StreamOptions(),  # noqa: B008
) -> Statistics:
    """Pass text through the original model once, and look at what comes to a head that is the embedding as well.

    Parameters
    ----------
    checkpoint, windows, options
        As for `calibrate`.

    Returns
    -------
    Statistics
        `second` of the last norm's output, no shift, and `row_counts` of the embedding.
    """
    config = read_config(checkpoint.config)
    ends = load_ends(checkpoint, config)
    parts = halved(windows)
    with Shelf(options) as shelf:
        states = [shelf.keep(ends.embed(part.batch.ids)) for part in parts]
        for layer in range(config.layers):
            block = load_block(checkpoint, config, layer)
            for number, state in enumerate(states):
                states[number] = shelf.keep(block.forward(state.take(), perform=_decoded_products))
        seconds = SecondMoments(config.hidden_size)
        inputs = []
        for part, state in zip(parts, states, strict=True):
            x = _last_norm(ends, state.take())
            seconds.add(part.half, x)
            inputs.append(HeadInput(part.half, x, x))
    seconds.finish()
    groups = row_groups(ends.embedding.decode(), inputs, config.logit_softcap, EMBEDDING_SHARE)
    return Statistics((seconds.moments(0), seconds.moments(1)), _row_counts(config, parts), groups)


def _decoded_products(request: Products) -> list[FloatArray]:
    """Products by way of float32: for thousands of tokens faster than from the bytes of the file."""
    return [output(request.x, item.linear.decode(), item.bias) for item in request.projections]


def _last_norm(ends: Ends, hidden: FloatArray) -> FloatArray:
    normed = rms_norm(hidden, ends.final_norm, ends.config.norm_epsilon)
    return normed.reshape(-1, normed.shape[-1])


def _row_counts(config: ModelConfig, parts: Sequence[HalfBatch]) -> NDArray[np.int64]:
    """How often every token comes up: int64 [vocab_size]."""
    counts = np.zeros(config.vocab_size, np.int64)
    for part in parts:
        counts += np.bincount(part.batch.ids.reshape(-1), minlength=config.vocab_size)
    return counts


@dataclass(frozen=True, slots=True)
class _Job:
    """What every step needs."""

    checkpoint: Checkpoint
    config: ModelConfig
    parts: Sequence[HalfBatch]
    shelf: Shelf
    solve: Solve

    def outside(self, role: Role) -> TensorRole:
        """Give a tensor outside the blocks."""
        return next(tensor for tensor in model_tensors(self.config) if tensor.role is role)

    @property
    def head(self) -> TensorRole:
        """What the last norm's output is multiplied with."""
        return self.outside(Role.EMBEDDING if self.config.tied_embeddings else Role.HEAD)

    def fingerprint(self) -> int:
        """Tell texts and models of different sizes apart."""
        result = zlib.crc32(repr((self.config.layers, self.config.hidden_size, self.config.vocab_size)).encode())
        for part in self.parts:
            result = zlib.crc32(repr((part.half, part.batch.ids.shape)).encode(), result)
            result = zlib.crc32(part.batch.ids.astype("<i8").tobytes(), result)
        return result

    def begin(self, ends: Ends, findings: Findings, tied: Callable[[], Statistics]) -> StreamState:
        """Have the embedding solved, and look all tokens up."""
        embedded = [self.shelf.keep(ends.embed(part.batch.ids)) for part in self.parts]
        name = self.outside(Role.EMBEDDING).name
        statistics = None
        if name in findings.wanted:
            if self.config.tied_embeddings:
                statistics = tied()
            else:
                empty = Statistics.empty(self.config.hidden_size)
                statistics = replace(empty, row_counts=_row_counts(self.config, self.parts))
        solved = Linear(ask(self.solve, name, statistics, ends.embedding.shape))
        twin = replace(ends, embedding=solved)
        quantized = [self.shelf.keep(twin.embed(part.batch.ids)) for part in self.parts]
        return StreamState(-1, self.fingerprint(), embedded, quantized, findings.routed, findings.scarce)

    def go_on(self, start: StreamState, findings: Findings) -> StreamState:
        """Take up what was found before an interruption."""
        shapes = [(*part.batch.ids.shape, self.config.hidden_size) for part in self.parts]
        if start.fingerprint != self.fingerprint() or [held.shape for held in start.original] != shapes:
            raise UsageError("the state of calibration belongs to another text or model; begin anew")
        findings.routed.update(start.routed)
        findings.scarce.update(start.scarce)
        return start

    def pass_block(self, layer: int, state: StreamState, findings: Findings) -> StreamState:
        """Pass both streams through one block, having its weights solved."""
        passage = Passage(load_block(self.checkpoint, self.config, layer), self.shelf, self.solve, findings)
        halves = [part.half for part in self.parts]
        original, quantized = passage.run(halves, state.original, state.quantized)
        for stream, kind in ((original, "the model"), (quantized, "the quantized model")):
            if not all(np.isfinite(held.read()).all() for held in stream):
                raise NonFiniteError(
                    f"{kind} computes NaN or infinity in block {layer}; `halfpint verify` finds the tensor"
                )
        return replace(state, layer=layer, original=original, quantized=quantized)

    def solve_head(self, ends: Ends, state: StreamState, findings: Findings) -> None:
        """Have a head that is not the embedding solved."""
        if self.config.tied_embeddings:
            return
        name = self.head.name
        statistics = None
        if name in findings.wanted:
            statistics = self._head_statistics(ends, state)
            if statistics.tokens < findings.scarce_share * self.config.hidden_size:
                findings.scarce[name] = statistics.tokens
        ask(self.solve, name, statistics, self.head.shape)

    def _head_statistics(self, ends: Ends, state: StreamState) -> Statistics:
        """What the head sees; its differences are told by group of rows."""
        seconds = SecondMoments(self.config.hidden_size)
        inputs = []
        for part, first, second in zip(self.parts, state.original, state.quantized, strict=True):
            inputs.append(HeadInput(part.half, _last_norm(ends, first.take()), _last_norm(ends, second.take())))
            seconds.add(part.half, inputs[-1].quantized)
        seconds.finish()
        assert ends.output is not None
        groups = row_groups(ends.output.decode(), inputs, self.config.logit_softcap)
        return Statistics((seconds.moments(0), seconds.moments(1)), None, groups)
