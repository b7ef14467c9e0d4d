"""Holding a quality against what was asked."""

from __future__ import annotations

import math

from halfpint.measuring.metrics import Quality
from halfpint.pipeline.options import Gate
from halfpint.pipeline.results import Verdict

WARNED_AGREEMENT = 0.9
"""Top-1 agreement below which a result that nothing was asked of is shown with a warning."""


def judge(gate: Gate, quality: Quality | None) -> tuple[Verdict, str]:
    """Hold a quality against a gate; the reason says by how much, with the interval of doubt."""
    if quality is None:
        return "UNMEASURED", "written and read back; not compared with the original"
    agreement = f"top-1 agreement {quality.top1_agreement:.2%} ± {_doubt(quality.top1_agreement_stderr, '.2%')}"
    divergence = f"mean KL {quality.kl_mean:.5f} ± {_doubt(quality.kl_mean_stderr, '.5f')}"
    if quality.top1_agreement < gate.keep:
        return "FAIL", f"{agreement}, asked for {gate.keep:.2%}"
    if quality.kl_mean > gate.max_kl:
        return "FAIL", f"{divergence}, asked for {gate.max_kl:g} at most"
    if gate.wanted:
        return "PASS", f"{agreement}, {divergence}"
    warning = "; WARNING: far from the original" if quality.top1_agreement < WARNED_AGREEMENT else ""
    return "UNGATED", f"{agreement}, {divergence}{warning}; --keep and --max-kl ask for more"


def _doubt(stderr: float, form: str) -> str:
    return "unknown" if math.isnan(stderr) else format(stderr, form)
