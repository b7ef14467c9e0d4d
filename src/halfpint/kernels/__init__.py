"""The typed face of the native core: encoders and products, each beside the NumPy reference it is tested against."""

from halfpint.kernels.coding import NATIVE_FORMATS, decode, encode, explain, is_native
from halfpint.kernels.machine import set_thread_count, thread_count

__all__ = ["NATIVE_FORMATS", "decode", "encode", "explain", "is_native", "set_thread_count", "thread_count"]
