"""Every reader of a file or answer that may be a stranger's, given what no program writes."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save

from quant.manifest import FormatError, read_manifest
from sana_cli.checkpoints.checkpoint import Checkpoint, weight_files
from sana_cli.checkpoints.file_selection import select_files
from sana_cli.checkpoints.hub_answer import BadAnswer, parse_listing
from sana_cli.checkpoints.lora_file import open_loras
from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.pth import read_pth
from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.commands.picture_facts import facts_of
from sana_cli.config.generation import GenerationOptions
from sana_cli.config.user_settings import SETTINGS, preferences
from sana_cli.errors import SanaError
from sana_cli.images.picture_file import load_picture, read_settings
from sana_cli.loading.load import check_loras
from sana_cli.models.tokenizer import load_tokenizer
from sana_cli.pipeline.latents_file import read as read_latents
from sana_cli.request.options import options_of_picture
from sana_cli.request.params import resolve
from sana_cli.request.prompt_file import read_prompt_file

# -- values and bytes ------------------------------------------------------------------------------

NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 7, 31, 33, 64, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, -(10**400), 0.0, -0.0, 0.5, 1e-300, 1e300,
     float("nan"), float("inf"), float("-inf")]
) | st.integers() | st.floats()  # fmt: skip
TEXTS = st.sampled_from(
    ["", " ", ".", "..", "/", "../../x", "/nowhere/at/all", "a\0b", "a\nb", "\ud800", "\u2028", "0" * 5000, "9" * 5000, "x" * 70_000,
     "64x64", "00x00", "16384x16384", "1e999", "exact-tiles " + "9" * 5000, "-1", "NaN", "builtin", "\x1b[2J", "ß", "٣x٣", "²"]
) | st.text(max_size=20)  # fmt: skip
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=6,
)


def changed(valid: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The same with some values, of any level, replaced, and with keys that nobody knows."""
    paths = list(_paths(valid))

    def apply(changes: list[tuple[int, Any]], more: dict[str, Any], lost: set[int]) -> Any:
        copy = json.loads(json.dumps(valid))
        for index, value in [*changes, *((i, _paths) for i in lost)]:
            *above, key = paths[index % len(paths)]
            place = copy
            for step in above:
                place = place.get(step) if isinstance(place, dict) else None
            if isinstance(place, dict) and value is _paths:
                place.pop(key, None)
            elif isinstance(place, dict):
                place[key] = value
        return copy | more

    index = st.integers(0, 10_000)
    return st.builds(
        apply,
        st.lists(st.tuples(index, VALUES), max_size=3),
        st.dictionaries(TEXTS, VALUES, max_size=1),
        st.sets(index, max_size=1),
    )


def _paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> Any:
    for key, value in values.items():
        yield (*above, key)
        if isinstance(value, dict) and len(value) < 50:
            yield from _paths(value, (*above, key))


@st.composite
def damaged(draw: Callable[..., Any], valid: bytes) -> bytes:
    """The same with some bytes overwritten, cut out, doubled or put in."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 8, 100]))
        kind = draw(st.sampled_from(["write", "cut", "double", "put in", "end"]))
        if kind == "end":
            del content[at:]
        else:
            part = bytes(content[at : at + length]) * 2 if kind == "double" else b""
            part = part or (b"" if kind == "cut" else draw(st.binary(max_size=16)))
            content[at : at + (0 if kind == "put in" else length)] = part
    return bytes(content)


def as_json(values: Any) -> bytes:
    return json.dumps(values).encode()


def json_files(valid: dict[str, Any]) -> st.SearchStrategy[bytes]:
    deep = st.sampled_from(
        [b"[" * 200_000, b'{"a":' * 200_000, b"9" * 5000, b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0"]
    )
    return st.one_of(
        changed(valid).map(as_json), damaged(as_json(valid)), VALUES.map(as_json), deep
    )


def tensor_files(content: bytes) -> st.SearchStrategy[bytes]:
    """Safetensors files with another header, a wrong length of it, or damaged bytes."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def join(header: Any, cut: int, length: int | None) -> bytes:
        text = as_json(header)
        size = len(text) if length is None else length
        return (size % 2**64).to_bytes(8, "little") + text + data[: len(data) - cut]

    odd = st.none() | st.none() | st.none() | st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1])
    return st.one_of(
        st.builds(join, changed(header), st.sampled_from([0, 0, 0, 1, 9]), odd),
        damaged(content),
        st.binary(max_size=64),
    )


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / f"input{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


