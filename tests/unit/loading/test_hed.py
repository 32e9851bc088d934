"""The weights of HED are read strictly."""

from pathlib import Path

import pytest
import torch

from sana_cli.checkpoints.hed_file import find_hed
from sana_cli.errors import SanaError
from sana_cli.loading.hed import load_hed
from tests.hed_files import write_hed


def test_values_are_checked(tmp_path: Path) -> None:
    tensors = torch.load(write_hed(tmp_path / "hed.pth"), weights_only=True)
    assert load_hed(find_hed(str(tmp_path / "hed.pth"))).norm.dtype == torch.float32
    tensors["block3.convs.1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(tensors, tmp_path / "broken.pth")
    with pytest.raises(SanaError, match=r"block3\.convs\.1\.weight"):
        load_hed(find_hed(str(tmp_path / "broken.pth")))
