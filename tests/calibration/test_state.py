"""What calibration saves of its streams: it goes on from there to the same bits, and refuses what is not its own."""

from __future__ import annotations

import numpy as np
import pytest

import tiny_models
from halfpint.calibration.dual_stream import Resume, calibrate
from halfpint.calibration.state import StreamState
from halfpint.checkpoints import open_checkpoint
from halfpint.errors import CheckpointError, UsageError
from streamed import Solving, assert_same, products_of, some_windows


@pytest.mark.bits
@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_after_an_interruption_the_rest_is_the_same_to_the_bit(name, tmp_path):
    tiny_models.save_tiny(name, tmp_path / "model")
    model = open_checkpoint(tmp_path / "model")
    wanted = products_of(model)
    whole, rest = Solving(model, noise=0.05), Solving(model, noise=0.05)

    def finished(layer, state):
        assert state.layer == layer
        if layer == 0:
            state.save(tmp_path)

    report = calibrate(model, some_windows(), wanted, whole, resume=Resume(finished=finished))
    again = calibrate(model, some_windows(), wanted, rest, resume=Resume(start=StreamState.load(tmp_path)))
    later = {name: seen for name, seen in whole.seen.items() if "layers.0" not in name and "embed" not in name}
    assert_same(later, rest.seen)
    assert (again.routed, again.scarce) == (report.routed, report.scarce)


def test_a_state_replaces_the_one_before_and_stays_readable(llama, tmp_path):
    states = []

    def finished(layer, state):
        state.save(tmp_path)
        states.append(StreamState.load(tmp_path))

    calibrate(llama, some_windows(), (), Solving(llama), resume=Resume(finished=finished))
    assert [path.name for path in tmp_path.iterdir()] == ["streams.state"]
    assert [state.layer for state in states] == [0, 1]
    assert not np.array_equal(states[0].original[0].read(), states[1].original[0].read())


def saved_state(llama, folder):
    calibrate(llama, some_windows(), (), Solving(llama), resume=Resume(finished=lambda _, state: state.save(folder)))
    return folder / "streams.state"


@pytest.mark.parametrize("damage", ["cut", "number", "footer", "missing"])
def test_a_damaged_state_is_refused(llama, damage, tmp_path):
    path = saved_state(llama, tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-100]
    elif damage == "missing":
        path.unlink()
    else:
        content[100 if damage == "number" else -60] ^= 1
    if damage != "missing":
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="state of calibration"):
        StreamState.load(tmp_path)


def test_a_state_of_another_text_is_refused(llama, tmp_path):
    saved_state(llama, tmp_path)
    with pytest.raises(UsageError, match="another text"):
        calibrate(llama, some_windows(1), (), Solving(llama), resume=Resume(start=StreamState.load(tmp_path)))
