"""A checkpoint becomes modules, resident or streamed, with the weights of its files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quant.config import QuantConfig
from quant.layers import QuantLinear
from quant.manifest import Component, Manifest
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from sana_cli.errors import SanaError
from sana_cli.loading import load
from sana_cli.loading.load import (
    accelerate,
    choose_kernels,
    empty_module,
    load_prompt_encoder,
    load_transformer,
    load_vae,
)
from sana_cli.loading.streaming import StreamedBlocks
from tests.faults import raising
from tests.rehearsal.device import CUDA, Device

CPU = torch.device("cpu")


def stored(part: str) -> dict[str, torch.Tensor]:
    (path,) = (BUILTIN_FOLDER / part).glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_an_empty_module_holds_nothing(builtin: Checkpoint, part: str) -> None:
    module = empty_module(builtin, part)
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"meta"}
    assert set(module.state_dict()) == {name.removeprefix("model.") for name in stored(part)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_transformer_has_its_files_weights(builtin: Checkpoint, dtype: str) -> None:
    model = load_transformer(builtin, dtype=dtype, device=CPU)
    assert not model.training
    files = stored("transformer")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, files[name].to(tensor.dtype)), name
    assert model.patch_embed.proj.weight.dtype == getattr(
        torch, {"fp32": "float32", "bf16": "bfloat16"}[dtype]
    )


def test_half_of_an_autoencoder(builtin: Checkpoint) -> None:
    vae = load_vae(builtin, dtype="fp32", device=CPU, halves=("encoder",))
    assert {p.device.type for p in vae.encoder.parameters()} == {"cpu"}
    assert {p.device.type for p in vae.decoder.parameters()} == {"meta"}


def test_streamed_blocks_are_prepared_each_time(builtin: Checkpoint) -> None:
    """They are those of the resident model, and the rest of the module is resident."""
    prepared: list[torch.nn.Module] = []
    model = load_transformer(builtin, dtype="fp32", device=CPU, stream=prepared.append)
    whole = load_transformer(builtin, dtype="fp32", device=CPU)
    assert isinstance(model.transformer_blocks, StreamedBlocks)
    assert prepared == []
    blocks = zip(model.transformer_blocks, whole.transformer_blocks, strict=True)
    for block, expected in blocks:
        assert block in prepared
        assert not block.training
        for name, tensor in expected.state_dict().items():
            assert torch.equal(block.state_dict()[name], tensor)
    assert torch.equal(model.proj_out.weight, whole.proj_out.weight)


def test_a_text_encoder_reads_rows_of_its_table(builtin: Checkpoint) -> None:
    encoder = load_prompt_encoder(builtin, dtype="fp32", device=CPU)
    assert not [name for name in encoder.model.state_dict() if name.startswith("embed_tokens")]
    (table,) = (t for name, t in stored("text_encoder").items() if "embed_tokens" in name)
    rows = encoder.model.embed_tokens(torch.tensor([[5, 2, 5]]))
    expected = table[[5, 2, 5]].float() * table.shape[1] ** 0.5
    torch.testing.assert_close(rows[0].float(), expected)


def test_a_manifest_that_names_other_layers(builtin: Checkpoint) -> None:
    part = Component(file="x", sha256="x", layers={"nowhere": None})
    manifest = Manifest(
        base_model="m", base_revision="", base_precision="fp32", recipe="w8a8", written_by="x",
        components={"vae": part},
    )  # fmt: skip
    with pytest.raises(SanaError, match=r"vae: the manifest names .*nowhere.*, which does not fit"):
        empty_module(replace(builtin, manifest=manifest), "vae")


def test_a_configuration_of_no_network(tmp_path: Path) -> None:
    def build() -> Any:
        raise ZeroDivisionError("by zero\nmore")

    with pytest.raises(SanaError, match=r"config\.json does not describe a network: by zero$"):
        load._empty(tmp_path / "config.json", build)
    with pytest.raises(KeyboardInterrupt):
        load._empty(tmp_path / "config.json", _raise(KeyboardInterrupt()))


def _raise(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def test_a_device_that_stops(gpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path))
    layer = QuantLinear.from_weight(torch.eye(64), None, QuantConfig(act_bits=8)).to(CUDA)
    error = torch.AcceleratorError.__new__(torch.AcceleratorError)
    Exception.__init__(error, "CUDA error: an illegal memory access\nmore")
    gpu.fails = raising(error)
    with pytest.raises(SanaError, match="the device stopped while kernels were tried") as caught:
        accelerate(torch.nn.Sequential(layer), CUDA, "auto")
    assert "--backend reference" in caught.value.hint


def test_nothing_is_measured_for_a_float_model(
    builtin: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    choose_kernels(builtin, CPU, "auto", notice=pytest.fail)
    assert not (tmp_path / "cache").exists()
