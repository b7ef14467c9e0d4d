"""The decoder, written once over arrays: forward pass, cache, sampling, generation."""
