"""Models that the tests of calibration share."""

import pytest

import tiny_models
from halfpint.checkpoints import open_checkpoint


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_models.save_tiny("llama", folder)
    checkpoint = open_checkpoint(folder)
    yield checkpoint
    checkpoint.close()
