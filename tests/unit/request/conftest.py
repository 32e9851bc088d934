"""The built-in model, that options are resolved for."""

import pytest

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.opening import open_checkpoint


@pytest.fixture(scope="session")
def builtin() -> Checkpoint:
    return open_checkpoint("builtin")
