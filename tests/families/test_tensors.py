"""The tables name exactly the tensors that transformers saves and that llama.cpp knows."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
from safetensors import safe_open

import tiny_models
from halfpint import families
from halfpint.families import LINEAR_ROLES, NORM_ROLES, Role

VARIANTS = {
    **{name: (name, {}) for name in tiny_models.FAMILIES},
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    family, overrides = VARIANTS[request.param]
    tiny_models.save_tiny(family, folder, **overrides)
    config = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - it is no dict
    return config, shapes


def tensors_of(config):
    model = families.read_config(config)
    return families.FAMILIES[model.family].tensors(model)


def test_tensors_are_those_that_transformers_saves(saved):
    config, shapes = saved
    tensors = tensors_of(config)
    assert {tensor.name: tensor.shape for tensor in tensors if tensor.name in shapes} == shapes
    assert all(tensor.optional for tensor in tensors if tensor.name not in shapes)
    assert len({tensor.name for tensor in tensors}) == len(tensors)


def test_gguf_names_are_those_of_the_architecture(saved):
    config, _ = saved
    model = families.read_config(config)
    family = families.FAMILIES[model.family]
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.gguf_architecture)
    stems = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[number]} | {"output"}
    for tensor in family.tensors(model):
        stem, _ = tensor.gguf_name.rsplit(".", 1)
        assert stem.replace(f"blk.{tensor.layer}.", "blk.{bid}.") in stems
    # gguf's own map agrees; experts are merged before they are named.
    names = gguf.get_tensor_name_map(number, model.layers)
    for tensor in family.tensors(model):
        if tensor.expert is None and not tensor.optional:
            assert names.get_name(tensor.name, (".weight", ".bias")) == tensor.gguf_name


def test_roles_tell_matrices_from_vectors(saved):
    config, _ = saved
    for tensor in tensors_of(config):
        matrix = tensor.role in LINEAR_ROLES or tensor.role in (Role.EMBEDDING, Role.HEAD, Role.ROUTER)
        assert len(tensor.shape) == (2 if matrix else 1)
        gemma = config["model_type"].startswith("gemma")
        assert tensor.gguf_offset == (1.0 if gemma and tensor.role in NORM_ROLES else 0.0)


@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral", "smollm3"])
def test_llama_like_query_and_key_rows_are_interleaved_within_each_head(family):
    config = tiny_models.tiny_config(family).to_dict()
    model = families.read_config(config)
    moved = {tensor.role for tensor in tensors_of(config) if families.gguf_row_order(tensor, model) is not None}
    assert moved == {Role.ATTENTION_Q, Role.ATTENTION_K}
    tensor = next(tensor for tensor in tensors_of(config) if tensor.role is Role.ATTENTION_K)
    order = families.gguf_row_order(tensor, model)
    half = model.head_dim // 2
    assert order[:4].tolist() == [0, half, 1, half + 1]
    assert order[model.head_dim : model.head_dim + 2].tolist() == [model.head_dim, model.head_dim + half]
    assert np.array_equal(np.sort(order), np.arange(tensor.shape[0]))


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "qwen3_moe"])
def test_other_families_keep_their_rows(family):
    config = tiny_models.tiny_config(family).to_dict()
    model = families.read_config(config)
    assert all(families.gguf_row_order(tensor, model) is None for tensor in tensors_of(config))
