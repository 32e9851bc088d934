"""LoRA files: which layers they change and how strongly, by their headers alone; and files that are none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sana_cli.checkpoints.lora_file import Lora, LoraFile, in_model, open_loras, parse_lora
from sana_cli.errors import ExitCode, SanaError

LAYER = "transformer_blocks.0.attn1.to_q"


def halves(layer: str, *, rank: int = 2, names: tuple[str, str] = ("lora_A", "lora_B")) -> Any:
    """What a LoRA adds to a layer of 6 -> 4."""
    shapes = (rank, 6), (4, rank)
    return {
        f"{layer}.{name}.weight": torch.ones(shape)
        for name, shape in zip(names, shapes, strict=True)
    }


def written(path: Path, tensors: Any = None, *, metadata: dict[str, str] | None = None) -> Path:
    save_file(halves(f"transformer.{LAYER}") if tensors is None else tensors, path, metadata)
    return path


def opened(path: Path) -> LoraFile:
    (lora,) = open_loras([(path, 0.5)])
    assert lora.scale == 0.5
    return lora.file


@pytest.mark.parametrize(
    "names",
    [("lora_A", "lora_B"), ("lora_A.default", "lora_B.default"), ("lora_down", "lora_up"), ("lora.down", "lora.up")],
)  # fmt: skip
@pytest.mark.parametrize(
    "prefix",
    ["", "transformer.", "base_model.model.", "diffusion_model.", "lora_unet_", "base_model_model_transformer_"],
)  # fmt: skip
def test_names_of_trainers(tmp_path: Path, prefix: str, names: tuple[str, str]) -> None:
    found = opened(written(tmp_path / "a.safetensors", halves(prefix + LAYER, names=names)))
    (layer,) = found.layers.values()
    assert set(found.layers) == {LAYER}
    assert (layer.rank, layer.down_shape, layer.up_shape) == (2, (2, 6), (4, 2))
    assert (layer.alpha, layer.alpha_name, found.by_root_of_rank) == (None, None, False)


def test_layers_are_called_as_in_the_model(tmp_path: Path) -> None:
    """Dots and underscores are mixed by trainers; what the model does not have keeps its name."""
    flat = LAYER.replace(".", "_")
    tensors = halves(f"lora_unet_{flat}") | halves("lora_unet_nowhere")
    lora = Lora(file=opened(written(tmp_path / "a.safetensors", tensors)), scale=1.0)
    assert set(in_model(lora, [LAYER, "other"]).file.layers) == {LAYER, "nowhere"}
    twice = replace(lora.file, layers=dict.fromkeys((flat, LAYER), lora.file.layers[flat]))
    with pytest.raises(SanaError, match=r"changes .* twice, under two names"):
        in_model(replace(lora, file=twice), [LAYER])


def test_alpha(tmp_path: Path) -> None:
    """A number beside the halves, or what the training's settings say: the first pattern that fits, else the common one."""
    stored = halves(LAYER) | {f"{LAYER}.alpha": torch.tensor(3.0)}
    (layer,) = opened(written(tmp_path / "a.safetensors", stored)).layers.values()
    assert (layer.alpha_name, layer.alpha) == (f"{LAYER}.alpha", None)
    words = {"transformer.lora_alpha": 8, "alpha_pattern": {"to_q": 5, ".*": 7}, "use_rslora": True}
    tensors = halves(LAYER) | halves("proj_out")
    file = opened(
        written(
            tmp_path / "b.safetensors",
            tensors,
            metadata={"lora_adapter_metadata": json.dumps(words)},
        )
    )
    assert {name: layer.alpha for name, layer in file.layers.items()} == {
        LAYER: 5.0,
        "proj_out": 7.0,
    }
    assert file.by_root_of_rank


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.lora_A.weight": torch.ones(2, 6)}, "a has only a half"),
        ({"a.alpha": torch.ones(1)}, "a has only a half"),
        ({}, "changes no layer"),
        ({**halves("a"), "a.lora_A.weight": torch.ones(2, 6, dtype=torch.int8)}, "holds I8, no floating-point numbers"),
        ({**halves("a"), "a.lora_B.weight": torch.ones(4, 3)}, "do not multiply"),
        ({**halves("a"), "a.lora_A.weight": torch.ones(2)}, "do not multiply"),
        ({**halves("a"), "a.alpha": torch.ones(2)}, "a.alpha is not one number"),
        (halves("text_encoder.a"), "changes the text encoder"),
        (halves("lora_te1_a"), "changes the text encoder"),
        ({**halves("a"), **halves("transformer.a")}, "changes a twice"),
        ({**halves("a"), "a.lora_magnitude_vector": torch.ones(1)}, "is a DoRA"),
        ({**halves("a"), "a.hada_w1_a": torch.ones(1)}, "is a LoHa"),
        ({**halves("a"), "a.lora_mid.weight": torch.ones(1)}, "is a LoCon of three factors"),
        ({"base_model.model.a.oft_r.default.weight": torch.ones(1)}, "is an OFT"),
        ({"oft_unet_a.oft_blocks": torch.ones(1)}, "is an OFT"),
        ({"base_model.model.a.vera_lambda_b": torch.ones(1)}, "is a VeRA"),
        ({"base_model.model.a.ia3_l": torch.ones(1)}, "is an IA3"),
        ({**halves("a"), "a.lora_B.bias": torch.ones(1)}, "is a LoRA with biases"),
        ({"diffusion_model.a.diff": torch.ones(1)}, "is a difference of whole weights"),
        ({"emb_params": torch.ones(1)}, "is a textual inversion"),
        ({**halves("a"), "a.lokr_w1": torch.ones(1)}, "is a LoKr"),
        ({**halves("a"), "b.weight": torch.ones(1), "c": torch.ones(1)}, "unknown tensor b.weight and 1 more"),
    ],
)  # fmt: skip
def test_what_is_no_lora(tmp_path: Path, tensors: Any, message: str) -> None:
    with pytest.raises(SanaError, match=message) as caught:
        opened(written(tmp_path / "a.safetensors", tensors))
    assert caught.value.code == ExitCode.CHECKPOINT
    assert caught.value.hint


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SanaError, match="no such LoRA") as caught:
        open_loras([(tmp_path / "a.safetensors", 1.0)])
    assert caught.value.code == ExitCode.USAGE
    (tmp_path / "a.bin").touch()
    with pytest.raises(SanaError, match=r"is not a \.safetensors file"):
        open_loras([(tmp_path / "a.bin", 1.0)])


