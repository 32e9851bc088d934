"""LoRAs: names that are read, what is added to which layer, and files that are none or do not fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quant.config import QuantConfig
from quant.convert import quantized_layer
from sana_cli.checkpoints.checkpoint import Checkpoint, weight_headers
from sana_cli.checkpoints.lora_file import open_loras
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.errors import ExitCode, SanaError
from sana_cli.loading.load import check_loras, empty_module, load_transformer
from sana_cli.loading.lora import Adapters, LoraLinear

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(lora_files: Any) -> Any:
    return lora_files


@pytest.fixture
def model(tiny_model: Path) -> Checkpoint:
    return open_checkpoint(str(tiny_model))


@pytest.fixture
def shapes(model: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, (_, shape) in weight_headers(model, "transformer").items()}


def loaded(model: Checkpoint, *loras: tuple[Path, float], **options: Any) -> dict[str, Tensor]:
    changed = replace(model, loras=open_loras(loras))
    return load_transformer(changed, dtype="fp32", device=CPU, **options).state_dict()


def product(pair: tuple[Tensor, Tensor], shape: torch.Size) -> Tensor:
    down, up = pair
    return (up.flatten(1) @ down.flatten(1)).view(shape)


# -- what is added ---------------------------------------------------------------------------------


def test_every_kind_of_layer_is_merged(
    files: Any, model: Checkpoint, shapes: Any, tmp_path: Path
) -> None:
    halves = files.random_lora(shapes)
    path = files.write_lora(tmp_path / "a.safetensors", halves)
    before, after = loaded(model), loaded(model, (path, 0.5))
    assert {"transformer_blocks.2.ff.conv_depth", "patch_embed.proj", "time_embed.linear"} <= set(
        halves
    )
    for name, weight in before.items():
        pair = halves.get(name.removesuffix(".weight"))
        expected = weight if pair is None else weight + 0.5 * product(pair, weight.shape)
        torch.testing.assert_close(after[name], expected, rtol=0, atol=1e-6)


def test_several_add_up(files: Any, model: Checkpoint, shapes: Any, tmp_path: Path) -> None:
    one, other = (
        files.write_lora(
            tmp_path / f"{seed}.safetensors", files.random_lora(shapes, seed=seed, rank=2 + seed)
        )
        for seed in (0, 1)
    )
    name = "transformer_blocks.1.attn1.to_v.weight"
    plain = loaded(model)[name]
    both = loaded(model, (one, 1.0), (other, -0.7))[name]
    apart = loaded(model, (one, 1.0))[name] - plain + loaded(model, (other, -0.7))[name]
    torch.testing.assert_close(both, apart, rtol=0, atol=1e-6)


NAMES = {
    "diffusers": ("transformer.", ("lora_A.weight", "lora_B.weight")),
    "peft": ("base_model.model.", ("lora_A.weight", "lora_B.weight")),
    "peft, with the adapter's name": ("base_model.model.", ("lora_A.default.weight", "lora_B.default.weight")),
    "both prefixes": ("base_model.model.transformer.", ("lora_A.weight", "lora_B.weight")),
    "none": ("", ("lora_A.weight", "lora_B.weight")),
    "down and up": ("transformer.", ("lora.down.weight", "lora.up.weight")),
    "kohya's halves": ("diffusion_model.", ("lora_down.weight", "lora_up.weight")),
    "kohya": ("lora_unet_", ("lora_down.weight", "lora_up.weight")),
    "OneTrainer": ("lora_transformer_", ("lora_down.weight", "lora_up.weight")),
    "LyCORIS": ("lycoris_", ("lora_down.weight", "lora_up.weight")),
}  # fmt: skip
FLAT = {"kohya", "OneTrainer", "LyCORIS"}


@pytest.mark.parametrize("naming", NAMES)
def test_names(files: Any, model: Checkpoint, shapes: Any, tmp_path: Path, naming: str) -> None:
    prefix, names = NAMES[naming]
    halves = files.random_lora(shapes)
    path = files.write_lora(
        tmp_path / "a.safetensors", halves, prefix=prefix, names=names, flat=naming in FLAT
    )
    (lora,) = open_loras([(path, 1.0)])
    adapters = Adapters([lora], empty_module(model, "transformer"))
    assert set(adapters.loras[0].file.layers) == set(halves)
    assert "time_embed.linear" in halves, "paths with underscores of their own"


NATIVE = {  # NVIDIA's name of a layer: the layers whose rows it has
    "blocks.1.attn.qkv": tuple(f"transformer_blocks.1.attn1.to_{x}" for x in "qkv"),
    "blocks.0.attn.proj": ("transformer_blocks.0.attn1.to_out.0",),
    "blocks.0.cross_attn.q_linear": ("transformer_blocks.0.attn2.to_q",),
    "blocks.2.cross_attn.kv_linear": tuple(f"transformer_blocks.2.attn2.to_{x}" for x in "kv"),
    "blocks.0.mlp.inverted_conv.conv": ("transformer_blocks.0.ff.conv_inverted",),
    "t_embedder.mlp.0": ("time_embed.emb.timestep_embedder.linear_1",),
    "final_layer.linear": ("proj_out",),
}


@pytest.mark.parametrize("flat", [False, True], ids=["dots", "underscores"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "lora_unet_"])
@pytest.mark.parametrize("native", NATIVE)
def test_layers_under_the_names_of_nvidia(
    model: Checkpoint, shapes: Any, tmp_path: Path, native: str, prefix: str, flat: bool
) -> None:
    layers = NATIVE[native]
    N, *rest = shapes[f"{layers[0]}.weight"]
    down = torch.randn(3, *rest, generator=torch.Generator().manual_seed(1))
    up = torch.randn(len(layers) * N, 3, *[1] * (len(rest) - 1))
    name = prefix + (native.replace(".", "_") if flat else native)
    path = tmp_path / "a.safetensors"
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, path)
    before, after = loaded(model), loaded(model, (path, 0.5))
    changed = {f"{layer}.weight": rows for layer, rows in zip(layers, up.split(N), strict=True)}
    for key, weight in before.items():
        expected = weight
        if key in changed:
            expected = weight + 0.5 * product((down, changed[key]), weight.shape)
        torch.testing.assert_close(after[key], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [1e38, 1e20, 1e4])
def test_a_change_that_drowns_the_model(
    model: Checkpoint, shapes: Any, tmp_path: Path, value: float
) -> None:
    """The LoRA is blamed, not the weights that overflow with it."""
    layer, path = "transformer_blocks.0.attn1.to_q", tmp_path / "a.safetensors"
    N, K = shapes[f"{layer}.weight"]
    halves = {"lora_A": torch.full((2, K), value), "lora_B": torch.full((N, 2), value)}
    save_file({f"{layer}.{name}.weight": half for name, half in halves.items()}, path)
    with pytest.raises(
        SanaError, match=r"a.safetensors changes transformer_blocks.0.attn1.to_q by"
    ):
        loaded(model, (path, 1.0))


def test_rows_of_a_fused_layer_that_do_not_fit(model: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    halves = {"lora_A": torch.ones(2, 7), "lora_B": torch.ones(9, 2)}
    save_file({f"blocks.0.attn.qkv.{name}.weight": half for name, half in halves.items()}, path)
    with pytest.raises(SanaError, match=r"attn1.to_q as a layer of \[7\] -> 3, which is one of"):
        loaded(model, (path, 1.0))


PREFIXES = (
    "base_model.model", "model", "module", "diffusion_model", "model.diffusion_model", "unet", "lora_unet",
    "lora_transformer", "lycoris", "transformer", "base_model.model.transformer", "lora_unet_transformer",
)  # fmt: skip


@pytest.mark.parametrize("flat", [False, True], ids=["dots", "underscores"])
@pytest.mark.parametrize("mark", [".", "_"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_may_end_in_a_dot_or_an_underscore(
    files: Any, model: Checkpoint, shapes: Any, tmp_path: Path, prefix: str, mark: str, flat: bool
) -> None:
    halves = files.random_lora(shapes)
    path = files.write_lora(
        tmp_path / "a.safetensors", halves, prefix=prefix.replace(".", mark) + mark, flat=flat
    )
    adapters = Adapters(open_loras([(path, 1.0)]), empty_module(model, "transformer"))
    assert set(adapters.loras[0].file.layers) == set(halves)


def test_another_model_only_where_nothing_fits(
    files: Any, model: Checkpoint, shapes: Any, tmp_path: Path
) -> None:
    halves = files.random_lora(shapes, layers=("attn1.to_q",))
    some = halves | {"transformer_blocks.77.attn1.to_q": next(iter(halves.values()))}
    for layers, message, hint in (
        (some, rf"but for 1 of {len(some)} layers: this model has no layer", "a longer or changed"),
        (
            {"double_blocks.0.img_attn": next(iter(halves.values()))},
            "does not fit",
            "another model",
        ),
    ):
        path = files.write_lora(tmp_path / "a.safetensors", layers)
        with pytest.raises(SanaError, match=message) as caught:
            check_loras(model, open_loras([(path, 1.0)]))
        assert hint in caught.value.hint


@pytest.mark.parametrize("alpha", [None, 1.5], ids=["of the rank", "alpha"])
def test_kohyas_names_change_the_same_weights(
    files: Any, model: Checkpoint, shapes: Any, tmp_path: Path, alpha: float | None
) -> None:
    halves = files.random_lora(shapes)
    kohya = files.write_lora(
        tmp_path / "kohya.safetensors", halves, prefix="lora_unet_", flat=True, alpha=alpha,
        names=("lora_down.weight", "lora_up.weight"), metadata={"ss_network_module": "networks.lora"},
    )  # fmt: skip
    plain = files.write_lora(tmp_path / "plain.safetensors", halves)
    factor = 1.0 if alpha is None else alpha / 3  # of rank 3
    ours, expected = loaded(model, (kohya, 0.8)), loaded(model, (plain, 0.8 * factor))
    for name, weight in expected.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-6)
    assert not torch.equal(expected["proj_out.weight"], loaded(model)["proj_out.weight"])


@pytest.mark.parametrize(
    ("options", "config", "factor"),
    [
        ({}, None, 1.0),
        ({"alpha": 6.0}, None, 2.0),
        ({"metadata": {"transformer.lora_alpha": 6, "transformer.r": 3}}, None, 2.0),
        ({"metadata": {"transformer.lora_alpha": 6, "transformer.alpha_pattern": {"attn1.to_q": 12}}}, None, 4.0),
        ({"metadata": {"transformer.alpha_pattern": {r"^transformer_blocks\.\d+\.attn1.to_q": 12, "to_q": 1}}}, None, 4.0),
        ({"metadata": {"transformer.lora_alpha": 6, "transformer.alpha_pattern": {"^attn1.to_q": 1, "n1.to_q": 2}}}, None, 2.0),
        ({"metadata": {"transformer.lora_alpha": 6, "transformer.use_rslora": True}}, None, 6 / 3**0.5),
        ({}, {"lora_alpha": 6, "r": 3}, 2.0),
    ],
    ids=["none", "tensor", "metadata", "pattern", "expression", "no pattern fits", "rslora", "peft"],
)  # fmt: skip
def test_alpha(
    files: Any, model: Checkpoint, shapes: Any, tmp_path: Path, options: dict[str, Any], config: Any,
    factor: float,
) -> None:  # fmt: skip
    halves = files.random_lora(shapes, layers=("attn1.to_q",))
    if "metadata" in options:
        options = {"metadata": {"lora_adapter_metadata": json.dumps(options["metadata"])}}
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    path = files.write_lora(tmp_path / "adapter_model.safetensors", halves, **options)
    name = "transformer_blocks.0.attn1.to_q"
    plain = loaded(model)[f"{name}.weight"]
    expected = plain + factor * product(halves[name], plain.shape)
    torch.testing.assert_close(
        loaded(model, (path, 1.0))[f"{name}.weight"], expected, rtol=0, atol=1e-6
    )


# -- quantized layers ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16-g64"])
def test_beside_a_quantized_layer(files: Any, tmp_path: Path, scheme: str) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 96)
    config = QuantConfig.parse(scheme)
    assert config is not None
    model = nn.ModuleDict(
        {"to_q": quantized_layer(linear, config), "to_k": quantized_layer(linear, config)}
    )
    loras = []
    expected = 0.0
    x = torch.randn(5, 64)
    for seed, scale in ((0, 1.0), (1, -0.5)):
        halves = files.random_lora({"to_q.weight": (96, 64)}, layers=("to_q",), seed=seed)
        path = files.write_lora(tmp_path / f"{seed}.safetensors", halves)
        loras += open_loras([(path, scale)])
        expected = expected + scale * (x @ product(halves["to_q"], torch.Size((96, 64))).T)
    plain = model["to_q"](x)
    adapters = Adapters(loras, model)
    adapters.attach_(model, "", dtype=torch.float32, device=CPU)
    assert isinstance(model["to_q"], LoraLinear)
    assert not isinstance(model["to_k"], LoraLinear)
    torch.testing.assert_close(model["to_q"](x), plain + expected, rtol=0, atol=1e-5)


# -- what is no LoRA, or one for another model -----------------------------------------------------


def damage(halves: dict[str, Any], kind: str, files: Any, path: Path) -> Path:
    """A file that is wrong in one way."""
    prefix, first = "transformer.", next(iter(halves))
    if kind == "half":
        halves[first] = (halves[first][0], halves[first][1][:, :2].contiguous())
    if kind == "narrow":
        halves[first] = (halves[first][0][:, :32].contiguous(), halves[first][1])
    if kind == "layer":
        halves["transformer_blocks.77.attn1.to_q"] = halves[first]
    if kind == "norm":
        halves["caption_norm"] = halves[first]
    if kind == "text encoder":
        prefix = "text_encoder."
    flat, metadata = kind.startswith("kohya"), None
    if flat:
        prefix = "lora_unet_"
    if kind == "kohya's layer":
        halves["transformer_blocks.77.attn1.to_q"] = halves[first]
    if kind == "pattern":
        words = {"transformer.alpha_pattern": {"(a+)+b": 3}}
        metadata = {"lora_adapter_metadata": json.dumps(words)}
    if kind == "no pattern":
        metadata = {"lora_adapter_metadata": json.dumps({"alpha_pattern": {"to_(": 3}})}
    written = files.write_lora(path, halves, prefix=prefix, flat=flat, metadata=metadata)
    if kind in ("unknown", "kohya's unknown", "dora", "lokr", "lone", "twice", "long alpha"):
        extra = {
            "kohya's unknown": "lora_unet_x.lora_mid.weight", "twice": f"{first}.lora_down.weight",
            "long alpha": f"{first}.alpha", "unknown": "transformer.x.weight", "dora": "transformer.x.lora_magnitude_vector.weight",
            "lokr": "transformer.x.lokr_w1", "lone": "transformer.x.lora_A.weight",
        }[kind]  # fmt: skip
        save_file({**load_file(path), extra: torch.zeros(3, 3)}, path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    if kind == "pickle":
        written = path.rename(path.with_suffix(".bin"))
    return written


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("half", "do not multiply"),
        (
            "narrow",
            r"it changes transformer_blocks.0.attn1.to_k as a layer of \[32\] -> 96, which is one of \[96\]",
        ),
        ("layer", "this model has no layer transformer_blocks.77.attn1.to_q"),
        ("norm", "this model has no layer caption_norm"),
        ("text encoder", "changes the text encoder"),
        ("kohya's layer", "this model has no layer transformer_blocks_77_attn1_to_q"),
        ("kohya's unknown", "is a LoCon of three factors"),
        ("twice", "changes transformer_blocks.0.attn1.to_k twice"),
        ("long alpha", "transformer_blocks.0.attn1.to_k.alpha is not one number"),
        ("pattern", r"alpha_pattern '\(a\+\)\+b' cannot be used"),
        ("no pattern", r"alpha_pattern 'to_\(' cannot be used"),
        ("unknown", "unknown tensor transformer.x.weight"),
        ("dora", "is a DoRA"),
        ("lokr", "is a LoKr"),
        ("lone", "has only a half"),
        ("cut", "truncated or corrupt"),
        ("pickle", "is not a .safetensors file"),
    ],
)
def test_unfit_files(
    files: Any, model: Checkpoint, shapes: Any, tmp_path: Path, kind: str, message: str
) -> None:
    halves = files.random_lora(shapes, layers=("attn1.to_k", "attn1.to_v"))
    path = damage(halves, kind, files, tmp_path / "a.safetensors")
    with pytest.raises(SanaError, match=message) as caught:
        check_loras(model, open_loras([(path, 1.0)]))
    assert caught.value.code == ExitCode.CHECKPOINT
    assert caught.value.hint or kind in ("half", "cut")


def test_one_layer_under_two_kinds_of_names(
    files: Any, model: Checkpoint, shapes: Any, tmp_path: Path
) -> None:
    halves = files.random_lora(shapes, layers=("attn1.to_q",))
    one = load_file(files.write_lora(tmp_path / "one.safetensors", halves))
    other = load_file(
        files.write_lora(tmp_path / "two.safetensors", halves, prefix="lora_unet_", flat=True)
    )
    save_file({**one, **other}, tmp_path / "both.safetensors")
    with pytest.raises(SanaError, match=r"changes transformer_blocks.0.attn1.to_q twice"):
        check_loras(model, open_loras([(tmp_path / "both.safetensors", 1.0)]))


def test_an_alpha_that_is_none(files: Any, model: Checkpoint, shapes: Any, tmp_path: Path) -> None:
    halves = files.random_lora(shapes, layers=("attn1.to_q",))
    path = files.write_lora(tmp_path / "a.safetensors", halves, alpha=float("nan"))
    with pytest.raises(SanaError, match=r"attn1.to_q.alpha is NaN or infinite"):
        loaded(model, (path, 1.0))


def test_values_that_are_none(files: Any, model: Checkpoint, shapes: Any, tmp_path: Path) -> None:
    halves = files.random_lora(shapes, layers=("attn1.to_q",))
    next(iter(halves.values()))[0][0, 0] = float("nan")
    path = files.write_lora(tmp_path / "a.safetensors", halves)
    with pytest.raises(SanaError, match="NaN or infinite"):
        loaded(model, (path, 1.0))
