"""Write the demo model as a Hugging Face folder, from the last checkpoint of a run, finished or not.

python demo/export.py BOOKS_FOLDER RUN_FOLDER src/halfpint/demo_model

The card tells the story of the demo; a model of another text gets a short one.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from corpus import BEGIN_ID, BEGIN_TOKEN, END_ID, END_TOKEN, READERS, Corpus
from model import Llama, LlamaShape
from train import CHECKPOINT_NAME, TOKENIZER_NAME, held_out_loss, prepare

# The model knows novels and no instructions: a question becomes a line of dialogue, and its answer is the next line.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}\"{{ message['content'] | trim }}\" said the visitor.\n\n"
    "{% elif message['role'] == 'assistant' %}\"{{ message['content'] | trim }}\n\n"
    "{% else %}{{ message['content'] | trim }}\n\n"
    "{% endif %}"
    "{% endfor %}"
    '{% if add_generation_prompt %}"{% endif %}'
)

CARD = """---
license: apache-2.0
language: en
library_name: transformers
tags: [llama, demo]
---

# The halfpint demo model

A small Llama that continues English novels. It exists so that `halfpint demo`, the tests and the examples have a real
trained model to quantize, measure and run without a download.

| | |
|---|---|
| Parameters | {parameters:,} |
| Shape | {layers} layers, hidden {hidden}, {heads} heads ({key_value_heads} key-value), feed-forward {intermediate} |
| Tokenizer | byte-level BPE, {vocabulary} tokens, split as GPT-2 splits |
| Context | {positions} tokens |
| Weights | bfloat16, embedding and output tied |
| Trained on | {training_tokens:.1f} M tokens of novels, read {passes:.1f} times, in {steps} steps |
| Held-out loss | {loss:.4f} nats per token (perplexity {perplexity:.2f}), **{bits:.3f} bits per character** |

The loss is that of the bfloat16 weights in this folder, on the last 1.5 % of every book ({held_out_tokens} tokens,
{held_out_characters} characters, in windows of {positions} tokens that each begin with `{begin}`). The weights never
saw those pages; the tokenizer was trained on whole books.

## Data

{book_count} public-domain novels: {books}.
Title pages, tables of contents, licence notes, errata and the underscores of italics were taken out. Curly quotes and
apostrophes became straight ones, long dashes became `--`: write prompts in the same plain punctuation. `{end}` follows
the end of a chapter.

## Limits

It knows about a hundred thousand sentences written before 1912 and nothing else: no facts, no instructions, no language
but English. It writes plausible dialogue for a line or two and does not keep a plot. It repeats the views of its time.
The chat template only wraps a message as a line of dialogue; the model is no assistant. Use it to look at quantization.

## Training again

```
python demo/train.py BOOKS_FOLDER RUN_FOLDER --minutes {minutes:.0f} --compile
python demo/export.py BOOKS_FOLDER RUN_FOLDER src/halfpint/demo_model
```

It was trained for {minutes:.0f} minutes on two CPU cores in 32-bit floats: Muon for the matrices, AdamW for embedding
and norms, weight decay 0.1, a level learning rate that falls straight to zero over the last half, sequences of 256 and
later 512 tokens. The weights here are the running average of the last hundred steps or so.

The weights are under Apache-2.0, the licence of this project.
"""

SHORT_CARD = """---
language: en
library_name: transformers
tags: [llama]
---

# A small Llama trained on short stories

Trained with `demo/train.py` to have a second real model to measure quantization on: {layers} layers, hidden {hidden},
{heads} heads ({key_value_heads} key-value), feed-forward {intermediate}, {vocabulary} tokens, an output matrix of its
own, {parameters:,} parameters. It has read {training_tokens:.2f} M tokens {passes:.1f} times in {minutes:.0f} minutes
on a CPU. Held-out loss of these bfloat16 weights: {loss:.4f} nats per token, **{bits:.3f} bits per character**, on
{held_out_tokens} tokens.
"""
CARDS = {"books": CARD, "stories": SHORT_CARD}


def rounded_weights(model: Llama) -> dict[str, Tensor]:
    """Round the weights to bfloat16; an output matrix that is the embedding is not written twice."""
    return {name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in model.named_parameters()}


def model_config(shape: LlamaShape) -> dict[str, Any]:
    """Return the contents of ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": shape.tied,
        "use_cache": True,
        "bos_token_id": BEGIN_ID,
        "eos_token_id": END_ID,
        "torch_dtype": "bfloat16",
    }


