"""The version of the package: the lowest module, so that any other may record it."""

__version__ = "0.1.0"
