"""The decoder, written once over arrays: forward pass, cache, sampling, generation."""

from halfpint.engine.block import Block, load_block
from halfpint.engine.cache import Cache, LayerCache
from halfpint.engine.decoder import Decoder, Ends, load_ends
from halfpint.engine.generation import Generation, GenerationOptions, GenerationRecord, stream_text
from halfpint.engine.sampling import SamplingOptions, choose
from halfpint.engine.weights import Prepare, Weight

__all__ = [
    "Block",
    "Cache",
    "Decoder",
    "Ends",
    "Generation",
    "GenerationOptions",
    "GenerationRecord",
    "LayerCache",
    "Prepare",
    "SamplingOptions",
    "Weight",
    "choose",
    "load_block",
    "load_ends",
    "stream_text",
]
