"""The decoder, written once over arrays: forward pass, cache, sampling, generation."""

from halfpint.engine.batching import BatchGeneration, BatchRecord, generate_many
from halfpint.engine.block import Block, load_block
from halfpint.engine.cache import Cache, Texts
from halfpint.engine.decoder import Decoder, Ends, load_ends
from halfpint.engine.generation import Generation, GenerationRecord, stream_text
from halfpint.engine.sampling import SamplingOptions, choose
from halfpint.engine.sequence import GenerationOptions
from halfpint.engine.weights import ActivationKind, Prepare, Weight

__all__ = [
    "ActivationKind",
    "BatchGeneration",
    "BatchRecord",
    "Block",
    "Cache",
    "Decoder",
    "Ends",
    "Generation",
    "GenerationOptions",
    "GenerationRecord",
    "Prepare",
    "SamplingOptions",
    "Texts",
    "Weight",
    "choose",
    "generate_many",
    "load_block",
    "load_ends",
    "stream_text",
]