@cache
def builtin() -> Checkpoint:
    return open_checkpoint("builtin")


# -- what models are made of -----------------------------------------------------------------------

LAYER = "transformer_blocks.0.attn1.to_q"
SMALL = {"weight": torch.ones(2, 3), "bias": torch.ones(2, dtype=torch.float16)}
LORA = {
    f"transformer.{LAYER}.lora_A.weight": torch.ones(2, 192),
    f"transformer.{LAYER}.lora_B.weight": torch.ones(192, 2),
}
TRAINED = {"lora_adapter_metadata": json.dumps({"lora_alpha": 4, "alpha_pattern": {"to_q": 2}})}
SETTINGS_OF_PICTURE = {
    "prompt": "a cat", "negative_prompt": "", "seed": 1, "steps": 1, "guidance": 4.5, "guidance_interval": "0-1",
    "cache": 0.1, "scheduler": "flow-dpm", "flow_shift": 3.0, "size": "64x64", "drawn_size": "64x64", "enhance": True,
    "model": "builtin", "revision": "", "version": "0.1.0", "decode": "exact-tiles 64", "backend": "auto",
    "precision": "fp32", "device": "cpu", "loras": ["a.safetensors:0.5"], "lora_digests": ["0"], "strength": 0.5,
}  # fmt: skip
FINISH = {
    "model": "builtin",
    "vae_precision": "fp32",
    "device": "cpu",
    "backend": "auto",
    "decode": "whole",
    "tile": None,
}
INDEX = {
    "metadata": {"total_size": 9},
    "weight_map": {"weight": "input-00001-of-00001.safetensors"},
}
MANIFEST = {
    "format": "sana-quantized", "format_version": 1, "base_model": "builtin", "base_revision": "", "base_precision": "fp32",
    "recipe": "w8a8", "written_by": "x", "components": {
        "vae": {"file": "vae/model.safetensors", "sha256": "0" * 64, "layers": {
            "a": {"weight_bits": 8, "act_bits": 8, "group_size": 0, "smooth": True}, "b": None}}},
}  # fmt: skip
TOKENIZER = json.loads((BUILTIN_FOLDER / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))


def safetensors_header(folder: Path, content: bytes) -> None:
    write(folder, ".safetensors", content)
    files = WeightFiles(folder, stem="input")
    assert files.parameters >= 0
    assert files.dtype
    for name in files:
        assert files.start_of(name) <= files.total_bytes


def weight_index(folder: Path, content: bytes) -> None:
    write(folder, "-00001-of-00001.safetensors", save({"weight": torch.ones(1)}))
    write(folder, ".safetensors.index.json", content)
    WeightFiles(folder, stem="input")


def lora(folder: Path, content: bytes) -> None:
    path = write(folder, f"{hash(content)}.safetensors", content)
    try:
        check_loras(builtin(), open_loras([(path, 1.0)]))
    finally:
        path.unlink()


def latents(folder: Path, content: bytes) -> None:
    read_latents(write(folder, ".latents.safetensors", content))


def pth(folder: Path, content: bytes) -> None:
    read_pth(write(folder, ".pth", content))


def manifest(folder: Path, content: bytes) -> None:
    path = write(folder, "/manifest.json", content)
    read_manifest(path.parent)


CONFIGS = (
    "model_index.json", "sana.json", "transformer/config.json", "vae/config.json", "text_encoder/config.json",
    "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json", "manifest.json",
)  # fmt: skip


def model_folder(folder: Path, value: tuple[str, bytes]) -> None:
    name, content = value
    model = folder / "input-model"
    if not model.exists():
        shutil.copytree(BUILTIN_FOLDER, model, symlinks=True, copy_function=os.symlink)
    path = model / name
    before = os.readlink(path) if path.is_symlink() else None
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(str(model))
        for component in ("transformer", "vae", "text_encoder"):
            weight_files(checkpoint, component)
        resolve(GenerationOptions(prompt="a cat", seed=1), checkpoint)
        load_tokenizer(model / "tokenizer")
    finally:
        path.unlink()
        if before is not None:
            path.symlink_to(before)


