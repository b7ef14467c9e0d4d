"""Second moments gathered block by block are those of the inputs that each weight really sees."""

import numpy as np
import pytest

import tiny_models
from halfpint.calibration.stream import stream_moments
from halfpint.calibration.text import Window
from halfpint.checkpoints import open_checkpoint
from halfpint.engine.block import load_block
from halfpint.engine.decoder import load_ends
from halfpint.engine.steps import perform
from halfpint.families import read_config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.save_tiny("llama", folder / "llama")
    return open_checkpoint(folder / "llama")


def test_moments_are_those_of_every_weight_s_own_input(model):
    generator = np.random.default_rng(0)
    windows = [Window("a", tuple(generator.integers(3, 300, length).tolist())) for length in (20, 20, 31)]
    names = {name for name in model.tensors if "proj" in name}
    config = read_config(model.config)
    ends = load_ends(model, config)
    states = [ends.embed(np.array([window.token_ids])) for window in windows]
    for layer, moments in enumerate(stream_moments(model, windows, names)):
        assert set(moments) == {name for name in names if f"layers.{layer}." in name}
        block = load_block(model, config, layer)
        seen = dict.fromkeys(moments, 0.0)

        def observe(request, seen=seen):
            for projection in request.projections:
                seen[projection.name] = seen[projection.name] + request.x.T @ request.x
            return perform(request)

        states = [block.forward(state, perform=observe) for state in states]
        for name, gathered in moments.items():
            assert gathered.tokens == 71
            assert np.allclose(gathered.second(), seen[name], rtol=1e-4, atol=1e-4 * np.abs(seen[name]).max()), name


def test_weights_with_one_input_share_its_moments(model):
    names = {name for name in model.tensors if "proj" in name}
    moments = next(iter(stream_moments(model, [Window("a", (3, 4, 5, 6))], names)))
    prefix = "model.layers.0."
    assert moments[prefix + "self_attn.q_proj.weight"] is moments[prefix + "self_attn.v_proj.weight"]
    assert moments[prefix + "mlp.gate_proj.weight"] is moments[prefix + "mlp.up_proj.weight"]
    assert moments[prefix + "self_attn.q_proj.weight"] is not moments[prefix + "self_attn.o_proj.weight"]
