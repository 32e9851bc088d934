"""A folder, a name or a .pth file becomes a checkpoint, or one error that names what is wrong."""

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_cli.checkpoints import opening
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.hub import Offer
from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from sana_cli.checkpoints.opening import (
    judge_offer,
    open_checkpoint,
    open_if_here,
    open_published,
    open_snapshot,
)
from sana_cli.config.variants import VARIANTS
from sana_cli.errors import ExitCode, SanaError
from sana_cli.loading.load import empty_module
from sana_cli.models.tokenizer import load_tokenizer
from tests.faults import edit_json

WEIGHTS = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def build(model: object) -> Checkpoint:
    """Open a model, and make its networks and its tokenizer without weights."""
    checkpoint = open_checkpoint(str(model), offline=True)
    for component in WEIGHTS:
        empty_module(checkpoint, component)
    load_tokenizer(checkpoint.folder / "tokenizer")
    return checkpoint


def refused(model: object, make: Callable[[object], object] = build) -> SanaError:
    with pytest.raises(SanaError) as caught:
        make(model)
    assert caught.value.code == ExitCode.CHECKPOINT
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.unlink()  # a link to the built-in model's
    save_file(tensors, path)


# -- what is opened --------------------------------------------------------------------------------


def test_the_built_in_model() -> None:
    checkpoint = open_checkpoint("builtin")
    assert (checkpoint.name, checkpoint.folder) == ("builtin", BUILTIN_FOLDER)
    assert checkpoint.pth is checkpoint.manifest is checkpoint.absent is checkpoint.revision is None


def test_a_folder_is_called_by_its_name(folder: Path) -> None:
    opened = build(folder)
    assert opened.name == "model"
    builtin = open_checkpoint("builtin")
    assert replace(opened, name="builtin", folder=BUILTIN_FOLDER) == builtin


def test_a_kept_model_is_opened_by_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_MODELS", str(tmp_path))
    assert open_checkpoint("model").folder == folder


def test_a_snapshot_is_known_by_its_commit(folder: Path) -> None:
    variant = VARIANTS["sana-0.6b"]
    opened = open_snapshot("sana-0.6b", folder, variant)
    assert (opened.name, opened.revision) == ("sana-0.6b", "model")
    assert opened.weight_variant == variant.weight_variant
    assert opened.trained_precision == variant.precision, "whatever its files are stored in"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_published_model_is_known_without_its_files(name: str) -> None:
    opened = open_published(VARIANTS[name])
    assert opened.absent is not None
    assert opened.defaults.native_size == VARIANTS[name].native_size
    assert opened.defaults.steps == VARIANTS[name].steps


def test_an_installation_without_the_built_in_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BUILTIN_FOLDER", tmp_path)
    with pytest.raises(SanaError, match="comes without the built-in model") as caught:
        open_checkpoint("builtin")
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_what_is_not_here_is_none(folder: Path, tmp_path: Path) -> None:
    assert open_if_here("sana-0.6b") is None
    assert open_if_here("some/one") is None
    found = open_if_here(str(folder))
    assert found is not None
    assert found.folder == folder
    (folder / "model_index.json").unlink()
    with pytest.raises(SanaError, match=r"no model_index\.json"):
        open_if_here(str(folder))


@pytest.mark.parametrize("name", ["sana-0.6", "nothing", "a/b/c"])
def test_a_name_that_means_nothing_asks_nobody(name: str) -> None:
    with pytest.raises(SanaError, match=f"unknown model '{name}'") as caught:
        open_checkpoint(name)
    assert caught.value.code == ExitCode.USAGE


def test_offline_and_not_cached() -> None:
    with pytest.raises(SanaError, match="not in the local cache") as caught:
        open_checkpoint("sana-0.6b", offline=True)
    assert caught.value.code == ExitCode.ENVIRONMENT


# -- configuration ---------------------------------------------------------------------------------


