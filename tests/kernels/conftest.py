"""What all tests of kernels share."""

import pytest

from halfpint.kernels import _native
from instruction_sets import ISAS


@pytest.fixture(params=ISAS)
def isa(request):
    """One instruction set of this processor after the other."""
    before = _native.active_isa()
    assert _native.force_isa(request.param)
    yield request.param
    _native.force_isa(before)
