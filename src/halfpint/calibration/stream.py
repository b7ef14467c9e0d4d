"""Text through a model with one block in memory at a time, gathering what each weight's input looks like."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from halfpint.calibration.text import Window, batches
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.block import load_block
from halfpint.engine.decoder import load_ends
from halfpint.engine.steps import Products, perform
from halfpint.families import read_config
from halfpint.solvers.statistics import Statistics
from halfpint.tensors import FloatArray


class _Gathering:
    """Second moments by weight; weights that see the very same input (q, k and v) share one."""

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = wanted
        self._last_input: FloatArray | None = None
        self._last_name = ""
        self.half = 0
        self.moments: dict[str, Statistics] = {}

    def perform(self, request: Products) -> Sequence[FloatArray]:
        """Take in the input of some products on the way to carrying them out."""
        for projection in request.projections:
            self._observe(projection.name, request.x)
        return perform(request)

    def _observe(self, name: str, x: FloatArray) -> None:
        if name not in self._wanted:
            return
        if x is self._last_input and name not in self.moments:
            self.moments[name] = self.moments[self._last_name]
        elif x is not self._last_input or self.moments[name] is not self.moments[self._last_name]:
            self.moments.setdefault(name, Statistics.empty(x.shape[1])).halves[self.half].add(x)
            self._last_input, self._last_name = x, name


def stream_moments(
    checkpoint: Checkpoint,
    windows: Sequence[Window],
    wanted: Collection[str],
) -> Iterator[Mapping[str, Statistics]]:
    """Pass text through the original model, block by block.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a known family.
    windows : sequence of Window
    wanted : collection of str
        Names of weights.

    Yields
    ------
    Mapping of str to Statistics
        For each block in turn, those of its weights that are wanted; an expert that no token was routed to is
        missing.
    """
    config = read_config(checkpoint.config)
    ends = load_ends(checkpoint, config)
    hidden = [ends.embed(batch.ids) for batch in batches(windows)]
    for layer in range(config.layers):
        block = load_block(checkpoint, config, layer)
        gathering = _Gathering(wanted)
        for index, state in enumerate(hidden):
            gathering.half = index % 2
            hidden[index] = block.forward(state, perform=gathering.perform)
        yield gathering.moments
