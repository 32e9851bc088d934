"""Finished latents in a file: what is kept, under which name, and files that cannot be finished."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sana_cli.errors import ExitCode, SanaError
from sana_cli.pipeline.latents_file import (
    SUFFIX,
    HowToFinish,
    KeptLatents,
    finishing_command,
    picture_of,
    read,
    write,
    write_beside,
)
from sana_cli.request.init_image import Composite

SETTINGS: dict[str, Any] = {
    "prompt": "a cat", "seed": 7, "steps": 2, "guidance": 4.5, "scheduler": "flow-dpm", "size": "96x64",
    "drawn_size": "96x64", "model": "builtin", "version": "1",
}  # fmt: skip
HOW = HowToFinish(
    model="builtin", vae_precision="fp32", device="cpu", backend="auto", decode="auto", tile=None
)


def latents(h: int = 2, w: int = 3) -> torch.Tensor:
    return torch.randn(1, 32, h, w, generator=torch.Generator().manual_seed(1))


KEPT = KeptLatents(latents=latents(), settings=SETTINGS, how=HOW)


def with_mask() -> KeptLatents:
    mask = Image.new("L", (96, 64))
    mask.paste(255, (10, 10, 40, 40))
    original = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    return replace(KEPT, composite=Composite(original=original, mask=mask))


# -- what is kept ----------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png.latents.safetensors"
    write(path, KEPT, overwrite=False)
    found = read(path)
    assert torch.equal(found.latents, KEPT.latents)
    assert (found.settings, found.how, found.composite) == (SETTINGS, HOW, None)
    assert found.size == (96, 64)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format_version"] == "1", "older readers read it, too"


def test_what_stays_of_an_original(tmp_path: Path) -> None:
    path, kept = tmp_path / "a.png.latents.safetensors", with_mask()
    write(path, kept, overwrite=False)
    found = read(path)
    assert found.composite is not None
    assert kept.composite is not None
    assert found.composite.original.tobytes() == kept.composite.original.tobytes()
    assert found.composite.mask.tobytes() == kept.composite.mask.tobytes()
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format_version"] == "2", "older readers would draw over it"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_latents_are_kept_in_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    """Whatever the device computes in; views are written as what they show."""
    given = latents(3, 2).to(dtype).transpose(2, 3)
    path = tmp_path / "a.png.latents.safetensors"
    write(path, replace(KEPT, latents=given), overwrite=False)
    assert torch.equal(read(path).latents, given.float())


@pytest.mark.parametrize("model", ["/tmp/caf\udce9", "/tmp/\udcff\udcfe", "猫/模型"])
def test_a_model_s_path_is_kept_to_the_byte(tmp_path: Path, model: str) -> None:
    path = tmp_path / "a.png.latents.safetensors"
    write(path, replace(KEPT, how=replace(HOW, model=model)), overwrite=False)
    assert read(path).how.model == model


# -- names -----------------------------------------------------------------------------------------


def test_another_picture_keeps_its_file(tmp_path: Path) -> None:
    """A second try at the same picture takes the first one's place; somebody's file is left alone."""
    picture = tmp_path / "a.png"
    other = replace(KEPT, settings={**SETTINGS, "prompt": "a dog"})
    first = write_beside(picture, KEPT)
    second = write_beside(picture, other)
    (tmp_path / f"a.png-3{SUFFIX}").write_bytes(b"mine")
    third = write_beside(picture, replace(KEPT, settings={**SETTINGS, "seed": 8}))
    assert [p.name for p in (first, second, third)] == [
        f"a.png{SUFFIX}", f"a.png-2{SUFFIX}", f"a.png-4{SUFFIX}",
    ]  # fmt: skip
    again = replace(other, latents=latents() + 1)
    assert write_beside(picture, again) == second
    assert torch.equal(read(second).latents, again.latents)
    assert (tmp_path / f"a.png-3{SUFFIX}").read_bytes() == b"mine"
    for path in (first, second, third):
        assert picture_of(path) == picture


def test_a_link_that_leads_nowhere_is_taken(tmp_path: Path) -> None:
    (tmp_path / f"a.png{SUFFIX}").symlink_to(tmp_path / "no")
    assert write_beside(tmp_path / "a.png", KEPT).name == f"a.png-2{SUFFIX}"
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("stem", ["x" * 251, "猫" * 83])
def test_the_longest_names(tmp_path: Path, stem: str) -> None:
    """That a file system takes for a picture, and would not with our suffix."""
    path = write_beside(tmp_path / f"{stem}.png", KEPT)
    assert len(os.fsencode(path.name)) <= 255
    assert stem.startswith(picture_of(path).stem)
    assert torch.equal(read(path).latents, KEPT.latents)


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for where in ("file/a.png", "file/no/a.png"):
        with pytest.raises(SanaError):
            write_beside(tmp_path / where, KEPT)
    assert [p.name for p in tmp_path.rglob("*")] == ["file"]


@pytest.mark.parametrize("name", ["copy", "copy.safetensors", "a.gif.latents.safetensors", SUFFIX])
def test_names_that_say_no_picture(name: str) -> None:
    with pytest.raises(SanaError, match="does not follow") as caught:
        picture_of(Path(name))
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("a.png.latents.safetensors", "sana decode a.png.latents.safetensors"),
        ("a b/c's.png", """sana decode 'a b/c'"'"'s.png'"""),
        ("-x.png", "sana decode ./-x.png"),
    ],
)
def test_the_command_that_resumes(path: str, command: str) -> None:
    assert finishing_command(Path(path)) == command


@pytest.mark.parametrize("name", [b"caf\xe9", "猫".encode(), b"a b'c"])
def test_names_of_any_bytes(tmp_path: Path, name: bytes) -> None:
    path = write_beside(tmp_path / f"{os.fsdecode(name)}.png", KEPT)
    assert torch.equal(read(path).latents, KEPT.latents)


# -- damage ----------------------------------------------------------------------------------------


def rewritten(
    path: Path,
    *,
    metadata: Callable[[dict[str, str]], object] = lambda m: None,
    tensors: Callable[[dict[str, torch.Tensor]], object] = lambda t: None,
) -> None:
    with safe_open(path, framework="pt") as file:
        meta = dict(file.metadata())
    found = load_file(path)
    metadata(meta)
    tensors(found)
    save_file(found, path, metadata=meta)


def said(part: str, **changes: Any) -> Callable[[Path], None]:
    """Change, or with ... remove, values of `settings` or `finish`."""

    def change(meta: dict[str, str]) -> None:
        values = {**json.loads(meta[part]), **changes}
        meta[part] = json.dumps({k: v for k, v in values.items() if v is not ...})

    return lambda path: rewritten(path, metadata=change)


def tensor(name: str, value: Any) -> Callable[[Path], None]:
    return lambda path: rewritten(path, tensors=lambda t: t.update({name: value}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(b""), "not a whole safetensors file"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "not a whole safetensors file"),
        (lambda p: p.write_bytes(b"\xff" * 64), "not a whole safetensors file"),
        (lambda p: rewritten(p, metadata=lambda m: m.update(format_version="3")), "format version is '3'"),
        (lambda p: rewritten(p, metadata=lambda m: m.pop("settings")), "settings cannot be read"),
        (lambda p: rewritten(p, metadata=lambda m: m.update(settings="{")), "settings cannot be read"),
        (lambda p: rewritten(p, metadata=lambda m: m.update(settings="[" * 99_999)), "settings cannot be read"),
        (lambda p: rewritten(p, tensors=lambda t: t.update(x=t.pop("latents"))), "the shape None"),
        (tensor("latents", torch.zeros(2, 32, 2, 3)), r"the shape \(2, 32, 2, 3\)"),
        (tensor("latents", torch.zeros(32, 2, 3)), r"the shape \(32, 2, 3\)"),
        (tensor("latents", torch.zeros(1, 32, 0, 3)), r"the shape \(1, 32, 0, 3\)"),
        (tensor("latents", latents().half()), "torch.float16, not torch.float32"),
        (tensor("latents", torch.full((1, 32, 2, 3), torch.nan)), "NaN or infinite"),
        (tensor("latents", latents(3, 3)), "latents of 3x3 are none of a 96x64 picture"),
        (tensor("latents", torch.zeros(1, 1, 1, 40_000)), "larger than any picture"),
        (said("settings", prompt=...), "no prompt"),
        (said("settings", prompt=3), "a prompt or seed that is none"),
        (said("settings", prompt="\ud800"), "settings cannot be read"),
        (said("settings", seed="7"), "a prompt or seed that is none"),
        (said("settings", seed=True), "a prompt or seed that is none"),
        (said("settings", size="96"), "size '96'"),
        (said("settings", size="99999x64"), "size '99999x64'"),
        (said("settings", size=96), "settings cannot be read"),
        (said("settings", drawn_size="31x64"), "size '31x64'"),
        (said("settings", **{"Bad Key": 1}), "a name that is none"),
        (said("finish", decode="tiles"), "decode 'tiles'"),
        (said("finish", tile=33), "tile 33"),
        (said("finish", tile=True), "tile True"),
        (said("finish", vae_precision="int3"), "precision 'int3'"),
        (said("finish", model=None), "settings cannot be read"),
        (said("finish", device=...), "settings cannot be read"),
        (said("finish", more=1), "settings cannot be read"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_finished(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = write_beside(tmp_path / "a.png", KEPT)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(SanaError, match=message) as caught:
        read(path)
    assert caught.value.code == ExitCode.CHECKPOINT
    assert str(caught.value).startswith(f"cannot finish {path}: ")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: rewritten(p, tensors=lambda t: t.pop("mask")), "'mask'"),
        (lambda p: rewritten(p, tensors=lambda t: t.pop("original")), "'original'"),
        (tensor("mask", torch.zeros(64, 96, dtype=torch.uint8)), "a mask that redraws nothing"),
        (tensor("mask", torch.ones(96, 64, dtype=torch.uint8)), r"a mask of \(96, 64\)"),
        (tensor("mask", torch.ones(64, 96)), "a mask of"),
        (tensor("original", torch.zeros(64, 96, 4, dtype=torch.uint8)), r"an original of shape \(64, 96, 4\)"),
    ],
)  # fmt: skip
def test_what_stays_must_fit(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = write_beside(tmp_path / "a.png", with_mask())
    damage(path)
    with pytest.raises(SanaError, match=message) as caught:
        read(path)
    assert caught.value.code == ExitCode.CHECKPOINT


def test_files_that_are_something_else(tmp_path: Path) -> None:
    picture, weights = tmp_path / "a.png", tmp_path / "w.safetensors"
    Image.new("RGB", (2, 2)).save(picture)
    save_file({"latents": latents()}, weights)
    for path, message in (
        (picture, "is a picture, not latents"),
        (weights, "holds no finished latents"),
        (tmp_path / "no", "no such file"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(SanaError, match=message) as caught:
            read(path)
        assert caught.value.code == ExitCode.USAGE
