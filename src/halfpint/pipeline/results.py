"""What the verbs give back: records of numbers, from which every card, table and JSON object is made.

Those of running a model are in `halfpint.pipeline.running_results`, which needs nothing that only other verbs do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from halfpint.measuring.metrics import Quality
from halfpint.planning.memory import MemoryNeed
from halfpint.planning.sensitivity import Sensitivity
from halfpint.plans import Plan, PlannedTensor
from halfpint.tensors import SLICE_WEIGHTS

Speech = Literal["chat", "generate", ""]
"""The command that runs a model: `chat` needs a chat template; empty when none can."""

Verdict = Literal["PASS", "FAIL", "UNGATED", "UNMEASURED"]


@dataclass(frozen=True, slots=True)
class TensorOutcome:
    """What became of one tensor.

    Attributes
    ----------
    planned : PlannedTensor
    relative_error : float
        Root of sum (weight - decoded)^2 / sum weight^2; 0 for a copy.
    seconds : float
        Reading, solving and writing it.
    checksums : tuple of (start_row, end_row, crc32)
        Of what was written, slice by slice, to compare with what is read back.
    source_hash : str
        SHA-256 of what was read of the source, slice by slice, in hexadecimal.
    losses : Mapping of str to float
        What each step of the solver was worth: `Solved.losses`.
    note : str
        What the solver did instead of what was asked; empty when nothing.
    """

    planned: PlannedTensor
    relative_error: float
    seconds: float
    checksums: tuple[tuple[int, int, int], ...]
    source_hash: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """How a job divides its memory.

    Attributes
    ----------
    slice_weights : int
        Weights that are worked on at a time, where rows are solved apart.
    activation_bytes : int
        Activations that wait in memory; more wait on disk.
    """

    slice_weights: int = SLICE_WEIGHTS
    activation_bytes: int = 2**30


KL_FORECAST_FACTOR = 2.5
"""How far a forecast of the mean KL divergence may be off, either way: it held in 9 of 9 jobs (docs/budgets.md)."""


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan and what is known of it before paying.

    Attributes
    ----------
    plan : Plan
    original_bytes : int
        Weight files of the source.
    engines : tuple of str
        Who can load the output.
    refusals : Mapping of str to str
        Why the others cannot.
    peak_memory_bytes : int
        Forecast for the job without the comparison.
    seconds : float
        Forecast for the same.
    comparison_seconds : float
        Forecast for the comparison with the original; 0 when there is none.
    original_bits : float
        Bits per weight of those tensors of the source that are quantized already; 0 when none is. Whoever compares
        with such a source does not see what it had lost before.
    kl_mean : float or None
        Forecast of the mean KL divergence in nats; None when nothing of the model was measured.
    memory : MemoryNeed or None
        How the memory of the machine is divided, when that was the budget.
    kl_by_tensor : Mapping of str to float
        Forecast of what each tensor adds to `kl_mean`; empty when nothing was measured.
    sensed : Sensitivity or None
        What was measured.
    limits : MemoryLimits
        How the job divides its memory to stay below `peak_memory_bytes`.
    calibration_tokens : int
        About so many tokens of text will be read to solve weights on; 0 when none of them needs text.
    """

    plan: Plan
    original_bytes: int
    engines: tuple[str, ...]
    refusals: Mapping[str, str]
    peak_memory_bytes: int
    seconds: float
    kl_mean: float | None = None
    memory: MemoryNeed | None = None
    kl_by_tensor: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    sensed: Sensitivity | None = None
    limits: MemoryLimits = MemoryLimits()
    calibration_tokens: int = 0
    comparison_seconds: float = 0.0
    original_bits: float = 0.0

    @property
    def kl_interval(self) -> tuple[float, float] | None:
        """Lowest and highest mean KL divergence that the forecast allows for; None without a forecast."""
        if self.kl_mean is None:
            return None
        return self.kl_mean / KL_FORECAST_FACTOR, self.kl_mean * KL_FORECAST_FACTOR


