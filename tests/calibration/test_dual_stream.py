"""Two streams: what is gathered is what the definitions say; neither disk, interruption nor threads change a bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from halfpint import formats
from halfpint.calibration.activation_store import StreamOptions
from halfpint.calibration.dual_stream import calibrate, halved, tied_statistics
from halfpint.calibration.text import Window
from halfpint.checkpoints import open_checkpoint
from halfpint.engine.activation import rms_norm
from halfpint.engine.block import load_block
from halfpint.engine.decoder import load_ends
from halfpint.engine.routing import Routes, Routing, route, shares
from halfpint.engine.steps import Here, perform
from halfpint.errors import RoomError, ShapeError, UsageError
from halfpint.families import read_config
from streamed import LENGTHS, Solving, assert_same, matrices, products_of, some_windows

MODELS = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "gemma2": ("gemma2", {}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {}),
    "qwen3_moe": ("qwen3_moe", {}),
    "mixtral": ("mixtral", {}),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    family, overrides = MODELS[request.param]
    tiny_models.save_tiny(family, folder, **overrides)
    checkpoint = open_checkpoint(folder)
    yield checkpoint
    checkpoint.close()


def test_every_weight_is_solved_once_and_in_the_order_of_the_forward_pass(model):
    solving = Solving(model)
    calibrate(model, some_windows(), (), solving)
    assert set(solving.seen) == set(matrices(model))
    assert all(statistics is None for statistics in solving.seen.values())
    config = read_config(model.config)
    order = ["model.embed_tokens.weight"]
    ends = load_ends(model, config)
    hidden = ends.embed(np.arange(3, 200)[None])

    def note(request):
        order.extend(projection.name for projection in request.projections)
        return perform(request)

    for layer in range(config.layers):
        hidden = load_block(model, config, layer).forward(hidden, perform=note)
    order += [] if config.tied_embeddings else ["lm_head.weight"]
    assert list(solving.seen) == order


def test_with_the_original_weights_nothing_shifts_and_moments_are_those_of_a_plain_forward_pass(model):
    solving = Solving(model)
    names = products_of(model)
    windows = some_windows()
    calibrate(model, windows, names, solving)
    expected = plain_moments(model, windows)
    for name in names:
        for half, moments in enumerate(solving.seen[name].halves):
            second, tokens = expected[name, half]
            assert moments.tokens == tokens
            assert np.abs(moments.second - second).max() <= 1e-5 * np.abs(second).max(), name
            assert np.array_equal(moments.second, moments.second.T)
            shifts = [sums for sums in (moments.shift, moments.difference) if sums is not None]
            assert not any(sums.any() for sums in shifts), name


def plain_moments(model, windows):
    """Second moments by (name, half), in float64, of the inputs that each weight sees, and their tokens."""
    config = read_config(model.config)
    ends = load_ends(model, config)
    sums: dict = {}
    for part in halved(windows):

        def add(name, x, half=part.half):
            before, tokens = sums.get((name, half), (0.0, 0))
            x = x.astype(np.float64)
            sums[name, half] = before + x.T @ x, tokens + len(x)

        def note(request, add=add):
            for projection in request.projections:
                add(projection.name, request.x)
            return perform(request)

        hidden = ends.embed(part.batch.ids)
        for layer in range(config.layers):
            hidden = load_block(model, config, layer).forward(hidden, perform=note)
        head = "model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"
        normed = rms_norm(hidden, ends.final_norm, config.norm_epsilon)
        add(head, normed.reshape(-1, normed.shape[-1]))
    return sums


def test_shifts_are_what_the_original_gives_less_what_the_weight_makes_of_the_quantized_input(model):
    solving, weights = Solving(model, noise=0.05), {}

    def solve(name, statistics):
        weights[name] = solving(name, statistics)
        return weights[name]

    windows = some_windows()
    calibrate(model, windows, products_of(model), solve)
    shifts = brute_force_shifts(model, windows, weights)
    # What comes to the rows of a head is told by group: tests/calibration/test_head_statistics.py.
    for name in products_of(model) - {"model.embed_tokens.weight", "lm_head.weight"}:
        for half, moments in enumerate(solving.seen[name].halves):
            expected = shifts[name, half]
            shift = moments.shift_of(model.read(name).astype(np.float32))
            assert shift.shape == model.tensors[name].shape
            assert np.abs(expected).max() > 0
            assert np.abs(shift - expected).max() <= 1e-3 * np.abs(expected).max(), name


def brute_force_shifts(model, windows, weights):
    """Sum of (y - W x') x'^T by (name, half) in float64; y is W x, and more into a residual stream."""
    config = read_config(model.config)
    before, after = load_ends(model, config), load_ends(model, config, weights.get)
    normed_outputs = any("post_feedforward_layernorm" in name for name in model.tensors)
    sums: dict = {}

    def add(name, half, first, second):
        (x, residual), (x_hat, residual_hat) = first, second
        outputs = (x.astype(np.float64) - x_hat) @ model.read(name).astype(np.float64).T
        if not normed_outputs and name.endswith(("o_proj.weight", "mlp.down_proj.weight")):
            outputs += residual.read().astype(np.float64).reshape(outputs.shape)
            outputs -= residual_hat.read().astype(np.float64).reshape(outputs.shape)
        else:
            assert residual is None
        sums[name, half] = sums.get((name, half), 0.0) + outputs.T @ x_hat.astype(np.float64)

    for part in halved(windows):
        first, second = before.embed(part.batch.ids), after.embed(part.batch.ids)
        for layer in range(config.layers):
            block = load_block(model, config, layer)
            twin = load_block(model, config, layer, weights.get)
            routes: list = []
            seen, first = inputs_of(block, first, routes, follow=False)
            seen_twin, second = inputs_of(twin, second, routes, follow=True)
            for name in seen:
                add(name, part.half, seen[name], seen_twin[name])
        if not config.tied_embeddings:
            ends = (rms_norm(hidden, before.final_norm, config.norm_epsilon)[0:] for hidden in (first, second))
            add("lm_head.weight", part.half, *((x.reshape(-1, x.shape[-1]), None) for x in ends))
    return sums


def inputs_of(block, hidden, routes, *, follow):
    """Pass through a block; by name what each weight sees and what its output is added to."""
    seen: dict = {}
    steps = block.steps(Here(hidden))
    answer = None
    try:
        while True:
            request = steps.send(answer)
            if isinstance(request, Routing):
                if not follow:
                    routes.append(route(request.logits, request.config))
                chosen, visited = routes[-1].chosen, routes[-1].visited
                answer = Routes(chosen, shares(request.logits, chosen, request.config), visited)
            else:
                seen |= {item.name: (request.x, request.residual) for item in request.projections}
                answer = perform(request)
    except StopIteration as finished:
        return seen, finished.value


def test_a_tied_embedding_sees_the_original_s_last_norm_and_how_often_its_rows_are_looked_up(tmp_path):
    tiny_models.save_tiny("gemma2", tmp_path)
    model = open_checkpoint(tmp_path)
    windows, name = some_windows(), "model.embed_tokens.weight"
    solving = Solving(model, noise=0.05)
    calibrate(model, windows, {name}, solving)
    statistics = solving.seen[name]
    expected = plain_moments(model, windows)
    ids = np.concatenate([window.token_ids for window in windows])
    assert np.array_equal(statistics.row_counts, np.bincount(ids, minlength=tiny_models.VOCAB_SIZE))
    for half, moments in enumerate(statistics.halves):
        second, tokens = expected[name, half]
        assert (moments.tokens, moments.shift) == (tokens, None)
        assert np.abs(moments.second - second).max() <= 1e-5 * np.abs(second).max()
    again = tied_statistics(model, windows, StreamOptions(max_activation_bytes=0))
    assert np.array_equal(again.second(), statistics.second())


def test_an_untied_embedding_is_told_how_often_its_rows_are_looked_up(llama):
    solving = Solving(llama)
    calibrate(llama, some_windows(), {"model.embed_tokens.weight"}, solving)
    statistics = solving.seen["model.embed_tokens.weight"]
    assert statistics.tokens == 0
    assert statistics.row_counts.sum() == sum(LENGTHS)


@pytest.mark.parametrize("limit", [0, 50_000])
def test_what_waits_on_disk_comes_back_to_the_bit_and_leaves_nothing(model, limit, tmp_path):
    in_memory, on_disk = Solving(model, noise=0.05), Solving(model, noise=0.05)
    wanted = products_of(model) - {"model.embed_tokens.weight"}
    assert calibrate(model, some_windows(), wanted, in_memory).file_bytes == 0
    options = StreamOptions(max_activation_bytes=limit, folder=tmp_path)
    assert calibrate(model, some_windows(), wanted, on_disk, options).file_bytes > 0
    assert_same(known(in_memory.seen), known(on_disk.seen))
    assert list(tmp_path.iterdir()) == []


def known(seen):
    return {name: statistics for name, statistics in seen.items() if statistics is not None}


def test_a_folder_that_cannot_be_written_is_named(llama, tmp_path):
    options = StreamOptions(max_activation_bytes=0, folder=tmp_path / "none")
    with pytest.raises(RoomError, match="none"):
        calibrate(llama, some_windows(), (), Solving(llama), options)


def test_a_weight_of_another_shape_is_refused(llama):
    with pytest.raises(ShapeError, match="embed_tokens"):
        calibrate(llama, some_windows(), (), lambda name, _: llama.read(name)[1:])


def test_without_text_there_is_nothing_to_do(llama):
    with pytest.raises(UsageError, match="no text"):
        calibrate(llama, [], (), Solving(llama))


def test_quantized_tensors_go_on_like_their_decoded_weights(llama):
    fmt = formats.by_name("int4-g32")
    wanted = products_of(llama)
    solving, decoded = Solving(llama), Solving(llama)

    def coded(name, statistics):
        return formats.encode(solving(name, statistics).astype(np.float32), fmt)

    calibrate(llama, some_windows(), wanted, coded)
    calibrate(
        llama, some_windows(), wanted, lambda name, seen: formats.decode(formats.encode(decoded(name, seen), fmt))
    )
    assert_same(known(solving.seen), known(decoded.seen))


def test_windows_of_every_source_take_turns_between_the_halves():
    windows = [Window(source, (turn,) * 20) for turn in range(5) for source in "abcd"]
    tokens = {(half.half, int(row[0])) for half in halved(windows) for row in half.batch.ids}
    assert tokens == {(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)}


def test_experts_with_few_tokens_are_named_and_those_with_none_get_nothing(tmp_path):
    tiny_models.save_tiny("mixtral", tmp_path, num_local_experts=8)
    model = open_checkpoint(tmp_path)
    wanted = {name for name in matrices(model) if "expert" in name and "mlp.gate.weight" not in name}
    solving = Solving(model)
    window = Window("a", (5, 6, 7))
    report = calibrate(model, [window], wanted, solving)
    assert report.tokens_by_source == {"a": 3}
    for layer, counts in report.routed.items():
        assert sum(counts) == 3 * 2
        assert 0 in counts  # three tokens cannot reach all eight
        for expert, count in enumerate(counts):
            names = [name for name in wanted if f"layers.{layer}." in name and f".experts.{expert}." in name]
            assert len(names) == 3
            assert {report.scarce[name] for name in names} == {count}
            assert all((solving.seen[name] is None) == (count == 0) for name in names)
            assert all(solving.seen[name].tokens == count for name in names if count)


_THREADS = """
import sys, zlib
import numpy as np
import streamed
from halfpint.calibration.dual_stream import calibrate
from halfpint.calibration.text import Window
from halfpint.checkpoints import open_checkpoint
model = open_checkpoint(sys.argv[1])
solving = streamed.Solving(model, noise=0.05)
generator = np.random.default_rng(0)
windows = [Window("a", tuple(generator.integers(3, 300, length).tolist())) for length in (400, 131, 70)]
calibrate(model, windows, streamed.products_of(model), solving)
told = [s for s in solving.seen.values() if s]
told += [group.statistics for s in told for group in s.groups]
sums = [a for s in told for m in s.halves for a in (m.second, m.shift, m.difference) if a is not None]
print(zlib.crc32(b"".join(np.ascontiguousarray(array).tobytes() for array in sums)))
"""


@pytest.mark.bits
def test_the_bits_do_not_depend_on_the_number_of_threads(tmp_path):
    tiny_models.save_tiny("qwen3", tmp_path, hidden_size=320, intermediate_size=736, num_hidden_layers=1)
    sums = set()
    for threads in ("1", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[1])
        arguments = [sys.executable, "-c", _THREADS, str(tmp_path)]
        sums.add(subprocess.run(arguments, env=environment, check=True, capture_output=True).stdout)
    assert len(sums) == 1
