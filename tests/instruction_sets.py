"""The instruction sets of the processor that runs the tests."""

from halfpint.kernels import machine

ISAS = [isa for isa, needs in machine.NEEDS.items() if needs <= set(machine.features())]
"""Names that `_native.force_isa` takes here; tests/kernels/test_integer_cross.py runs others in an emulator."""
