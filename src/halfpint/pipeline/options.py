"""What a user may ask of the verbs: small frozen records, checked at the door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from halfpint import formats
from halfpint.checkpoints import CONTAINERS
from halfpint.errors import UnsupportedError, UsageError
from halfpint.planning.engines import ENGINES
from halfpint.planning.planner import Wish
from halfpint.plans import Rule

CALIBRATED_PARAMETERS = 100_000_000
"""Models up to this size are calibrated unless it is refused: it takes them seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """How to compare a model with its original.

    Attributes
    ----------
    texts : sequence of Path
        The user's own held-out text; empty for the bundled one.
    tokens : int
        About so many tokens (whole windows) to compare on; 0 chooses by the model's size, so that a laptop needs
        minutes.
    window_tokens : int
        Tokens in a window; shorter when the model's context is.
    """

    texts: Sequence[Path] = ()
    tokens: int = 0
    window_tokens: int = 512

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.window_tokens < 2:
            raise UsageError("--tokens must be positive, and a window needs at least 2 tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What the result must keep for a verdict of PASS.

    Attributes
    ----------
    keep : float
        Least top-1 agreement, as a fraction; 0 asks nothing.
    max_kl : float
        Largest mean KL divergence in nats; infinity asks nothing.
    """

    keep: float = 0.0
    max_kl: float = float("inf")

    def __post_init__(self) -> None:
        # Written so that NaN, which no result could fail, is refused too.
        if not (0 <= self.keep <= 1 and self.max_kl >= 0):
            raise UsageError(f"--keep is from 0 to 1 and --max-kl 0 or more, got {self.keep} and {self.max_kl}")

    @property
    def wanted(self) -> bool:
        """Whether anything is asked."""
        return self.keep > 0 or self.max_kl != float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """What to make of a model.

    Attributes
    ----------
    bits : int or None
        A preset of the container, 2 to 8.
    format : str or None
        One format for all linear weights.
    rules : sequence of str
        `PATTERN=FORMAT`; the last that matches a tensor decides.
    container : str
        `gguf`, `compressed-tensors`.
    engine : str
        The engine that must be able to load the result, checked before the work; empty for any.
    calibrate : bool or None
        Whether linear weights are solved with error feedback, on the bundled calibration text. None does it where
        it takes seconds: models of a known family with at most `CALIBRATED_PARAMETERS`.
    gate : Gate
    measure : MeasureOptions or None
        None skips the comparison at the end.
    """

    bits: int | None = None
    format: str | None = None
    rules: Sequence[str] = ()
    container: str = "gguf"
    engine: str = ""
    calibrate: bool | None = None
    gate: Gate = field(default_factory=Gate)
    measure: MeasureOptions | None = field(default_factory=MeasureOptions)

    def __post_init__(self) -> None:
        if self.container not in CONTAINERS:
            raise UnsupportedError(f"no container {self.container!r}; there are: {', '.join(CONTAINERS)}")
        if self.engine and self.engine not in {engine.name for engine in ENGINES}:
            known = ", ".join(engine.name for engine in ENGINES)
            raise UnsupportedError(f"no engine {self.engine!r} in our table; there are: {known}")
        if self.gate.wanted and self.measure is None:
            raise UsageError("--keep and --max-kl need the comparison: leave --no-measure out")

    def wish(self, calibrate: bool) -> Wish:
        """The same in the words of planning."""
        fmt = None if self.format is None else formats.by_name(self.format)
        rules = tuple(parse_rule(rule) for rule in self.rules)
        return Wish(bits=self.bits, format=fmt, rules=rules, calibrate=calibrate)


def parse_rule(text: str) -> Rule:
    """Read `PATTERN=FORMAT`; the pattern may hold `=` itself.

    Raises
    ------
    UsageError
        If there is no `=`, or one side is empty.
    UnsupportedError
        If there is no such format.
    """
    pattern, separator, name = text.rpartition("=")
    if not separator or not pattern or not name:
        raise UsageError(f"rule {text!r} is not PATTERN=FORMAT, such as '*down_proj*=q6_k'")
    return Rule(pattern, formats.by_name(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to continue a text.

    Attributes
    ----------
    max_tokens : int
        Most new tokens.
    temperature, top_k, top_p, min_p, repetition_penalty
        As in every engine; temperature 0 always takes the likeliest token.
    seed : int
    """

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