def tokenizer_config(shape: LlamaShape) -> dict[str, Any]:
    """Return the contents of ``tokenizer_config.json``."""
    special = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(BEGIN_ID): {"content": BEGIN_TOKEN, **special},
            str(END_ID): {"content": END_TOKEN, **special},
        },
        "bos_token": BEGIN_TOKEN,
        "eos_token": END_TOKEN,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.positions,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write one settings file."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def book_titles(folder: Path) -> str:
    """List the titles, read from file names such as ``Little-Women_514.txt``."""
    stems = sorted(path.stem.rsplit("_", 1)[0] for path in folder.glob("*.txt"))
    return ", ".join(f"*{stem.replace('-s-', chr(39) + 's-').replace('-', ' ')}*" for stem in stems)


def card(form: str, corpus: Corpus, state: dict[str, Any], loss: float, books_folder: Path) -> str:
    """Fill a model card with the numbers of this checkpoint."""
    progress = state["progress"]
    shape = shape_of(state)
    bits = loss / math.log(2) * len(corpus.held_out) / corpus.held_out_characters
    return form.format(
        parameters=sum(weight.numel() for weight in Llama(shape).parameters()),
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        key_value_heads=shape.key_value_heads,
        intermediate=shape.intermediate,
        vocabulary=shape.vocabulary,
        positions=shape.positions,
        training_tokens=len(corpus.training) / 1e6,
        passes=progress["tokens"] / len(corpus.training),
        steps=progress["step"],
        loss=loss,
        perplexity=math.exp(loss),
        bits=bits,
        held_out_tokens=len(corpus.held_out),
        held_out_characters=corpus.held_out_characters,
        book_count=len(list(books_folder.glob("*.txt"))),
        books=book_titles(books_folder),
        minutes=progress["seconds"] / 60,
        begin=BEGIN_TOKEN,
        end=END_TOKEN,
    )


def shape_of(state: dict[str, Any]) -> LlamaShape:
    """Shape of a checkpoint; those written before the shape could be chosen hold none and have the demo's."""
    return LlamaShape(**state.get("shape", {}))


def export(text_folder: Path, kind: str, run_folder: Path, model_folder: Path) -> float:
    """Write the folder and return the held-out loss of what was written.

    Parameters
    ----------
    text_folder : Path
        What it was trained on, to measure the held-out loss.
    kind : str
        What that folder holds: a key of ``READERS``.
    run_folder : Path
        Where ``train.py`` wrote its checkpoint and tokenizer.
    model_folder : Path
        The Hugging Face folder to write.

    Returns
    -------
    float
        Nats per token of the bfloat16 weights.
    """
    state = torch.load(run_folder / CHECKPOINT_NAME, weights_only=True)
    shape = shape_of(state)
    corpus = prepare(text_folder, kind, run_folder, shape.vocabulary)
    model = Llama(shape)
    model.load_state_dict(state["average"])
    weights = rounded_weights(model)
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    loss = held_out_loss(model, corpus.held_out, shape.positions)

    model_folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, model_folder / "model.safetensors", metadata={"format": "pt"})
    (model_folder / "model.safetensors").chmod(0o644)
    Tokenizer.from_file(str(run_folder / TOKENIZER_NAME)).save(str(model_folder / "tokenizer.json"))
    write_json(model_folder / "config.json", model_config(shape))
    write_json(model_folder / "generation_config.json", {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID})
    write_json(model_folder / "tokenizer_config.json", tokenizer_config(shape))
    write_json(model_folder / "special_tokens_map.json", {"bos_token": BEGIN_TOKEN, "eos_token": END_TOKEN})
    (model_folder / "README.md").write_text(card(CARDS[kind], corpus, state, loss, text_folder), encoding="utf-8")
    return loss


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text_folder", type=Path, help="folder of plain-text novels, or of stories")
    parser.add_argument("run_folder", type=Path, help="where train.py wrote its checkpoint")
    parser.add_argument("model_folder", type=Path, help="Hugging Face folder to write")
    parser.add_argument("--text", choices=sorted(READERS), default="books", help="what the text folder holds")
    arguments = parser.parse_args()
    loss = export(arguments.text_folder, arguments.text, arguments.run_folder, arguments.model_folder)
    print(f"held-out loss {loss:.4f} nats per token")


if __name__ == "__main__":
    main()
