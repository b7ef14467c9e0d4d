"""What a user may ask of the verbs: small frozen records, checked at the door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from halfpint import formats
from halfpint.checkpoints import CONTAINERS
from halfpint.errors import UnsupportedError, UsageError
from halfpint.pipeline.option_types import TypedOptions
from halfpint.planning.engines import ENGINES, FOLDER_ENGINES
from halfpint.planning.planner import DROP, Wish
from halfpint.plans import Rule

Progress = Callable[[str, int, int, str], None]
"""A callback (stage, done, total, tensor or file): most stages count bytes."""

CALIBRATED_PARAMETERS = 400_000_000
"""Models up to this size are calibrated unless it is refused: it takes them a quarter of an hour at most."""


def silent(stage: str, done: int, total: int, detail: str) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions(TypedOptions):
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
        self.check_types()
        if self.tokens < 0 or self.window_tokens < 2:
            raise UsageError("--tokens must be positive, and a window needs at least 2 tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate(TypedOptions):
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
        self.check_types()
        # Written so that NaN, which no result could fail, is refused too.
        if not (0 <= self.keep <= 1 and self.max_kl >= 0):
            raise UsageError(f"--keep is from 0 to 1 and --max-kl 0 or more, got {self.keep} and {self.max_kl}")

    @property
    def wanted(self) -> bool:
        """Whether anything is asked."""
        return self.keep > 0 or self.max_kl != float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(TypedOptions):
    """How much room the result may take: one of three measures, or none.

    Attributes
    ----------
    size_bytes : int
        Most bytes of the whole output; 0 asks nothing.
    bits_per_weight : float
        Most bits per parameter of the whole output, headers and embeddings included; 0 asks nothing.
    memory_bytes : int
        Memory of a machine that is to hold the weights, keys and values, and what the engine needs; 0 asks nothing.
    context_tokens : int
        With `memory_bytes`: tokens of text to have room for; 0 takes 4096, or the model's longest if that is less.
    """

    size_bytes: int = 0
    bits_per_weight: float = 0.0
    memory_bytes: int = 0
    context_tokens: int = 0

    def __post_init__(self) -> None:
        self.check_types()
        given = [value for value in (self.size_bytes, self.bits_per_weight, self.memory_bytes) if value]
        if not all(0 < value < float("inf") for value in given):
            raise UsageError(f"a budget is a positive number, got {', '.join(map(str, given))}")
        if len(given) > 1:
            raise UsageError("give one of --size, --bpw and --fit")
        if self.context_tokens < 0 or (self.context_tokens and not self.memory_bytes):
            raise UsageError("--context says how much text --fit must have room for; give both")

    @property
    def wanted(self) -> bool:
        """Whether anything is asked."""
        return bool(self.size_bytes or self.bits_per_weight or self.memory_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions(TypedOptions):
    """Which text the original model reads before it is quantized. Never the text that it is measured on.

    Attributes
    ----------
    texts : sequence of Path
        The user's own; empty for the bundled one.
    tokens : int
        About so many tokens (whole windows); 0 takes 64 for each column of the widest weight, from 8192 to 65536 (32768
        for models of more than 100 million parameters).
    seed : int
        Where in each text to begin; 0 is the beginning.
    """

    texts: Sequence[Path] = ()
    tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_types()
        if self.tokens < 0 or self.seed < 0:
            raise UsageError("--calibration-tokens and --seed must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions(TypedOptions):
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
        `gguf`, `compressed-tensors`, `huggingface`; when empty the one that `engine` reads, else `gguf`.
    engine : str
        The engine that must be able to load the result, checked before the work; empty for any.
    calibrate : bool or None
        Whether linear weights are solved with error feedback, on the bundled calibration text. None does it where
        it takes minutes at most: models of a known family with at most `CALIBRATED_PARAMETERS`.
    gate : Gate
        Without `bits`, `format`, `budget` and `plan_file`: what the smallest file is searched for that keeps it.
    measure : MeasureOptions or None
        None skips the comparison at the end.
    budget : Budget
        The best mixture of formats in so much room.
    plan_file : Path or None
        A plan made before, by `halfpint plan --save`.
    calibration : CalibrationOptions
    max_memory_bytes : int
        The job takes smaller pieces to stay below this, and is refused when that does not do; 0 for no limit.
    explains : bool
        Whether what each tensor adds to the damage is measured even where nothing depends on it.
    fresh : bool
        Whether what an earlier process left of the same output is removed; otherwise the job goes on with it.
    """

    bits: int | None = None
    format: str | None = None
    rules: Sequence[str] = ()
    container: str = ""
    engine: str = ""
    calibrate: bool | None = None
    gate: Gate = field(default_factory=Gate)
    measure: MeasureOptions | None = field(default_factory=MeasureOptions)
    budget: Budget = field(default_factory=Budget)
    plan_file: Path | None = None
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    max_memory_bytes: int = 0
    explains: bool = False
    fresh: bool = False

    def __post_init__(self) -> None:
        self.check_types()
        if not self.container:
            object.__setattr__(self, "container", "compressed-tensors" if self.engine in FOLDER_ENGINES else "gguf")
        self._check_one_answer()
        if self.container not in CONTAINERS:
            raise UnsupportedError(f"no container {self.container!r}; there are: {', '.join(CONTAINERS)}")
        if self.engine and self.engine not in {engine.name for engine in ENGINES}:
            known = ", ".join(engine.name for engine in ENGINES)
            raise UnsupportedError(f"no engine {self.engine!r} in our table; there are: {known}")
        if self.gate.wanted and self.measure is None:
            raise UsageError("--keep and --max-kl need the comparison: leave --no-measure out")

    def _check_one_answer(self) -> None:
        given = {
            "--bits": self.bits is not None,
            "--format": self.format is not None,
            "--plan": self.plan_file is not None,
            "--size, --bpw or --fit": self.budget.wanted,
        }
        named = [name for name, is_given in given.items() if is_given]
        if len(named) > 1:
            raise UsageError(f"give either {' or '.join(named)}, not both")

    @property
    def searches(self) -> bool:
        """Whether the gate alone says what is wanted: the smallest file that keeps it."""
        named = self.bits is not None or self.format is not None or self.plan_file is not None
        return self.gate.wanted and not named and not self.budget.wanted

    def wish(self, calibrate: bool) -> Wish:
        """The same in the words of planning."""
        fmt = None if self.format is None else formats.by_name(self.format)
        rules = tuple(parse_rule(rule) for rule in self.rules)
        return Wish(bits=self.bits, format=fmt, rules=rules, calibrate=calibrate)


