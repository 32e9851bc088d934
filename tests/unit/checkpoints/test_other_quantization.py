"""Models that another program quantized are named by that program, before anything else is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.other_quantization import refuse_config, refuse_tensors
from sana_cli.errors import ExitCode, SanaError

NAME = "transformer_blocks.0.attn1.to_q.weight"
BYTES, FLOATS = ("U8", (4, 4)), ("F32", (4,))


@pytest.mark.parametrize(
    ("program", "headers"),
    [
        ("bitsandbytes", {f"{NAME}.absmax": FLOATS, f"{NAME}.quant_map": FLOATS}),
        ("quanto", {f"{NAME}._data": BYTES, f"{NAME}._scale": FLOATS}),
        ("torchao", {"a._weight_qdata": BYTES}),
        ("GPTQ", {"a.qweight": BYTES, "a.qzeros": BYTES}),
        ("Nunchaku", {"a.qweight": BYTES, "a.wscales": FLOATS}),
        ("compressed-tensors", {"a.weight_packed": BYTES}),
        ("fp8", {NAME: BYTES, "a.scale_weight": FLOATS}),
        ("ComfyUI", {NAME: BYTES, "a.comfy_quant": FLOATS}),
        ("F8_E4M3", {NAME: ("F8_E4M3", (4, 4))}),
        ("manifest.json that describes it is missing", {"a.qweight": BYTES, "a.scale": FLOATS}),
    ],
)
def test_tensors(program: str, headers: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SanaError, match=program) as caught:
        refuse_tensors(tmp_path / "vae", {"b.weight": ("F32", (4, 4))} | headers)
    assert str(tmp_path / "vae") in caught.value.message
    assert caught.value.code == ExitCode.CHECKPOINT
    assert "get it again" not in caught.value.hint


def test_tensors_of_a_model_in_floats(tmp_path: Path) -> None:
    refuse_tensors(tmp_path, {"a.weight": ("BF16", (4, 4)), "position_ids.weight": ("I64", (4,))})


@pytest.mark.parametrize(
    ("said", "program"),
    [({"quant_method": "awq"}, "awq"), ({"quant_method": 3}, "3"), ({}, "another program"), ([1], "another program")],
    ids=str,
)  # fmt: skip
def test_configuration(said: object, program: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": said}))
    with pytest.raises(SanaError, match=f"was quantized by {program}, in a format that"):
        refuse_config(tmp_path)


def test_configuration_that_says_nothing(tmp_path: Path) -> None:
    refuse_config(tmp_path)
    (tmp_path / "config.json").write_text('{"quantization_config": null}')
    refuse_config(tmp_path)


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_every_part_is_looked_at(folder: Path, component: str) -> None:
    """Also where nothing else would read its configuration so early."""
    path = folder / component / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {}}))
    with pytest.raises(SanaError, match=rf"{component} was quantized by another program"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_every_part_has_its_tensors_looked_at(folder: Path, component: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    (path,) = (folder / component).glob("*.safetensors")
    tensors = load_file(path)
    path.unlink()
    save_file(tensors | {"a._scale": torch.ones(4)}, path)
    with pytest.raises(SanaError, match=rf"{component} was quantized by quanto"):
        open_checkpoint(str(folder))
