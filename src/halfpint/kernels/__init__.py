"""The typed face of the native core: encoders and products, each beside the NumPy reference it is tested against."""

from halfpint.kernels.coding import NATIVE_FORMATS, decode, encode, explain

__all__ = ["NATIVE_FORMATS", "decode", "encode", "explain"]
