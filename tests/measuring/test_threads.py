"""Figures depend on nothing outside the call: not on what other Python threads of the process do meanwhile."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from halfpint.pipeline import verbs
from halfpint.pipeline.options import CalibrationOptions, MeasureOptions, QuantizeOptions

OPTIONS = MeasureOptions(tokens=300, window_tokens=150)


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    return verbs.quantize(
        "demo",
        tmp_path_factory.mktemp("rounded") / "demo.gguf",
        QuantizeOptions(bits=4, calibrate=False, measure=None),
    ).output


def figures(rounded):
    return repr(verbs.measure(rounded, "demo", OPTIONS).quality)


@pytest.mark.bits
def test_figures_are_the_same_beside_other_work(rounded, tmp_path, threads):
    threads(2)
    alone = figures(rounded)
    calibrated = QuantizeOptions(bits=3, calibrate=True, calibration=CalibrationOptions(tokens=600), measure=None)
    with ThreadPoolExecutor(5) as executor:
        jobs = [executor.submit(verbs.quantize, "demo", tmp_path / f"{n}.gguf", calibrated) for n in range(2)]
        together = [executor.submit(figures, rounded) for _ in range(5)]
        assert {future.result() for future in together} == {alone}
        first, second = (job.result().output.read_bytes() for job in jobs)
    assert first == second
    alone_too = verbs.quantize("demo", tmp_path / "alone.gguf", calibrated).output.read_bytes()
    assert alone_too == first