@dataclass(frozen=True, slots=True)
class Measurement:
    """A model compared with its original.

    Attributes
    ----------
    quality : Quality
    by_source : Mapping of str to Quality
        The same for each kind of text.
    nbytes, reference_bytes : int
        Of the weight files.
    bits_per_weight : float
    seconds : float
    notes : tuple of str
        Where the two differ in what the figures do not show, such as their tokenizers.
    """

    quality: Quality
    by_source: Mapping[str, Quality]
    nbytes: int
    reference_bytes: int
    bits_per_weight: float
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Baseline:
    """The best preset or single format of at most the same size, made with the same solver for comparison.

    Attributes
    ----------
    name : str
        Such as `--bits 4` or `--format q4_k`.
    nbytes : int
    quality : Quality
    kept : bool
        Whether it was the better of the two, and is what was written.
    """

    name: str
    nbytes: int
    quality: Quality
    kept: bool


@dataclass(frozen=True, slots=True)
class Trial:
    """One file that was made and measured on the way to the smallest that keeps a gate."""

    nbytes: int
    quality: Quality
    passed: bool


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """The outcome of a job.

    Attributes
    ----------
    planned : PlanResult
    output : Path
    tensors : tuple of TensorOutcome
    seconds : float
        Of everything, the comparison included.
    peak_memory_bytes : int
    verdict : str
    verdict_reason : str
    measurement : Measurement or None
    baseline : Baseline or None
        Of a budget: what a uniform mixture of that size would have been; None when none was made.
    trials : tuple of Trial
        Of a search, in order; empty otherwise.
    additivity : float or None
        Measured KL divergence over the sum of the tensors' own, of the mixture that the budget chose.
    speech : str
        The command that runs the output.
    job_notes : tuple of str
        What went wrong without ending the job.
    """

    planned: PlanResult
    output: Path
    tensors: tuple[TensorOutcome, ...]
    seconds: float
    peak_memory_bytes: int
    verdict: Verdict
    verdict_reason: str
    measurement: Measurement | None
    baseline: Baseline | None = None
    trials: tuple[Trial, ...] = ()
    additivity: float | None = None
    speech: Speech = "chat"
    job_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """All that is odd: about the source, the job, single tensors, and the comparison."""
        tensors = (f"{outcome.planned.name}: {outcome.note}" for outcome in self.tensors if outcome.note)
        measured = () if self.measurement is None else self.measurement.notes
        return (*self.planned.plan.notes, *self.job_notes, *tensors, *measured)

    @property
    def plan(self) -> Plan:
        """The plan that was carried out."""
        return self.planned.plan


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """A checkpoint that holds together.

    Attributes
    ----------
    container : str
    family : str
    tensors : int
    nbytes : int
    parameters : int
    notes : tuple of str
        What is unusual but not wrong.
    unchecked : int
        Tensors whose numbers were not looked at: integers, and types that are not decoded.
    """

    container: str
    family: str
    tensors: int
    nbytes: int
    parameters: int
    notes: tuple[str, ...]
    unchecked: int = 0


@dataclass(frozen=True, slots=True)
class DemoEntry:
    """One size of the demo model.

    Attributes
    ----------
    name : str
        `32-bit`, `8-bit`, `4-bit` ...
    nbytes : int
    bits_per_weight : float
    quality : Quality
    decode_tokens_per_second : float
    sample : str
        How it continues the demo's prompt, greedily.
    """

    name: str
    nbytes: int
    bits_per_weight: float
    quality: Quality
    decode_tokens_per_second: float
    sample: str


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The whole story on the embedded model."""

    prompt: str
    parameters: int
    original: DemoEntry
    quantized: tuple[DemoEntry, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """The machine, as far as it matters here.

    Attributes
    ----------
    version, python, platform, processor : str
    processors : int
        That this process may use.
    memory_bytes, available_memory_bytes : int
    cpu_features : tuple of str
    kernel : str
        The instruction set in use.
    kernels : tuple of str
        One line per instruction set: what it needs, and whether it is there.
    native_formats : tuple of str
        Formats with native encoders.
    read_bandwidth : float
        Bytes a second, measured.
    packages : Mapping of str to str
        Versions of what is installed.
    """

    version: str
    python: str
    platform: str
    processor: str
    processors: int
    memory_bytes: int
    available_memory_bytes: int
    cpu_features: tuple[str, ...]
    kernel: str
    kernels: tuple[str, ...]
    native_formats: tuple[str, ...]
    read_bandwidth: float
    packages: Mapping[str, str]
