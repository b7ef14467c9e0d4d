"""What a token costs, counted from headers, is what the model's products add up to."""

from contextlib import closing

import pytest

from halfpint.checkpoints import open_checkpoint
from halfpint.engine.cost import token_cost
from halfpint.families import read_config
from tiny_models import FAMILIES, save_tiny

DENSE = {"llama": False, "gemma2": True, "phi3": False, "smollm3": True}
EXPERTS = ("mixtral", "qwen3_moe")


def opened(family, folder):
    save_tiny(family, folder)
    return open_checkpoint(folder)


@pytest.mark.parametrize("family", DENSE)
def test_a_dense_model_uses_all_but_the_table(family, tmp_path):
    with closing(opened(family, tmp_path)) as checkpoint:
        config = read_config(checkpoint.config)
        cost = token_cost(checkpoint, config)
        specs = checkpoint.tensors
        table = specs["model.embed_tokens.weight"]
        left_out = 0 if config.tied_embeddings else table.nbytes
        assert config.tied_embeddings == DENSE[family]
        assert cost.weight_bytes == sum(spec.nbytes for spec in specs.values()) - left_out
        matrices = [spec for name, spec in specs.items() if name.endswith("_proj.weight")]
        assert cost.block_operations == 2 * sum(spec.parameters for spec in matrices)
        assert cost.head_operations == 2 * table.parameters
        assert cost.prompt_operations(10) == 10 * cost.block_operations + cost.head_operations


@pytest.mark.parametrize("family", EXPERTS)
def test_of_experts_only_those_that_are_used_count(family, tmp_path):
    with closing(opened(family, tmp_path)) as checkpoint:
        config = read_config(checkpoint.config)
        cost = token_cost(checkpoint, config)
        of_experts = [spec for name, spec in checkpoint.tensors.items() if ".experts." in name]
        unused = 1 - config.experts_per_token / config.experts
        whole = sum(spec.nbytes for spec in checkpoint.tensors.values())
        table = 0 if config.tied_embeddings else checkpoint.tensors["model.embed_tokens.weight"].nbytes
        assert FAMILIES[family]["num_experts_per_tok"] == config.experts_per_token
        assert cost.weight_bytes == pytest.approx(whole - table - unused * sum(spec.nbytes for spec in of_experts))
