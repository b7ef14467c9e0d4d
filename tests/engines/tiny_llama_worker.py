"""Make a tiny random Llama for the test of the harness, as a folder and as a GGUF file.

It runs in the environment of transformers. The folder is written by transformers and the file by the gguf
package, so that nothing of this project takes part in it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
    fake_quantize,
)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TENSOR_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def byte_level_tokenizer(text: str, size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of exactly `size` tokens, <s> and </s> among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    if tokenizer.get_vocab_size() != size:
        raise ValueError(f"the text gives {tokenizer.get_vocab_size()} tokens, not {size}")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of q or k from halves (Hugging Face) to pairs (llama.cpp): [rows, columns]."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_tensor(name: str, weight: np.ndarray, config: LlamaConfig) -> tuple[str, np.ndarray]:
    """Return the name and the content that a tensor of the folder has in the GGUF file."""
    outer = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in outer:
        return outer[name], weight
    layer, inner = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    if inner in heads:
        weight = interleaved(weight, heads[inner])
    return f"blk.{layer}.{TENSOR_NAMES[inner]}.weight", weight


def write_metadata(writer: gguf.GGUFWriter, config: LlamaConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write what llama.cpp must know of the model and of its tokenizer."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    model = tokenizer.backend_tokenizer.model
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = set(tokenizer.all_special_ids)
    kinds = [gguf.TokenType.CONTROL if number in special else gguf.TokenType.NORMAL for _, number in vocabulary]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types(kinds)
    writer.add_token_merges(merges_of(model))
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)


def merges_of(model: models.BPE) -> list[str]:
    """Return the merges of a trained BPE in order, as "left right"."""
    return [" ".join(pair) for pair in json.loads(model.__getstate__())["merges"]]


def make(folder: str, gguf_path: str, text: str, dtype: str) -> Mapping[str, Any]:
    """Write a Llama of 2 layers with random weights, rounded to `dtype`: a folder, and an F32 GGUF file."""
    tokenizer = byte_level_tokenizer(text, 512)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.06,  # the usual 0.02 gives logits so small that their order says little
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    writer = gguf.GGUFWriter(gguf_path, "llama")
    write_metadata(writer, config, tokenizer)
    for name, weight in model.state_dict().items():
        writer.add_tensor(*gguf_tensor(name, weight.float().numpy(), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {}


def gguf_dequantize(type_name: str, data: np.ndarray, rows: int) -> Mapping[str, Any]:
    """Return the weights that blocks hold according to the gguf package: float32 [rows, columns]."""
    kind = gguf.GGMLQuantizationType[type_name.upper()]
    return {"weights": gguf.dequantize(data.reshape(rows, -1), kind)}


def compress(folder: str, packed: str, decoded: str) -> Mapping[str, Any]:
    """Round the linear layers of a folder to 4 bits and write them packed, and what they decode to."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype="auto")
    weights = QuantizationArgs(num_bits=4, strategy="group", group_size=64, symmetric=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    quantization = QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"])
    apply_quantization_config(model, quantization)
    originals = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            if getattr(module, "quantization_scheme", None) is None:
                continue
            groups = module.weight.unflatten(1, (-1, 64))
            scale, zero_point = calculate_qparams(groups.amin(2), groups.amax(2), weights)
            module.weight_scale.copy_(scale)
            if hasattr(module, "weight_zero_point"):
                module.weight_zero_point.copy_(zero_point)
            module.weight.copy_(fake_quantize(module.weight, module.weight_scale, zero_point, weights))
            originals[f"{name}.weight"] = module.weight.clone()
    plain = LlamaForCausalLM.from_pretrained(folder, dtype="auto")
    plain.load_state_dict({**plain.state_dict(), **originals})
    plain.save_pretrained(decoded)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(packed)
    compressor.update_config(packed)
    return {"layers": np.array(len(originals))}


def drop_tensor(folder: str, name: str) -> Mapping[str, Any]:
    """Write the only safetensors file of a folder again, without one tensor."""
    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    return {}


CALLS = {"make": make, "gguf_dequantize": gguf_dequantize, "compress": compress, "drop_tensor": drop_tensor}
