"""Fuzz the reading of tokenizer.json and its settings, their words in GGUF, and chat templates.

    python fuzz/fuzz_tokenizer.py --seconds 600

An input is a JSON object of files; mutations replace, remove and repeat parts of it.
"""

from __future__ import annotations

import copy
import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import harness
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from halfpint.checkpoints.gguf_metadata import Metadata
from halfpint.checkpoints.gguf_tokenizer import tokenizer_metadata
from halfpint.checkpoints.tokenizer_files import read_tokenizer_files
from halfpint.tokenization import Tokenizer, render_chat
from halfpint.tokenization.gguf_vocabulary import tokenizer_from_metadata

VALUES = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**32,
    2**64,
    0.5,
    1e308,
    "",
    "a",
    "a b",
    "▁",
    "<0x0A>",
    "<0x-1>",
    "<s>",
    "\x00",
)
VALUES += (
    [],
    {},
    [[]],
    [None],
    ["a", "b"],
    {"type": "ByteLevel"},
    {"type": "NFC"},
    {"type": "BPE"},
    {"String": " "},
    {"Regex": "("},
)

TEMPLATES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "{% for i in range(9) %}{{ messages[i % 2]['content'] | trim | upper }}{% endfor %}",
    "{{ bos_token }}{% set n = namespace(x='') %}"
    "{% for m in messages %}{% set n.x = n.x ~ m.content %}{% endfor %}{{ n.x }}",
)
WORDS = (
    "{{",
    "}}",
    "{%",
    "%}",
    "for i in range(9**9)",
    "__class__",
    "|attr('x')",
    " ~ ",
    "* 10**9",
    "endfor",
    "messages",
    ".format(1)",
)
SAMPLE = "Once upon a time 😀\n<s> <0x0A> ▁é"


@cache
def seeds() -> tuple[str, ...]:
    """Sound folders: a byte-level BPE and a SentencePiece one."""
    letters = {
        token: n for n, token in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "on", "Ġon"])
    }
    byte_level = HfTokenizer(models.BPE(letters, [("o", "n"), ("Ġ", "on")]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", "o", "n", "on", "▁on"]
    ids = {token: n for n, token in enumerate(pieces)}
    merges = [("o", "n"), ("▁", "on")]
    spm = HfTokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spm.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spm.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made = []
    for tokenizer in (byte_level, spm):
        tokenizer.add_special_tokens(["<s>", "</s>"])
        special = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=special)
        files = {
            "tokenizer.json": json.loads(tokenizer.to_str()),
            "tokenizer_config.json": {
                "bos_token": "<s>",
                "eos_token": {"content": "</s>"},
                "chat_template": TEMPLATES[0],
            },
            "generation_config.json": {"eos_token_id": [1, 2]},
            "config.json": {"vocab_size": 300},
        }
        made.append(json.dumps(files))
    return tuple(made)


def target(data: bytes) -> None:
    """Read, tokenize, say it in GGUF, read that, and render a template now and then."""
    files = json.loads(data)
    with tempfile.TemporaryDirectory(dir=SCRATCH.name) as name:
        folder = Path(name)
        for file, contents in files.items():
            (folder / file).write_text(json.dumps(contents))
        config = files.get("config.json")
        config = config if isinstance(config, dict) else {}
        read = read_tokenizer_files(folder, config)
        if read is None:
            return
        tokenizer = Tokenizer(read.tokenizer, read.special, (), (), read.chat_template)
        tokenizer.decode(tokenizer.encode(SAMPLE))
        if read.chat_template is not None and len(data) % 50 == 0:  # a process each
            render_chat(read.chat_template, {"messages": [{"role": "user", "content": SAMPLE}] * 2, "bos_token": "<s>"})
        values = tokenizer_metadata(folder, config)
        again = tokenizer_from_metadata(Metadata(values, "fuzz.gguf"))
        again.decode(again.encode(SAMPLE))


def make(generator: random.Random) -> bytes:
    """One input: a folder with one to three parts changed."""
    files = json.loads(generator.choice(seeds()))
    for _ in range(generator.choice((1, 1, 2, 3))):
        if generator.random() < 0.1:
            files["tokenizer_config.json"] = {"chat_template": _template(generator)}
        else:
            _change(files, generator)
    return json.dumps(files).encode()


def _template(generator: random.Random) -> str:
    template = generator.choice(TEMPLATES)
    for _ in range(generator.randrange(1, 6)):
        at = generator.randrange(len(template))
        template = template[:at] + generator.choice(WORDS) + template[at + generator.randrange(8) :]
    return template


def _change(files: dict[str, Any], generator: random.Random) -> None:
    """Walk down from the top at random, and change what is there."""
    node: Any = files[generator.choice(sorted(files))]
    while isinstance(node, dict | list) and node:
        key = generator.choice(sorted(node)) if isinstance(node, dict) else generator.randrange(len(node))
        child = node[key]
        if not isinstance(child, dict | list) or not child or generator.random() < 0.25:
            how = generator.random()
            if how < 0.2:
                del node[key]
            elif how < 0.3 and isinstance(node, dict):
                node[generator.choice(("type", "a", "", "extra"))] = node.pop(key)
            elif how < 0.4 and isinstance(node, list):
                node.extend(copy.deepcopy([child] * generator.randrange(1, 5)))
            else:
                node[key] = copy.deepcopy(generator.choice(VALUES))
            return
        node = child


SCRATCH = tempfile.TemporaryDirectory()

if __name__ == "__main__":
    harness.main(target, make)
