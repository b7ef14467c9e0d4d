"""The typed face of the native core: encoders and products, each beside the NumPy reference it is tested against."""
