"""`sana quantize --samples 0`, and what reads its folders; with data: test_calibrate.py."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from quant.convert import quantize_
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.recipes import component_recipe
from sana_cli.errors import ExitCode
from sana_cli.loading.load import TOKEN_CONVS, load_transformer

FAST = ("--size", "64x64", "--steps", "2", "--device", "cpu", "--precision", "fp32", "--seed", "3")
CPU = torch.device("cpu")
NO_DATA = ("--samples", "0")


@pytest.fixture(scope="module")
def folder(
    sana: Callable[..., Any], pipelines: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The plain tiny model in w8a8, with weight-only text and decoder."""
    target = tmp_path_factory.mktemp("quantized") / "w8a8"
    result = sana("quantize", pipelines.folder("plain"), target, *NO_DATA, "--quiet")
    assert result.code == 0, result.err
    return target


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def picture(sana: Callable[..., Any], model: Path, path: Path) -> np.ndarray[Any, Any]:
    result = sana("generate", "a fox", "-m", model, "-o", path, "--force", *FAST)
    assert result.code == 0, result.err
    return np.asarray(Image.open(path)).astype(float)


def test_report(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    result = sana("quantize", tiny_model, target, *NO_DATA, "--recipe", "int4", "--json")
    assert result.code == 0, result.err
    assert result.document["folder"] == str(target)
    for name, part in result.document["components"].items():
        assert part["bytes_after"] < part["bytes_before"], name
        assert part["layers_quantized"] > 0
        assert part["layers_calibrated"] == 0, "the SQNR is that of weights"
        assert part["sqnr_db_worst"] > (18 if part["scheme"].startswith("w4") else 35)
    kept = result.document["components"]["transformer"]["kept"]
    assert "sensitive" in kept["transformer_blocks.0.attn2.to_k"]
    assert set(tmp_path.iterdir()) == {target}, "no working folder stays"


def test_picture_stays_close(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    """8 bits everywhere: the text encoder in 4 bits costs a random model more than a trained one."""
    target = tmp_path / "out"
    result = sana("quantize", tiny_model, target, *NO_DATA, "--text-encoder", "w8a16", "--quiet")
    assert result.code == 0, result.err
    before = picture(sana, tiny_model, tmp_path / "a.png")
    after = picture(sana, target, tmp_path / "b.png")
    assert 20 * np.log10(255 / np.sqrt(((before - after) ** 2).mean())) > 30
    assert (before != after).any()


def test_saved_equals_in_memory(folder: Path, tiny_model: Path) -> None:
    """Save, load, run is bit-equal to quantizing the loaded float model."""
    loaded = load_transformer(open_checkpoint(str(folder)), dtype="fp32", device=CPU)
    converted = load_transformer(open_checkpoint(str(tiny_model)), dtype="fp32", device=CPU)
    quantize_(converted, component_recipe("transformer", "w8a8"), token_convs=TOKEN_CONVS)
    # Out of the mapped file, whose alignment the last bit of a float product depends on.
    own = {name: tensor.clone() for name, tensor in converted.state_dict().items()}
    converted.load_state_dict(own, assign=True)
    state = loaded.state_dict()
    assert set(state) == set(converted.state_dict())
    for name, tensor in converted.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 32, 3, 4, generator=generator)
    text = torch.randn(1, 5, loaded.config.caption_channels, generator=generator)
    with torch.inference_mode():
        outputs = [
            model(latents, torch.tensor([500.0]), [model.encode_text(text)])
            for model in (loaded, converted)
        ]
    assert torch.equal(*outputs)


def test_no_float_copy_of_a_quantized_weight(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, part in manifest["components"].items():
        stored = load_file(folder / part["file"])
        for path, config in part["layers"].items():
            assert (f"{path}.weight" in stored) == (config is None), (name, path)


def test_info(sana: Callable[..., Any], folder: Path) -> None:
    document = sana("info", folder, "--json").document
    assert document["components"]["transformer"]["schemes"] == ["w8a8"]
    assert document["components"]["text_encoder"]["schemes"] == ["w4a16-g64", "w8a16"]
    origin = document["quantized"]
    assert (origin["base_model"], origin["recipe"], origin["samples"]) == (
        "plain-single",
        "w8a8",
        0,
    )
    assert datetime.fromisoformat(origin["written_at"]).tzinfo is not None
    told = sana("info", folder).out
    assert re.search(r"^transformer: w8a8, .* dB \(median\), .* dB \(worst layer\)$", told, re.M)
    assert "\nquantized from: plain-single\nrecipe: w8a8\nwritten: 20" in told
    assert "\ncalibrated with: no data\n" in told


@pytest.mark.parametrize("report", [None, "[]", "{", '{"components": 3}'])
def test_info_of_a_folder_without_a_report(
    sana: Callable[..., Any], copy: Path, report: str | None
) -> None:
    """As older versions made them."""
    (copy / "report.json").unlink()
    if report is not None:
        (copy / "report.json").write_text(report)
    origin = sana("info", copy, "--json").document["quantized"]
    assert (origin["recipe"], origin["written_at"], origin["samples"]) == ("w8a8", None, None)
    assert "recipe: w8a8\nwritten: sana " in sana("info", copy).out


def test_rerun_goes_on_behind_finished_parts(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    before_opening: Callable[..., None],
) -> None:
    read: list[str] = []  # the part of each tensor
    written: list[str] = []

    def fail_in_vae(path: Path, mode: str) -> None:
        part = path.parent.name
        if path.suffix == ".safetensors":
            (written if "w" in mode else read).append(part)
        if read.count("vae") == 20 and (part, mode) == ("vae", "rb"):
            raise KeyboardInterrupt

    before_opening(fail_in_vae)
    target = tmp_path / "out"
    assert sana("quantize", tiny_model, target, *NO_DATA).code == ExitCode.INTERRUPTED
    assert not target.exists()
    finished = written[:-1]
    assert (written[-1], "transformer" in finished) == ("vae", True)
    written.clear()
    assert sana("quantize", tiny_model, target, *NO_DATA, "--quiet").code == 0
    assert "vae" in written
    assert set(written).isdisjoint(finished)
    assert list(target.glob("*/done.json")) == []


def test_two_writers_of_one_folder(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".out.lock"):
        result = sana("quantize", tiny_model, tmp_path / "out", *NO_DATA)
    assert result.code == ExitCode.ENVIRONMENT
    assert "another process is making" in result.err
    assert not (tmp_path / "out").exists()


# -- what lies where the folder will be --------------------------------------------------------


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mark", [b"", b"[]", b"\xff", b"{}", None])
def test_working_folder_of_another_model(
    sana: Callable[..., Any], tiny_model: Path, folder: Path, tmp_path: Path, mark: bytes | None
) -> None:
    """Nothing of it gets into the new one, and a damaged mark of a finished part is no mark."""
    partial, target = tmp_path / ".out.partial", tmp_path / "out"
    for name in ("sana.json", "LICENSE-A", "tokenizer/added_tokens.json", "more/comparison.png"):
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_text("{}")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (partial / "vae").mkdir()
    (partial / "vae/model.safetensors").symlink_to(outside)
    if mark is not None:
        (partial / "transformer").mkdir()
        (partial / "transformer/done.json").write_bytes(mark)
        (partial / "transformer/model.safetensors").write_bytes(b"half")
    result = sana("quantize", tiny_model, target, *NO_DATA, "--quiet")
    assert result.code == 0, result.err
    assert files(target) == files(folder)
    assert (target / "sana.json").exists() == (tiny_model / "sana.json").exists()
    assert outside.read_text() == "mine"
    for name in ("transformer", "vae"):
        path = f"{name}/model.safetensors"
        assert (target / path).read_bytes() == (folder / path).read_bytes()


def test_replacing_after_a_kill(
    sana: Callable[..., Any], tiny_model: Path, copy: Path, tmp_path: Path
) -> None:
    """In the swap, a run may be killed between its renames, or before the old folder is gone."""
    old = tmp_path / ".copy.old"
    copy.rename(old)
    result = sana("quantize", tiny_model, copy, *NO_DATA)
    assert result.code == ExitCode.USAGE
    assert f"{copy} exists" in result.err
    assert files(copy), "it has its name again"
    old.mkdir()
    (old / "manifest.json").write_text("{}")
    result = sana("quantize", tiny_model, copy, *NO_DATA, "--force", "--quiet")
    assert result.code == 0, result.err
    assert list(tmp_path.iterdir()) == [copy]


def test_links_are_not_followed(
    sana: Callable[..., Any], tiny_model: Path, copy: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(copy)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        result = sana("quantize", tiny_model, tmp_path / name, *NO_DATA, "--force")
        assert result.code == ExitCode.USAGE
        assert "is a symbolic link" in result.err
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.partial").symlink_to(tmp_path / "elsewhere")
    result = sana("quantize", tiny_model, tmp_path / "out", *NO_DATA)
    assert result.code == ExitCode.ENVIRONMENT
    assert ".out.partial is a symbolic link" in result.err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_licences(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "LICENSES").mkdir()
    for name in ("LICENSE.txt", "LICENSES/Gemma.txt"):
        (model / name).write_text("terms")
    result = sana("quantize", model, tmp_path / "out", *NO_DATA, "--quiet")
    assert result.code == 0, result.err
    assert {"LICENSE.txt", "LICENSES/Gemma.txt"} < files(tmp_path / "out")


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name", "change"),
    [
        ("transformer", "transformer_blocks.0.attn1.to_q.weight", lambda t: t[:-1]),
        ("transformer", "transformer_blocks.0.attn1.to_q.weight", lambda t: t[None]),
        ("transformer", "caption_norm.weight", lambda t: t.reshape(-1)[:3]),
        ("transformer", "caption_norm.weight", lambda t: t.to(torch.int64)),
        ("transformer", "caption_norm.weight", lambda t: t * torch.nan),
        ("vae", "decoder.conv_in.weight", lambda t: t.squeeze()[0, 0]),
        ("vae", "decoder.up_blocks.0.1.conv1.weight", lambda t: t.to(torch.int8)),
        ("vae", "decoder.up_blocks.0.1.conv1.weight", lambda t: t > 0),
    ],
    ids=["short", "deep", "short norm", "int64 norm", "nan", "flat", "int8", "bool"],
)
def test_unfit_weights(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    part: str,
    name: str,
    change: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    path = next((model / part).glob("*.safetensors"))
    tensors = load_file(path)
    save_file(tensors | {name: change(tensors[name]).contiguous()}, path)
    result = sana("quantize", model, tmp_path / "out", *NO_DATA, "--quiet")
    assert result.code == ExitCode.CHECKPOINT, result.err
    assert f"{part}: {name} " in result.err
    assert {path.name for path in tmp_path.iterdir()} == {model.name}


def test_fp64(sana: Callable[..., Any], tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    path = next((model / "transformer").glob("*.safetensors"))
    save_file({name: tensor.double() for name, tensor in load_file(path).items()}, path)
    result = sana("quantize", model, tmp_path / "out", *NO_DATA, "--quiet")
    assert result.code == 0, result.err
    same = "transformer/model.safetensors"
    assert (tmp_path / "out" / same).read_bytes() == (folder / same).read_bytes()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("unable to mmap 9 bytes from file: Cannot allocate memory (12)")],
    ids=["python", "torch"],
)
def test_out_of_memory(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    before_opening: Callable[..., None],
    error: Exception,
) -> None:
    def fail(path: Path, mode: str) -> None:
        if path.suffix == ".safetensors":
            raise error

    before_opening(fail)
    result = sana("quantize", tiny_model, tmp_path / "out", *NO_DATA)
    assert result.code == ExitCode.ENVIRONMENT, result.err
    assert "not enough memory" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recipe", "w2"), "unknown recipe 'w2'"),
        (("--transformer", "w3a3"), "unknown scheme 'w3a3'"),
        (("--vae", "w4a16-g64"), "stored as w8a8 or w8a16, not w4a16-g64"),
        (
            ("--text-encoder", "w8a8"),
            "weight-only schemes suit it\nhint: use w8a16, w4a16-g64 or none",
        ),
        (("--vae", "f8a8"), "use w8a8, w8a16 or none"),
        (("--transformer", ""), "unknown scheme ''"),
        (("--text-encoder", "w4a16-g1000000000000"), "larger than 16384"),
    ],
)
def test_unknown_schemes(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, options: Any, message: str
) -> None:
    result = sana("quantize", tiny_model, tmp_path / "out", *options)
    assert result.code == ExitCode.USAGE
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_target_exists(
    sana: Callable[..., Any], tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    for options in ((), ("--force",)):
        result = sana("quantize", tiny_model, mine, *options)
        assert result.code == ExitCode.USAGE
        assert f"{mine} exists" in result.err
    assert (mine / "notes.txt").read_text() == "mine"
    assert sana("quantize", tiny_model, folder).code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("~nosuchuser/x", "cannot be a path"),
        ("x" * 300, "cannot be a path"),
        (".", "not the name of a folder"),
        ("..", "not the name of a folder"),
    ],
    ids=["no user", "long", "here", "above"],
)
def test_no_target(
    sana: Callable[..., Any],
    tiny_model: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    message: str,
) -> None:
    monkeypatch.chdir(folder / "vae" if target == ".." else folder)
    result = sana("quantize", tiny_model, target, *NO_DATA, "--force")
    assert result.code == ExitCode.USAGE, result.err
    assert message in result.err