TRANSFORMER, VAE, TEXT = (f"{part}/config.json" for part in WEIGHTS)
SCHEDULER, TOKENIZER = "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (TRANSFORMER, "{"), (TRANSFORMER, "[]"), (TRANSFORMER, '{"num_attention_heads": "many"}'),
        (TRANSFORMER, '{"qk_norm": "layer_norm"}'), (VAE, '{"encoder_block_out_channels": [8, 8]}'),
        (VAE, '{"latent_channels": 8}'), (SCHEDULER, '{"_class_name": "DDIMScheduler"}'),
        (TEXT, '{"model_type": "llama"}'), (TOKENIZER, "{}"), (TOKENIZER, ""), (TOKENIZER, "[]"),
        (TOKENIZER, "version https://git-lfs.github.com/spec/v1"), ("sana.json", "{"),
        ("manifest.json", "{"), ("manifest.json", "{}"),
    ],
)  # fmt: skip
def test_damaged_configuration(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    refused(folder)


@pytest.mark.parametrize("file", ["model_index.json", TRANSFORMER, VAE, TEXT, SCHEDULER, TOKENIZER])
def test_missing_configuration(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert Path(file).name in refused(folder).message


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (TRANSFORMER, {"num_layers": 2.5}),
        (TRANSFORMER, {"num_layers": 10**9}),
        (TRANSFORMER, {"num_layers": True}),
        (TRANSFORMER, {"mlp_ratio": -1}),
        (TRANSFORMER, {"mlp_ratio": float("nan")}),
        (TRANSFORMER, {"norm_eps": "x"}),
        (TRANSFORMER, {"guidance_embeds": "false"}),
        (TRANSFORMER, {"sample_size": 10**12}),
        (TRANSFORMER, {"caption_channels": 48}),
        (TRANSFORMER, {"out_channels": 16}),
        (TRANSFORMER, {"_class_name": "FluxTransformer2DModel"}),
        (VAE, {"_class_name": "AutoencoderKL"}),
        (VAE, {"scaling_factor": "x"}),
        (VAE, {"scaling_factor": 0}),
        (VAE, {"decoder_act_fns": "tanh"}),
        (VAE, {"decoder_conv_act_fn": ["relu"]}),
        (VAE, {"attention_head_dim": 0}),
        (VAE, {"latent_channels": 0}),
        (VAE, {"attention_head_dim": 7}),
        (VAE, {"decoder_qkv_multiscales": [0, 0, 0, 5, 5, 5]}),
        (VAE, {"decoder_block_out_channels": "abcdef"}),
        (VAE, {"decoder_block_out_channels": [0] * 6}),
        (VAE, {"decoder_layers_per_block": [3, 3, 3, 3, 3, 10**7]}),
        (VAE, {"upsample_block_type": "foo"}),
        (VAE, {"in_channels": 1}),
        (SCHEDULER, {"flow_shift": 1e17}),
        (SCHEDULER, {"flow_shift": float("nan")}),
        (SCHEDULER, {"flow_shift": "high"}),
        (SCHEDULER, {"prediction_type": "epsilon"}),
        (SCHEDULER, {"use_flow_sigmas": False}),
        (TEXT, {"num_hidden_layers": "2"}),
        (TEXT, {"num_attention_heads": 0}),
        (TEXT, {"hidden_activation": "nope"}),
        (TEXT, {"query_pre_attn_scalar": 0}),
        (TEXT, {"layer_types": ["full_attention"] * 3}),
        (TEXT, {"layer_types": ["full_attention", "nope"]}),
        (TEXT, {"num_key_value_heads": 3}),
        (TEXT, {"attn_logit_softcapping": 0}),
        (TEXT, {"model_type": "bert"}),
        (TEXT, {"rope_parameters": {"rope_type": "zzz"}}),
    ],
    ids=str,
)
def test_values_that_no_network_has(folder: Path, file: str, changes: dict[str, Any]) -> None:
    edit_json(folder / file, **changes)
    refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": 1e9},
        {"native_size": 100},
        {"steps": 0},
        {"precision": "int8"},
        {"vocabulary": {}},
        {"vocabulary": {"things": []}},
        {"vocabulary": {"things": ["cat", " "]}},
    ],
    ids=str,
)
def test_own_settings(folder: Path, changes: dict[str, Any]) -> None:
    (folder / "sana.json").write_text(json.dumps(changes))
    refused(folder)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize("file", ["sana.json", TRANSFORMER, "manifest.json", TOKENIZER])
def test_configuration_that_is_no_file(
    folder: Path, file: str, make: Callable[[Path], None]
) -> None:
    (folder / file).unlink(missing_ok=True)
    make(folder / file)
    refused(folder)


def test_fields_that_nobody_needs(folder: Path) -> None:
    """Other libraries would make a name for each label."""
    edit_json(folder / TRANSFORMER, _newer_field=1)
    edit_json(folder / TEXT, num_labels=10**9)
    build(folder)


def as_flux(folder: Path) -> None:
    edit_json(folder / "model_index.json", _class_name="FluxPipeline")
    edit_json(folder / TRANSFORMER, _class_name="FluxTransformer2DModel")


def with_an_image_encoder(folder: Path) -> None:
    part = ["transformers", "CLIPVisionModel"]
    edit_json(folder / "model_index.json", _class_name="SanaVisionPipeline", image_encoder=part)


MISFITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "text encoder of another kind": (lambda f: edit_json(f / TEXT, model_type="qwen2"), "'qwen2'"),
    "another pipeline": (as_flux, "is a FluxPipeline, no Sana pipeline"),
    "a pipeline with more parts": (with_an_image_encoder, "is a SanaVisionPipeline, no Sana pipeline: it draws with a image_encoder"),
    "another autoencoder": (lambda f: edit_json(f / VAE, _class_name="AutoencoderKL"), "AutoencoderKL"),
    "another scheduler": (lambda f: edit_json(f / SCHEDULER, _class_name="DDIMScheduler"), "DDIMScheduler"),
    "heads of the autoencoder": (lambda f: edit_json(f / VAE, attention_head_dim=16), "vae: "),
    "layers of the transformer": (lambda f: edit_json(f / TRANSFORMER, num_layers=9), "transformer: missing"),
    "layers of the text encoder": (
        lambda f: edit_json(f / TEXT, num_hidden_layers=5, layer_types=None), "text_encoder: missing",
    ),
    "vocabulary": (lambda f: edit_json(f / TEXT, vocab_size=77), "embed_tokens"),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_parts_of_other_models(folder: Path, offered: Callable[[], Offer], misfit: str) -> None:
    """Here, and on the hub before a weight is fetched: errors then speak of the repository."""
    change, said = MISFITS[misfit]
    change(folder)
    assert said in refused(folder, lambda path: open_checkpoint(str(path))).message
    error = refused(offered(), lambda offer: judge_offer(offer, name="own/tiny", variant=None))
    assert said in error.message
    assert "/tmp/" not in error.message
    assert error.hint.endswith("; nothing was downloaded")


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("damage", ["missing", "truncated", "corrupt", "empty"])
def test_damaged_weights(folder: Path, part: str, damage: str) -> None:
    path = folder / WEIGHTS[part]
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-1000])
    elif damage == "corrupt":
        path.write_bytes(b"\xff" * 9 + content[9:])
    elif damage == "empty":
        save_file({}, path)
    assert path.name in refused(folder).message


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_tensors_that_do_not_fit(folder: Path, part: str, change: str) -> None:
    tensors = load_file(folder / WEIGHTS[part])
    name = sorted(name for name in tensors if not name.startswith("encoder."))[2]
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        name = "surprise.weight"
        tensors[name] = torch.ones(2)
    else:
        tensors[name] = torch.ones(*tensors[name].shape, 2)
    save(folder / WEIGHTS[part], tensors)
    message = refused(folder).message
    assert part in message
    assert name in message


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int64, torch.float8_e4m3fn, torch.bool], ids=str
)
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_weights_of_a_type_that_holds_none(folder: Path, part: str, dtype: torch.dtype) -> None:
    path = folder / WEIGHTS[part]
    save(path, {name: tensor.to(dtype) for name, tensor in load_file(path).items()})
    assert "stored" in refused(folder).message


@pytest.mark.parametrize(
    "change",
    [
        lambda m: dict.fromkeys(m, sorted(m.values())[0]),
        lambda m: m | {"ghost.weight": sorted(m.values())[0]},
        lambda m: m | {sorted(m)[0]: "../../evil.safetensors"},
        lambda m: dict.fromkeys(m, 5),
        lambda m: dict.fromkeys(m, "x" * 5000),
        lambda m: {},
        lambda m: None,
    ],
    ids=["wrong shard", "ghost", "outside", "numbers", "long", "empty", "right"],
)
def test_index(folder: Path, change: Callable[..., Any]) -> None:
    """The transformer in two shards, and an index of them."""
    single = folder / WEIGHTS["transformer"]
    tensors = load_file(single)
    single.unlink()
    names, true = sorted(tensors), {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        file = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, single.with_name(file))
        true |= dict.fromkeys(part, file)
    lie = change(true)
    index = single.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": true if lie is None else lie}))
    if lie is None:
        build(folder)
    else:
        refused(folder)


# -- original .pth files ---------------------------------------------------------------------------


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_a_pth_that_would_run_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "was-here"
    torch.save({"state_dict": {"x_embedder.proj.weight": Malicious(trace)}}, path)
    assert "would run code" in refused(path).message
    path.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    assert "would run code" in refused(path).message
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "not a readable .pth"),
        (b"", "not a readable .pth"),
        (b"\x80\x02.", "not a readable .pth"),
        (b"\x80\x02h\xff.", "not a readable .pth"),
        (b"PK\x03\x04", "not a readable .pth"),
        (None, "no such file"),
        ([1, 2], "holds no state_dict"),
        ({"state_dict": {"a": 1}}, "holds no state_dict"),
        ({"state_dict": {"a": torch.ones(1)}}, "unexpected tensor a"),
        ({"state_dict": {"x_embedder.proj.weight": torch.ones(8, 32, 1, 1)}}, "missing tensor"),
        ({}, "missing tensor"),
        ({5: torch.ones(2)}, ""),
        ({"x_embedder.proj.weight": torch.tensor(1.0)}, ""),
        ({"blocks.0.attn.qkv.weight": torch.tensor(1.0)}, ""),
        ({"blocks.0.attn.qkv.weight": torch.ones(3, 2, dtype=torch.int8)}, ""),
        ({"blocks.0.scale_shift_table": torch.ones(6, 8).to_sparse()}, ""),
        ({"blocks.0.scale_shift_table": torch.ones(1).expand(10**9)}, ""),
    ],
    ids=[
        "text", "empty file", "short", "memo", "zip", "absent", "list", "no tensors", "foreign", "partial", "empty",
        "number", "scalar", "scalar qkv", "integers", "sparse", "expanded",
    ],
)  # fmt: skip
def test_an_unfit_pth(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "model.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert message in refused(path).message