def tokenizer(folder: Path, content: bytes) -> None:
    path = write(folder, "/tokenizer.json", content)
    load_tokenizer(path.parent).encode("a red cat on a blue background")


def _contents(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
    path = BUILTIN_FOLDER / name
    valid = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else MANIFEST
    return st.tuples(st.just(name), json_files(valid))


def _latents_metadata(settings: Any, finish: Any, version: str) -> bytes:
    return save(
        {"latents": torch.ones(1, 32, 2, 2)},
        {"format": "sana-latents", "format_version": version, "model": "builtin",
         "settings": json.dumps(settings), "finish": json.dumps(finish)},
    )  # fmt: skip


LATENTS = _latents_metadata(SETTINGS_OF_PICTURE, FINISH, "1")


def _trained(words: Any) -> bytes:
    return save(LORA, {"lora_adapter_metadata": json.dumps(words)})


def _pth_bytes() -> bytes:
    out = BytesIO()
    torch.save({"state_dict": {"x_embedder.proj.weight": torch.ones(2, 32, 1, 1)}, "step": 3}, out)
    return out.getvalue()


def _pth_with(content: bytes) -> bytes:
    """Another pickle in torch's archive."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data/0", bytes(64))
    return out.getvalue()


def _data_pickle() -> bytes:
    with zipfile.ZipFile(BytesIO(_pth_bytes())) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))


# -- what people write, and what comes back from pictures and hubs ---------------------------------

LINE = {"prompt": "a cat", "seed": 1, "steps": 1, "guidance": 2.0, "size": "64x64", "cache": 0.1, "scheduler": "flow-dpm",
        "strength": 0.5, "lora": "a.safetensors", "negative": "", "enhance": True}  # fmt: skip
TOML = b'model = "builtin"\nsteps = 4\nguidance = 2.5\noutput = "~/x"\nquiet = true\nmax_memory = "4GiB"\n'


def prompt_file(folder: Path, value: tuple[str, bytes]) -> None:
    suffix, content = value
    for line in read_prompt_file(str(write(folder, suffix, content))).lines:
        resolve(line.options, builtin())


def _settings_used(path: Path) -> None:
    facts_of(path)
    settings = read_settings(path)
    resolve(options_of_picture(settings, path.name), builtin())


def png_settings(folder: Path, settings: bytes) -> None:
    info, out = PngInfo(), BytesIO()
    info.add_itxt("sana", settings.decode("utf-8", "replace"))
    Image.new("RGB", (2, 2)).save(out, "PNG", pnginfo=info)
    _settings_used(write(folder, ".png", out.getvalue()))


def foreign_png(folder: Path, value: tuple[str, bytes]) -> None:
    keyword, text = value
    info, out = PngInfo(), BytesIO()
    info.add_itxt(keyword, text.decode("utf-8", "replace"))
    Image.new("RGB", (2, 2)).save(out, "PNG", pnginfo=info)
    facts_of(write(folder, ".png", out.getvalue()))


def png_bytes(folder: Path, content: bytes) -> None:
    path = write(folder, ".png", content)
    for use in (_settings_used, load_picture):
        try:
            use(path)
        except SanaError:
            continue


def config_toml(folder: Path, content: bytes) -> None:
    os.environ["SANA_CONFIG"] = str(write(folder, ".toml", content))
    chosen = preferences().options
    resolve(GenerationOptions(prompt="a cat", seed=1).over(chosen), builtin())


def variables(folder: Path, value: tuple[str, str]) -> None:
    key, text = value
    os.environ |= {"SANA_CONFIG": str(folder / "input-none.toml"), f"SANA_{key.upper()}": text}
    try:
        preferences()
    finally:
        del os.environ[f"SANA_{key.upper()}"]


def hub_answer(folder: Path, body: bytes) -> None:
    listing = parse_listing(body)
    listing.take(select_files(list(listing.files)))


def _picture(settings: Any) -> bytes:
    info, out = PngInfo(), BytesIO()
    info.add_itxt("sana", json.dumps(settings), zip=True)
    info.add_text("parameters", "a cat\nSteps: 1, Size: 64x64, Seed: 1")
    Image.new("RGB", (4, 4)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def _tabled() -> st.SearchStrategy[bytes]:
    rows = st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=4)
    mark = st.sampled_from(["\t", ",", ";"])
    return st.builds(
        lambda rows, mark: "\n".join(["prompt" + mark + "seed", *map(mark.join, rows)]).encode(
            "utf-8", "replace"
        ),
        rows,
        mark,
    )


GRAPH = {  # ComfyUI's
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20, "cfg": 7.5, "positive": ["6", 0], "negative": ["7", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": ["6", 0]}},
}  # fmt: skip
PARAMETERS = b'a cat\nNegative prompt: a dog\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, Model: "x, y"'
PROMPTS = st.tuples(
    st.sampled_from([".txt", ".jsonl", ".json", ".ndjson", ".csv", ".tsv", ""]),
    st.one_of(
        st.lists(changed(LINE).map(as_json), max_size=3).map(b"\n".join),
        st.lists(changed(LINE), max_size=3).map(as_json),
        json_files(LINE), _tabled(), TEXTS.map(lambda t: t.encode("utf-16", "surrogatepass")), st.binary(max_size=100),
        TEXTS.map(lambda t: t.encode("utf-8", "surrogatepass")),
    ),
)  # fmt: skip
LISTING = {
    "sha": "a" * 40, "cardData": {"license": "mit"}, "siblings": [
        {"rfilename": "model_index.json", "size": 9, "blobId": "b" * 40},
        {"rfilename": "vae/x.safetensors", "size": 9, "blobId": "b" * 40, "lfs": {"sha256": "c" * 64, "size": 9}}],
}  # fmt: skip
ENTRIES = st.lists(changed(LISTING["siblings"][1]) | VALUES, max_size=3)  # type: ignore[index]

CASES: dict[Callable[[Path, Any], object], tuple[st.SearchStrategy[Any], tuple[type[Exception], ...]]] = {
    safetensors_header: (tensor_files(save(SMALL)), ()),
    weight_index: (json_files(INDEX), ()),
    lora: (tensor_files(save(LORA, TRAINED)) | changed({"lora_alpha": 4, "alpha_pattern": {"to_q": 2}}).map(_trained), ()),
    latents: (
        tensor_files(LATENTS)
        | st.builds(_latents_metadata, changed(SETTINGS_OF_PICTURE), changed(FINISH), st.sampled_from("12")),
        (),
    ),
    pth: (
        damaged(_pth_bytes()) | damaged(_data_pickle()).map(_pth_with)
        | damaged(pickle.dumps({"state_dict": {"a": 1}}, protocol=2)) | st.binary(max_size=64),
        (),
    ),
    manifest: (json_files(MANIFEST), (FormatError, OSError)),
    model_folder: (st.sampled_from(CONFIGS).flatmap(_contents), ()),
    tokenizer: (json_files(TOKENIZER), ()),
    prompt_file: (PROMPTS, ()),
    png_settings: (json_files(SETTINGS_OF_PICTURE), ()),
    foreign_png: (
        st.tuples(st.just("prompt"), json_files(GRAPH)) | st.tuples(st.just("parameters"), damaged(PARAMETERS)),
        (),
    ),
    png_bytes: (damaged(_picture(SETTINGS_OF_PICTURE)), ()),
    config_toml: (
        damaged(TOML) | st.builds(
            lambda key, value: f"{key} = {json.dumps(value)}".encode("utf-8", "replace"), st.sampled_from(sorted(SETTINGS)), VALUES
        ),
        (),
    ),
    variables: (st.tuples(st.sampled_from(sorted(SETTINGS)), TEXTS.filter(lambda t: "\0" not in t and t.isascii())), ()),
    hub_answer: (
        json_files(LISTING) | ENTRIES.map(lambda entries: as_json(LISTING | {"siblings": entries})), (BadAnswer,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("parse", CASES, ids=lambda parse: parse.__name__)
def test_only_errors_in_words(
    explore: Callable[..., None],
    parse: Callable[[Path, Any], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SANA_CONFIG", "")  # given back afterwards
    inputs, expected = CASES[parse]
    explore(parse, inputs, *expected)
