"""Decoders that come with a model folder: copied from another one, or written from TAESANA's file."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from safetensors.torch import load_file

from sana_cli.checkpoints.find_decoder import find_decoder
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.loading.added_decoders import WEIGHTS, copy_decoders


def test_from_a_file(decoder_files: ModuleType, tiny_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_model))
    added = find_decoder(str(decoder_files.write_taesana(tmp_path / "t.pth")), checkpoint)
    copy_decoders(checkpoint, added, tmp_path / "made")
    written = load_file(tmp_path / "made/decoders/tiny" / WEIGHTS)
    expected = decoder_files.taesana_tensors()
    assert set(written) == set(expected)
    assert all(written[name].equal(expected[name]) for name in expected)
    again = find_decoder("tiny", replace(checkpoint, folder=tmp_path / "made"))
    assert again is not None
    assert added is not None
    assert again.config == added.config


def test_those_of_the_model(decoder_files: ModuleType, tiny_model: Path, tmp_path: Path) -> None:
    decoder_files.write_tiny(tmp_path / "model/decoders/mine")
    checkpoint = replace(open_checkpoint(str(tiny_model)), folder=tmp_path / "model")
    copy_decoders(checkpoint, None, tmp_path / "made")
    copied = (tmp_path / "made/decoders/mine" / WEIGHTS).read_bytes()
    assert copied == (tmp_path / "model/decoders/mine" / WEIGHTS).read_bytes()
