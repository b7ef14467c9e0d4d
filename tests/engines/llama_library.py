"""llama.cpp's shared libraries through ctypes: the few structs and functions that the harness calls.

The structs are those of one build, ggml commit 0ad4a86. They are facts of its binary interface: each field
was checked against what the build's own functions for default parameters write, and `open_library` checks
that again, because a build with another layout would not fail but compute nonsense.
"""

import ctypes
import sys
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMIT = "0ad4a86"
LIBRARIES = ("libggml-base.so", "libggml.v0.5.0.so", "libllama.v0.5.0.so")

# What a file of one type is called, and its number in `general.file_type`.
FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q2_K": 10,
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q3_K_L": 13,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "Q2_K_S": 21,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
    "BF16": 32,
}

LOG_FUNCTION = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
LOG_WARNING, LOG_ERROR = 3, 4


class LibraryError(Exception):
    """A library is not the build that the structs here were written for, or it refused a call."""


class ModelParameters(Structure):
    """llama_model_params."""

    _fields_ = (
        ("devices", c_void_p),
        ("buffer_overrides", c_void_p),
        ("gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_data", c_void_p),
        ("metadata_overrides", c_void_p),
        ("vocabulary_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_buffers", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParameters(Structure):
    """llama_context_params."""

    _fields_ = (
        ("context_tokens", c_uint32),
        ("batch_tokens", c_uint32),
        ("microbatch_tokens", c_uint32),
        ("sequences", c_uint32),
        ("recurrent_snapshots", c_uint32),
        ("outputs", c_uint32),
        ("outputs_per_sequence", c_uint32),
        ("threads", c_int32),
        ("threads_batch", c_int32),
        ("context_type", c_int32),
        ("rope_scaling", c_int32),
        ("pooling", c_int32),
        ("attention", c_int32),
        ("flash_attention", c_int32),
        ("rope_base", c_float),
        ("rope_scale", c_float),
        ("yarn_extension", c_float),
        ("yarn_attention", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_original_context", c_uint32),
        ("defragmentation", c_float),
        ("evaluation_callback", c_void_p),
        ("evaluation_data", c_void_p),
        ("key_type", c_int32),
        ("value_type", c_int32),
        ("abort_callback", c_void_p),
        ("abort_data", c_void_p),
        ("embeddings", c_bool),
        ("offload", c_bool),
        ("no_timings", c_bool),
        ("offload_operations", c_bool),
        ("full_window_cache", c_bool),
        ("unified_cache", c_bool),
        ("samplers", c_void_p),
        ("sampler_count", c_size_t),
        ("other_context", c_void_p),
    )


class Batch(Structure):
    """llama_batch."""

    _fields_ = (
        ("count", c_int32),
        ("tokens", POINTER(c_int32)),
        ("embeddings", c_void_p),
        ("positions", c_void_p),
        ("sequence_counts", c_void_p),
        ("sequences", c_void_p),
        ("wants_logits", POINTER(c_int8)),
    )


class Importance(Structure):
    """llama_model_imatrix_data; an array of them ends with one that has no name."""

    _fields_ = (("name", c_char_p), ("values", c_void_p), ("count", c_size_t))


class TensorType(Structure):
    """llama_model_tensor_override; an array of them ends with one that has no pattern."""

    _fields_ = (("pattern", c_char_p), ("type", c_int32))


class QuantizeParameters(Structure):
    """llama_model_quantize_params; the meaning of the last two fields is not known, their defaults are kept."""

    _fields_ = (
        ("threads", c_int32),
        ("file_type", c_int32),
        ("output_type", c_int32),
        ("embedding_type", c_int32),
        ("allow_requantize", c_bool),
        ("quantize_output", c_bool),
        ("only_copy", c_bool),
        ("pure", c_bool),
        ("keep_split", c_bool),
        ("dry_run", c_bool),
        ("importance", POINTER(Importance)),
        ("metadata_overrides", c_void_p),
        ("tensor_types", POINTER(TensorType)),
        ("prune_layers", c_void_p),
        ("newer_field_0", c_int32),
        ("newer_field_1", c_int32),
    )


DEFAULTS: dict[str, tuple[type[Structure], dict[str, int | float | bool]]] = {
    "llama_model_default_params": (
        ModelParameters,
        {
            "gpu_layers": -1,
            "split_mode": 1,
            "load_mode": -1,
            "lazy_mode": 1,
            "use_extra_buffers": True,
            "load_mtp": False,
        },
    ),
    "llama_context_default_params": (
        ContextParameters,
        {
            "context_tokens": 512,
            "batch_tokens": 2048,
            "microbatch_tokens": 512,
            "sequences": 1,
            "outputs_per_sequence": 1,
            "threads": 4,
            "threads_batch": 4,
            "flash_attention": -1,
            "yarn_beta_slow": -1.0,
            "defragmentation": -1.0,
            "key_type": 1,
            "value_type": 1,
            "offload": True,
            "full_window_cache": True,
            "unified_cache": False,
        },
    ),
    "llama_model_quantize_default_params": (
        QuantizeParameters,
        {
            "file_type": 7,
            "output_type": 43,
            "embedding_type": 43,
            "allow_requantize": False,
            "quantize_output": True,
            "pure": False,
            "newer_field_0": 0,
            "newer_field_1": 2,
        },
    ),
}

# function -> (result, arguments), by library.
PROTOTYPES: dict[str, dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "libggml-base.so": {
        "ggml_commit": (c_char_p, ()),
        "ggml_type_name": (c_char_p, (c_int32,)),
        "ggml_blck_size": (c_int64, (c_int32,)),
        "ggml_row_size": (c_size_t, (c_int32, c_int64)),
        "ggml_quantize_requires_imatrix": (c_bool, (c_int32,)),
        "ggml_quantize_chunk": (c_size_t, (c_int32, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p)),
    },
    "libggml.v0.5.0.so": {"ggml_backend_load_all_from_path": (None, (c_char_p,))},
    "libllama.v0.5.0.so": {
        "llama_backend_init": (None, ()),
        "llama_log_set": (None, (LOG_FUNCTION, c_void_p)),
        "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParameters)),
        "llama_model_free": (None, (c_void_p,)),
        "llama_model_get_vocab": (c_void_p, (c_void_p,)),
        "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
        "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)),
        "llama_init_from_model": (c_void_p, (c_void_p, ContextParameters)),
        "llama_free": (None, (c_void_p,)),
        "llama_decode": (c_int32, (c_void_p, Batch)),
        "llama_get_logits": (POINTER(c_float), (c_void_p,)),
        "llama_model_quantize": (c_uint32, (c_char_p, c_char_p, POINTER(QuantizeParameters))),
    },
}


@dataclass(frozen=True, slots=True)
class Library:
    """The opened libraries, and the numbers of ggml's types by lower-case name ("q4_k", "iq4_nl", "f16")."""

    base: ctypes.CDLL
    llama: ctypes.CDLL
    types: dict[str, int]

    def type_number(self, name: str) -> int:
        """Return the number of a ggml type, whatever the case of its name."""
        try:
            return self.types[name.lower()]
        except KeyError:
            raise LibraryError(f"no ggml type {name!r}; there are: {', '.join(self.types)}") from None


def log_problem(level: int, text: bytes, _: int | None) -> None:
    """Print warnings and errors of the libraries, not the hundreds of lines about each model."""
    if level in (LOG_WARNING, LOG_ERROR):
        sys.stderr.write(text.decode(errors="replace"))


# The library keeps the pointer, so Python must keep the object.
LOG_CALLBACK = LOG_FUNCTION(log_problem)


def check_layouts(llama: ctypes.CDLL) -> None:
    """Compare the default parameters that a build returns with those of the build the structs describe."""
    for function_name, (structure, expected) in DEFAULTS.items():
        function = getattr(llama, function_name)
        function.restype, function.argtypes = structure, ()
        defaults = function()
        found = {field: getattr(defaults, field) for field in expected}
        if found != expected:
            raise LibraryError(f"{function_name} returned {found}, not {expected}: the structs do not fit this build")


def open_library(folder: Path, backends: Path | None = None) -> Library:
    """Load the libraries in a folder, and the fastest CPU backend beside them or in another folder.

    Raises
    ------
    LibraryError
        If they are of another build than the one described here.
    """
    opened = [ctypes.CDLL(str(folder / name)) for name in LIBRARIES]
    for name, library in zip(LIBRARIES, opened, strict=True):
        for function_name, (result, arguments) in PROTOTYPES[name].items():
            function = getattr(library, function_name)
            function.restype, function.argtypes = result, arguments
    base, ggml, llama = opened
    commit = base.ggml_commit().decode()
    if commit != COMMIT:
        raise LibraryError(f"the libraries in {folder} are of ggml commit {commit}, the structs of {COMMIT}")
    check_layouts(llama)
    llama.llama_log_set(LOG_CALLBACK, None)
    ggml.ggml_backend_load_all_from_path(str(backends or folder).encode())
    llama.llama_backend_init()
    count = llama.llama_model_quantize_default_params().output_type  # "not set" is one past the last type
    names = ((number, base.ggml_type_name(number)) for number in range(count))
    return Library(base, llama, {name.decode().lower(): number for number, name in names if name})