def test_quantized_already(sana: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    result = sana("quantize", folder, tmp_path / "out")
    assert result.code == ExitCode.USAGE
    assert "quantized already" in result.err


def test_disk_full(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    before_opening: Callable[..., None],
) -> None:
    def full(path: Path, mode: str) -> None:
        if (path.suffix, mode) == (".safetensors", "wb"):
            raise OSError(28, "No space left on device")

    before_opening(full)
    result = sana("quantize", tiny_model, tmp_path / "out", *NO_DATA)
    assert result.code == ExitCode.ENVIRONMENT
    assert "No space left on device" in result.err
    assert not (tmp_path / "out").exists()


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_a_byte(folder: Path) -> None:
    path = folder / "transformer/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def rename_a_layer(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("transformer_blocks.0.attn1.to_q", "blocks.0.to_q"))


def lose_a_tensor(folder: Path) -> None:
    path = folder / "vae/model.safetensors"
    tensors = load_file(path)
    tensors.pop("decoder.up_blocks.0.1.conv1.scale")
    save_file(tensors, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    from quant.manifest import sha256_of

    manifest["components"]["vae"]["sha256"] = sha256_of(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_part(folder: Path, component: str, **changes: Any) -> None:
    components = json.loads((folder / "manifest.json").read_text())["components"]
    edit(folder, components={**components, component: components[component] | changes})


def edit_scheme(folder: Path, **changes: Any) -> None:
    """Of one layer of the text encoder, w4a16-g64."""
    manifest = json.loads((folder / "manifest.json").read_text())
    layers = manifest["components"]["text_encoder"]["layers"]
    layers["layers.0.self_attn.q_proj"] |= changes
    (folder / "manifest.json").write_text(json.dumps(manifest))


def other_weights(folder: Path) -> None:
    """Weights of another origin in place of the transformer's, the file of the manifest untouched."""
    part = folder / "transformer"
    shard = "model-00001-of-00001.safetensors"
    weights = {name: tensor * 2 for name, tensor in load_file(part / "model.safetensors").items()}
    save_file(weights, part / shard)
    index = {"weight_map": dict.fromkeys(weights, shard)}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))


def other_file(folder: Path) -> None:
    part = folder / "transformer"
    shutil.copy(part / "model.safetensors", part / "original.safetensors")
    flip_a_byte(folder)
    edit_part(folder, "transformer", file="transformer/original.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f, format="gguf"), "format 'gguf' is not 'sana-quantized'"),
        (lambda f: edit(f, format_version=2), "format version 2 is newer than 1"),
        (lambda f: edit(f, format_version="1"), "makes no sense"),
        (lambda f: edit(f, components={"vae": {}}), "damaged"),
        (lambda f: (f / "manifest.json").write_text("{"), "not JSON"),
        (flip_a_byte, "SHA-256 is not the manifest's"),
        (lambda f: (f / "vae/model.safetensors").unlink(), "vae/model.safetensors"),
        (rename_a_layer, "the manifest names 'blocks.0.to_q'"),
        (lose_a_tensor, "missing tensor decoder.up_blocks.0.1.conv1.scale"),
        (lambda f: edit(f, format_version=True), "makes no sense"),
        (lambda f: (f / "manifest.json").write_text("[" * 10**5), "nested too deeply"),
        (lambda f: edit(f, components={}), "components are not transformer, vae, text_encoder"),
        (lambda f: edit_part(f, "vae", file="../../etc/hostname"), "not in vae/model.safetensors"),
        (lambda f: edit_part(f, "vae", file="vae"), "not in vae/model.safetensors"),
        (lambda f: edit_part(f, "vae", file="x" * 5000), "not in vae/model.safetensors"),
        (lambda f: edit_part(f, "vae", file="vae/\0"), "not in vae/model.safetensors"),
        (lambda f: edit_scheme(f, group_size=64.0), "group_size 64.0 is not of type int"),
        (lambda f: edit_scheme(f, group_size=10**12), "larger than 16384"),
        (lambda f: edit_scheme(f, smooth="no"), "smooth 'no' is not of type bool"),
        (other_file, "not in transformer/model.safetensors"),
    ],
    ids=[
        "magic", "newer", "version", "components", "json", "flipped byte", "missing file",
        "unknown layer", "missing tensor", "true version", "too deep", "no components",
        "outside", "a folder", "long name", "no name", "float size", "huge size", "no flag",
        "other file",
    ],
)  # fmt: skip
def test_damaged_folder(
    sana: Callable[..., Any],
    copy: Path,
    tmp_path: Path,
    damage: Callable[[Path], Any],
    message: str,
) -> None:
    damage(copy)
    result = sana("generate", "x", "-m", copy, "-o", tmp_path / "a.png", *FAST)
    assert result.code == ExitCode.CHECKPOINT, result.err
    assert message in result.err
    assert not (tmp_path / "a.png").exists()
    if damage not in (flip_a_byte, rename_a_layer, lose_a_tensor):  # `info` opens no weights
        result = sana("info", copy)
        assert result.code == ExitCode.CHECKPOINT, result.err
        assert message in result.err


def test_weights_beside_those_of_the_manifest(
    sana: Callable[..., Any], copy: Path, tmp_path: Path
) -> None:
    """An index makes loaders prefer shards, whose digest nobody compared."""
    other_weights(copy)
    result = sana("generate", "x", "-m", copy, "-o", tmp_path / "a.png", *FAST)
    assert result.code == ExitCode.CHECKPOINT, result.err
    assert "weights that the manifest does not know" in result.err
