"""halfpint: big models, poured into small glasses.

The verbs of the command line are functions here, and give records: `halfpint.quantize("demo", "demo.gguf",
halfpint.QuantizeOptions(bits=4))`. Names are imported when they are first used, so that `import halfpint` costs
nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfpint.checkpoints.checkpoint import Checkpoint
    from halfpint.errors import (
        CheckpointError,
        HalfpintError,
        NonFiniteError,
        RoomError,
        ShapeError,
        UnsupportedError,
        UsageError,
        VerificationError,
    )
    from halfpint.formats import FORMATS
    from halfpint.measuring.metrics import Quality
    from halfpint.pipeline.looking.inspection import Inspection, TensorView
    from halfpint.pipeline.options import (
        BenchOptions,
        Budget,
        CalibrationOptions,
        Gate,
        GenerateOptions,
        MeasureOptions,
        QuantizeOptions,
    )
    from halfpint.pipeline.results import (
        Baseline,
        DemoResult,
        DoctorReport,
        Measurement,
        PlanResult,
        QuantizeResult,
        Trial,
        VerifyReport,
    )
    from halfpint.pipeline.running_results import BenchResult, BenchRow, Generated, Spread
    from halfpint.pipeline.verbs import (
        Chat,
        bench,
        demo,
        doctor,
        generate,
        inspect,
        inspect_tensor,
        measure,
        open_model,
        plan,
        quantize,
        save_plan,
        verify,
    )

from halfpint.version import __version__

__all__ = [
    "FORMATS",
    "Baseline",
    "BenchOptions",
    "BenchResult",
    "BenchRow",
    "Budget",
    "CalibrationOptions",
    "Chat",
    "Checkpoint",
    "CheckpointError",
    "DemoResult",
    "DoctorReport",
    "Gate",
    "GenerateOptions",
    "Generated",
    "HalfpintError",
    "Inspection",
    "MeasureOptions",
    "Measurement",
    "NonFiniteError",
    "PlanResult",
    "Quality",
    "QuantizeOptions",
    "QuantizeResult",
    "RoomError",
    "ShapeError",
    "Spread",
    "TensorView",
    "Trial",
    "UnsupportedError",
    "UsageError",
    "VerificationError",
    "VerifyReport",
    "__version__",
    "bench",
    "demo",
    "doctor",
    "generate",
    "inspect",
    "inspect_tensor",
    "measure",
    "open_model",
    "plan",
    "quantize",
    "save_plan",
    "verify",
]

_HOMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "halfpint.checkpoints.checkpoint": ("Checkpoint",),
        "halfpint.errors": (
            "CheckpointError",
            "HalfpintError",
            "NonFiniteError",
            "RoomError",
            "ShapeError",
            "UnsupportedError",
            "UsageError",
            "VerificationError",
        ),
        "halfpint.formats": ("FORMATS",),
        "halfpint.measuring.metrics": ("Quality",),
        "halfpint.pipeline.looking.inspection": ("Inspection", "TensorView"),
        "halfpint.pipeline.options": (
            "BenchOptions",
            "Budget",
            "CalibrationOptions",
            "Gate",
            "GenerateOptions",
            "MeasureOptions",
            "QuantizeOptions",
        ),
        "halfpint.pipeline.results": (
            "Baseline",
            "DemoResult",
            "DoctorReport",
            "Measurement",
            "PlanResult",
            "QuantizeResult",
            "Trial",
            "VerifyReport",
        ),
        "halfpint.pipeline.running_results": ("BenchResult", "BenchRow", "Generated", "Spread"),
        "halfpint.pipeline.verbs": (
            "Chat",
            "bench",
            "demo",
            "doctor",
            "generate",
            "inspect",
            "inspect_tensor",
            "measure",
            "open_model",
            "plan",
            "quantize",
            "save_plan",
            "verify",
        ),
    }
)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'halfpint' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Every public name, imported yet or not."""
    return sorted(__all__)