@pytest.mark.parametrize("name", ["adapter_model", "pytorch_lora_weights", "my_style"])
def test_a_folder_with_an_adapter(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / f"{name}.safetensors")
    if name != "my_style":
        (tmp_path / "optimizer.safetensors").touch()
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    (lora,) = open_loras([(tmp_path, 0.5)])
    assert lora.file.path == path
    (alpha,) = {layer.alpha for layer in lora.file.layers.values()}
    assert alpha == (8.0 if name == "adapter_model" else None)


def test_a_folder_in_another_format(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(SanaError, match=r"no \.safetensors file, but adapter_model\.bin") as caught:
        open_loras([(tmp_path, 1.0)])
    assert caught.value.code == ExitCode.CHECKPOINT


@pytest.mark.parametrize("names", [[], ["a.safetensors", "b.safetensors"]], ids=len)
def test_a_folder_without_one(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(SanaError, match="several LoRAs" if names else "no adapter_model") as caught:
        open_loras([(tmp_path, 1.0)])
    assert caught.value.code == ExitCode.USAGE


def test_a_name_that_no_picture_can_tell(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    odd = path.rename(tmp_path / "b\udcff.safetensors")
    with pytest.raises(SanaError, match="is not UTF-8") as caught:
        open_loras([(odd, 1.0)])
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"lora_alpha": 10**400}, "the alpha of transformer_blocks.0.attn1.to_q is 1000"),
        ({"lora_alpha": float("nan")}, "is nan, which is not a usable number"),
        ({"lora_alpha": "16"}, "is 16, which is not a usable number"),
        ({"alpha_pattern": {"to_q": True}}, "is True, which is not a usable number"),
        ({"alpha_pattern": [["to_q", 3]]}, "its alpha_pattern is "),
        ({"alpha_pattern": {"a{99999999999999999999}": 3}}, "cannot be used"),
        ({"alpha_pattern": {"(" * 20_000 + ")" * 20_000: 3}}, "cannot be used"),
        ({"alpha_pattern": {"[[t]o_q": 3}}, "cannot be used"),
        ({"alpha_pattern": {".?" * 40 + "b" * 9: 3}}, "cannot be used"),
        ({"alpha_pattern": {"(.|.)" * 25 + "b": 3}}, "cannot be used"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_alphas_that_cannot_be(tmp_path: Path, words: dict[str, object], message: str) -> None:
    told = {"lora_adapter_metadata": json.dumps(words)}
    path = written(tmp_path / "a.safetensors", metadata=told)
    with pytest.raises(SanaError, match=message) as caught:
        open_loras([(path, 1.0)])
    assert caught.value.code == ExitCode.CHECKPOINT


def test_paths_of_layers_without_end(tmp_path: Path) -> None:
    """A pattern would try every way to share their characters out."""
    name, half = "a" * 5000, torch.zeros(1, 1)
    told = {"lora_adapter_metadata": json.dumps({"alpha_pattern": {".*.*.*b": 3}})}
    tensors = {f"{name}.lora_A.weight": half, f"{name}.lora_B.weight": half.clone()}
    save_file(tensors, tmp_path / "a.safetensors", metadata=told)
    with pytest.raises(SanaError, match="which no model has"):
        open_loras([(tmp_path / "a.safetensors", 1.0)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors", 1.0)),
        ("C:\\loras\\a.safetensors:.5", ("C:\\loras\\a.safetensors", 0.5)),
        ("a.safetensors:strong", ("a.safetensors:strong", 1.0)),
    ],
)
def test_scales(text: str, expected: tuple[str, float]) -> None:
    assert parse_lora(text) == expected


def test_a_name_that_looks_like_a_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:2").touch()
    assert parse_lora("a:2") == ("a:2", 1.0)
    for text in ("a:nan", "a:1e9"):
        with pytest.raises(SanaError, match="out of range"):
            parse_lora(text)
