"""What calibration says it will need is a bound of what it does need, and not far above."""

from __future__ import annotations

import pytest

import tiny_models
from halfpint.calibration.activation_store import StreamOptions
from halfpint.calibration.dual_stream import calibrate
from halfpint.calibration.forecast import activation_bytes, working_bytes
from halfpint.calibration.text import Window
from halfpint.checkpoints import open_checkpoint
from halfpint.families import read_config


@pytest.mark.parametrize("all_wanted", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3", "qwen3"])
def test_waiting_activations_are_as_many_as_forecast(family, all_wanted, tmp_path):
    tiny_models.save_tiny(family, tmp_path)
    model = open_checkpoint(tmp_path)
    windows = [Window("a", tuple(range(3, 103)))] * 6
    wanted = [name for name in model.tensors if name.endswith("_proj.weight")] if all_wanted else []
    options = StreamOptions(max_activation_bytes=0, folder=tmp_path)
    report = calibrate(model, windows, wanted, lambda name, _: model.read(name), options)
    forecast = activation_bytes(read_config(model.config), 600)
    assert 0.5 * forecast <= report.activation_bytes <= forecast


def test_forecasts_grow_with_what_they_are_of(tmp_path):
    tiny_models.save_tiny("mixtral", tmp_path)
    config = read_config(open_checkpoint(tmp_path).config)
    assert activation_bytes(config, 2000) == 2 * activation_bytes(config, 1000)
    least = 4 * 3 * config.hidden_size * config.intermediate_size
    assert working_bytes(config, lambda rows, columns: 0 * rows * columns) > least
    assert working_bytes(config, lambda rows, columns: rows * columns * 1000) > 1000 * least / 12
