"""The benchmark of speed: every engine does the same work, and figures are what samples and limits say."""

import argparse
import dataclasses
import json
import stat
import sys
from contextlib import closing
from pathlib import Path

import pytest

import engine_against_peers
import halfpint
import speed_peers
from engine_against_peers import CASES, Case, Comparison, Sample, alternate, markdown, pair, summary
from halfpint.engine.cost import TokenCost
from halfpint.kernels import _native, machine
from halfpint.kernels.probe import Limits
from halfpint.pipeline.options import QuantizeOptions
from speed_peers import EngineRefusedError, Setting, Timing, Work

SETTING = Setting(threads=1)
COST = TokenCost(weight_bytes=1e6, block_operations=2e6, head_operations=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in float32, which every engine computes alike."""
    target = tmp_path_factory.mktemp("speed") / "demo.gguf"
    options = QuantizeOptions(format="f32", rules=("*=f32",), calibrate=False, measure=None)
    halfpint.quantize("demo", target, options)
    return target


@pytest.fixture(autouse=True)
def as_before():
    threads = machine.thread_count()
    yield
    machine.set_thread_count(threads)
    _native.force_isa(_native.best_isa())


def program(folder: Path, body: str) -> Path:
    path = folder / "bench"
    path.write_text(f"#!{sys.executable}\nimport json, sys\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_prompts_are_the_same_for_all_and_differ_between_samples():
    first = Work(5, 1, sequences=2, seed=3).prompts(100)
    assert first == Work(5, 9, sequences=2, seed=3).prompts(100)
    assert first != Work(5, 1, sequences=2, seed=4).prompts(100)
    assert first[0] != first[1]
    assert all(0 <= token < 100 for row in first for token in row)


def test_our_engine_gives_as_many_tokens_as_asked(model: Path):
    with closing(speed_peers.ours().open(model, SETTING)) as engine:
        timing = engine.run(Work(6, 3))
        assert [len(row) for row in timing.ids] == [4]
        assert engine.version == f"halfpint {halfpint.__version__}"
        assert min(timing.prefill_seconds, timing.decode_seconds) > 0
        assert engine.peak_bytes > model.stat().st_size / 2
        assert engine.run(Work(6, 3)).ids == timing.ids
        assert engine.run(Work(6, 3, seed=1)).ids != timing.ids
        both = engine.run(Work(6, 3, sequences=2)).ids
        assert both[0] == timing.ids[0]
        assert [len(row) for row in both] == [4, 4]


@pytest.mark.engine
@pytest.mark.usefixtures("llama_cpp")
def test_llama_cpp_does_the_same_work(model: Path):
    work = Work(40, 6)
    with closing(speed_peers.ours().open(model, SETTING)) as engine:
        expected = engine.run(work).ids
    offers = speed_peers.llama_cpp(SETTING)
    assert len({offer.name for offer in offers}) == 4
    for offer in (offers[0], offers[-1]):
        with closing(offer.open(model, SETTING)) as engine:
            assert engine.run(work).ids == expected
            assert engine.run(work).ids == expected
            (one,) = engine.run(Work(9, 3)).ids
            both = engine.run(Work(9, 3, sequences=2)).ids
            assert both[0] == one
            assert both[1] != one


@pytest.mark.engine
@pytest.mark.usefixtures("llama_cpp")
def test_both_can_be_held_to_avx2(model: Path):
    setting = Setting(threads=1, isa="avx2")
    for offer in (speed_peers.ours(), speed_peers.llama_cpp(setting)[0]):
        with closing(offer.open(model, setting)) as engine:
            assert [len(row) for row in engine.run(Work(4, 2)).ids] == [3]


def test_what_an_engine_refuses_is_said(model: Path, tmp_path: Path):
    with pytest.raises(EngineRefusedError, match="does not exist"):
        speed_peers.ours().open(tmp_path / "missing.gguf", SETTING)
    with pytest.raises(EngineRefusedError, match="no worker for nobody"):
        speed_peers.python_peer("nobody", Path(sys.executable))
    with pytest.raises(EngineRefusedError, match="there is no"):
        speed_peers.python_peer("openvino", tmp_path / "python")
    broken = program(tmp_path, "sys.exit('no such model')")
    with pytest.raises(EngineRefusedError, match="no such model"):
        speed_peers.binary("other", broken, ()).open(model, SETTING).run(Work(4, 2))


def test_a_program_is_asked_as_llama_bench_is(model: Path, tmp_path: Path):
    body = (
        "words = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "print('loading')\n"
        "assert words['-o'] == 'json' and words['-t'] == '1' and words['-x'] == '1'\n"
        "nanoseconds = 1e9 * int(words['-p']) + 1e6 * int(words['-n']) + 1e3 * int(words.get('-d', 0))\n"
        "print(json.dumps([{'avg_ns': nanoseconds}], indent=1))"
    )
    engine = speed_peers.binary("other", program(tmp_path, body), ("-x", "1")).open(model, SETTING)
    assert engine.name == "other -x 1"
    short, long = engine.run(Work(7, 3)), engine.run(Work(2048, 3))
    assert (short.prefill_seconds, short.decode_seconds) == pytest.approx((7.0, 0.003))
    assert long.decode_seconds == pytest.approx(0.003 + 2048e-6)
    with pytest.raises(EngineRefusedError, match="batches"):
        engine.run(Work(7, 3, sequences=2))


def test_figures_count_all_sequences_and_read_the_weights_once_a_step():
    work = Work(10, 4, sequences=2)
    figures = Comparison(Case(SETTING, work), COST).figures(Sample(Timing(2.0, 0.5, []), Limits(1e7, 1e8), work))
    assert figures["prefill_tokens_per_second"] == 10
    assert figures["decode_tokens_per_second"] == 16
    assert figures["arithmetic_share"] == pytest.approx(2 * 10 * 2e6 / 2.0 / 1e8)
    assert figures["bandwidth_share"] == pytest.approx(4 * 1e6 / 0.5 / 1e7)


class Fixed:
    """An engine whose times grow with every sample."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds, self.peak_bytes, self.runs = name, seconds, 7, 0
        self.version = "1"

    def run(self, _work: Work) -> Timing:
        self.runs += 1
        return Timing(self.seconds * self.runs, 2 * self.seconds * self.runs, [])

    def close(self) -> None:
        pass


def test_ratios_are_those_of_pairs():
    comparison = Comparison(Case(SETTING, Work(8, 4)), COST)
    engines = [Fixed("ours", 1.0), Fixed("theirs", 3.0)]
    samples = alternate(comparison, engines, pairs=3)
    mine, peer = summary("file", "case", engines, samples)
    assert [engine.runs for engine in engines] == [3, 3]
    assert "ratios w" not in mine
    assert peer["ratios r"] == peer["ratios w"] == pytest.approx([3.0] * 3)
    assert mine["prefill tok/s"] == 4.0
    assert mine["spread r"] == "[2.667..8]"
    lines = markdown([mine, peer]).splitlines()
    assert len(lines) == 4
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_absent_peers_are_named_not_passed_over(model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    missing = [("openvino", str(tmp_path / "no")), ("transformers", sys.executable)]
    arguments = argparse.Namespace(
        without=["llama.cpp"], peer=[], peer_flags=[], python_peer=missing, original=None, beside=None
    )
    assert not list(engine_against_peers.contenders(arguments, model, SETTING))
    told = capsys.readouterr().out
    assert "openvino: not measured" in told
    assert "transformers: not measured" in told


@pytest.mark.slow
def test_the_whole_run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CASES, "quick", dataclasses.replace(CASES["quick"], setting=SETTING))
    body = "print(json.dumps([{'avg_ns': 1e9}], indent=1))"
    words = [
        *("benchmark", str(model), "--cases", "quick", "--pairs", "2", "--without", "llama.cpp"),
        *("--peer", f"other={program(tmp_path, body)}", "--json", str(tmp_path / "a.json"), "--beside", str(model)),
        *("--markdown", str(tmp_path / "a.md")),
    ]
    monkeypatch.setattr(sys, "argv", words)
    engine_against_peers.main()
    found = json.loads((tmp_path / "a.json").read_text())
    assert [row["engine"] for row in found["rows"]] == ["halfpint", "other", "halfpint demo"]
    assert all(len(row["samples"]) == 2 for row in found["rows"])
    assert found["processor"]


@pytest.mark.parametrize("text", ["a=b", "a=", "a=b=c"])
def test_pairs_of_words(text: str):
    assert "=".join(pair(text)) == text


def test_a_word_without_a_name_is_refused():
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=VALUE"):
        pair("nothing")