def parse_rule(text: str) -> Rule:
    """Read `PATTERN=FORMAT`, or `PATTERN=drop`; the pattern may hold `=` itself.

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
    return Rule(pattern, None if name == DROP else formats.by_name(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions(TypedOptions):
    """How to measure the speed of a model.

    Attributes
    ----------
    prompts : tuple of int
        Lengths of the prompts that are read; when empty 128 and 512, as far as the model's context holds them.
    tokens : int
        Tokens written after each.
    repeats : int
        How often each is done.
    batch : int
        Texts that are read and continued together.
    seed : int
        Of the random tokens of the prompts.
    """

    prompts: tuple[int, ...] = ()
    tokens: int = 128
    repeats: int = 3
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_types()
        if min((self.tokens, self.repeats, self.batch, *self.prompts)) < 1:
            raise UsageError("--prompt, --tokens, --repeats and --batch must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions(TypedOptions):
    """How to continue a text.

    Attributes
    ----------
    max_tokens : int
        Most new tokens.
    temperature, top_k, top_p, min_p, repetition_penalty
        As in every engine; temperature 0 always takes the likeliest token.
    seed : int
    kv_cache : str
        How keys and values are kept: `f16`, `q8` (half the memory) or `f32`.
    draft : int
        Most tokens to guess from the text and check in one pass; 0 for none. The text does not depend on it.
    prompt_cache : Path or None
        File that keys and values of the prompt are taken from and put into; None for none.
    """

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    kv_cache: str = "f16"
    draft: int = 4
    prompt_cache: Path | None = None

    def __post_init__(self) -> None:
        self.check_types()
