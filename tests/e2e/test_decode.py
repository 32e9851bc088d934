"""Nothing is lost: latents are kept while they are decoded, and `sana decode` makes the same picture of them."""

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings
from sana_cli.pipeline import latents_file
from tests.faults import before_new_files, full_disk, killed_at, raising
from tests.pictures import names, pixels

FAST = ("--size", "96x64", "--steps", "2", "--seed", "3", "--device", "cpu", "--precision", "fp32")
KEPT = "a.png.latents.safetensors"


@pytest.fixture(scope="module")
def runs(
    sana: Callable[..., Any],
    before_computing: Callable[..., Any],
    pipelines: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the picture of an unbroken run, and the latents of one that was interrupted in its decoder."""
    folder = tmp_path_factory.mktemp("runs")
    words = ("generate", "A Fox", "-m", pipelines.folder("plain"), *FAST)
    assert sana(*words, "-o", folder / "whole.png").code == 0
    with before_computing("decode", raising(KeyboardInterrupt())):
        result = sana(*words, "-o", folder / "a.png")
    assert result.code == ExitCode.INTERRUPTED
    assert result.err.splitlines() == [
        "error: interrupted",
        f"hint: the finished latents are kept: sana decode {folder / KEPT}",
    ]
    return folder


@pytest.fixture
def whole(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(runs / "whole.png", tmp_path))


@pytest.fixture
def kept(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(runs / KEPT, tmp_path))


# -- ways to decode --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--decode", "whole"), "whole"),
        (("--decode", "auto"), "whole"),
        (("--decode", "exact-tiles"), "exact-tiles 512"),
        (("--decode", "exact-tiles", "--tile", 32), "exact-tiles 32"),
        (("--tile", 64), "exact-tiles 64"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_same_picture(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    whole: Path,
    options: tuple[object, ...],
    told: str,
) -> None:
    path = tmp_path / "a.png"
    result = sana("generate", "A Fox", "-m", tiny_model, "-o", path, *FAST, *options, "--json")
    assert result.code == 0, result.err
    assert result.document["images"][0]["decode"] == told
    assert np.abs(pixels(path) - pixels(whole)).max() <= 1, "rounding"
    decode = {} if told == "whole" else {"decode": told}
    assert read_settings(path) == {**read_settings(whole), **decode}
    assert names(tmp_path) == ["a.png", "whole.png"], "nothing else stays"


def test_blended_tiles_are_told(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, whole: Path
) -> None:
    path = tmp_path / "a.png"
    options = ("--decode", "blended-tiles", "--tile", 32)
    result = sana("generate", "A Fox", "-m", tiny_model, "-o", path, *FAST, *options)
    assert "decoded in blended-tiles 32" in result.out
    assert np.abs(pixels(path) - pixels(whole)).max() > 1
    assert read_settings(path)["decode"] == "blended-tiles 32"
    assert "--decode blended-tiles --tile 32" in sana("info", path).out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tile", "100"), "cannot decode in tiles of 100 pixels"),
        (("--tile", "0"), "cannot decode in tiles of 0 pixels"),
        (("--tile", "-32"), "cannot decode in tiles of -32 pixels"),
        (("--tile", "99968"), "cannot decode in tiles of 99968 pixels"),
        (("--tile", "64", "--decode", "whole"), "--decode whole has no tiles"),
        (("--tile", "64", "--decode", "auto"), "--decode auto has no tiles"),
        (("--decode", "tiles"), "--decode: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
@pytest.mark.parametrize("command", [("generate", "x"), ("decode", "x.latents.safetensors")])
def test_bad_options(
    sana: Callable[..., Any], command: tuple[str, ...], options: tuple[str, ...], message: str
) -> None:
    result = sana(*command, *options)
    assert result.code == ExitCode.USAGE
    assert message in result.err


@pytest.mark.parametrize("gpu", [{"total": 200 << 20}], indirect=True)
def test_auto_takes_tiles_under_pressure(
    gpu: Any, sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    words = ("generate", "A Fox", "-m", tiny_model, *FAST, "--size", "1024x64")
    assert sana(*words, "-o", tmp_path / "whole.png").code == 0
    result = sana(*words, "--device", "cuda", "--backend", "reference", "-o", tmp_path / "a.png")
    assert result.code == 0, result.err
    assert "decode exact-tiles 128" in result.err
    assert "the smallest, and it may not be enough; predicted peak" in result.err
    assert np.abs(pixels(tmp_path / "a.png") - pixels(tmp_path / "whole.png")).max() <= 1


# -- failures --------------------------------------------------------------------------------------

OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["python", "cuda", "cpu"])
@pytest.mark.parametrize("failures", [1, 2])
def test_out_of_memory_takes_tiles(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    at_stage: Callable[..., Any],
    error: BaseException,
    failures: int,
) -> None:
    there: list[list[str]] = []
    fail = raising(error, failures)

    def decode() -> None:
        there.append(names(tmp_path))
        fail()

    path = tmp_path / "a.png"
    with at_stage("decode", decode):
        result = sana(
            "generate", "x", "-m", tiny_model, "-o", path, *FAST, "--size", "1024x64", "--count", 2,
            "--json",
        )  # fmt: skip
    assert result.code == 0, result.err
    assert there[:failures] == [["a-3.png.latents.safetensors"]] * failures
    took = ["whole", "whole", "exact-tiles 512"][failures]
    drawn = [image["decode"] for image in result.document["images"]]
    assert drawn == [took] * 2
    assert result.err.count("out of memory") == failures, "the second picture knows already"
    assert "out of memory: decode whole; trying without the transformer" in result.err
    assert ("trying exact-tiles 512" in result.err) == (failures == 2)
    assert names(tmp_path) == ["a-3.png", "a-4.png"]


def test_out_of_memory_to_the_end(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    whole: Path,
    before_computing: Callable[..., Any],
) -> None:
    options = ("-m", tiny_model, "-o", tmp_path / "a.png", *FAST, "--size", "1024x64")
    with before_computing("decode", raising(MemoryError())):
        result = sana("generate", "x", *options)
    assert result.code == ExitCode.ENVIRONMENT
    lines = result.err.splitlines()
    sides = [line.rpartition(" ")[2] for line in lines if "trying exact-tiles" in line]
    assert sides == ["512", "256", "128"]
    assert "error: out of memory at 1024x64" in lines
    assert lines[-1].endswith(f"the finished latents are kept: sana decode {tmp_path / KEPT}")
    assert sana("decode", tmp_path / KEPT, "--device", "cpu").code == 0
    assert names(tmp_path) == ["a.png", "whole.png"]


@pytest.mark.parametrize("stage", ["load decode", "decode", "save"])
@pytest.mark.parametrize("command", ["generate", "decode"])
def test_interrupted_anywhere(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    whole: Path,
    kept: Path,
    at_stage: Callable[..., Any],
    stage: str,
    command: str,
) -> None:
    """Also an interrupted `sana decode` loses nothing, and drawing again takes the same file."""
    with at_stage(stage, raising(KeyboardInterrupt())):
        if command == "decode":
            result = sana("decode", kept, "--device", "cpu")
        else:
            result = sana("generate", "A Fox", "-m", tiny_model, "-o", tmp_path / "a.png", *FAST)
    assert result.code == ExitCode.INTERRUPTED
    assert f"sana decode {kept}" in result.err
    assert names(tmp_path) == [KEPT, "whole.png"]
    result = sana("decode", kept, "--device", "cpu", "--quiet")
    assert (result.code, result.err, result.out) == (0, "", f"{tmp_path / 'a.png'}\n")
    assert (tmp_path / "a.png").read_bytes() == whole.read_bytes(), "settings too"
    assert names(tmp_path) == ["a.png", "whole.png"]


def test_unfinished_pictures_of_one_name(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, kept: Path
) -> None:
    """Another picture under the same name leaves the unfinished one alone; the same one replaces it."""
    options = ("-m", tiny_model, "-o", tmp_path / "a.png", *FAST, "--force")
    assert sana("generate", "another", *options).code == 0
    assert names(tmp_path) == ["a.png", KEPT]
    assert sana("generate", "A Fox", *options).code == 0
    assert names(tmp_path) == ["a.png"]


def test_second_unfinished_picture(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    kept: Path,
    before_computing: Callable[..., Any],
) -> None:
    options = ("-m", tiny_model, "-o", tmp_path / "a.png", *FAST)
    with before_computing("decode", raising(KeyboardInterrupt())):
        assert sana("generate", "another", *options).code == ExitCode.INTERRUPTED
    second = "a.png-2.latents.safetensors"
    assert names(tmp_path) == [second, KEPT]
    assert sana("decode", tmp_path / second, "--device", "cpu").code == 0
    assert read_settings(tmp_path / "a.png")["prompt"] == "another"


def test_latents_of_one_name_at_once(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every one has found the same name free when they begin to write; tries at the same picture share a file."""
    first = latents_file.read(kept)
    prompts = ["A Cat", "A Cat", "A Cow", "A Dog"]
    barrier = threading.Barrier(len(prompts))

    def together() -> None:
        with suppress(threading.BrokenBarrierError):
            barrier.wait(2)
        barrier.abort()  # only the first time

    # How each begins to write.
    monkeypatch.setattr(os, "open", before_new_files(tmp_path, together))
    written: list[tuple[str, Path]] = []

    def work(prompt: str) -> None:
        mine = replace(first, settings={**first.settings, "prompt": prompt})
        written.append((prompt, latents_file.write_beside(tmp_path / "b.png", mine)))

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == len(prompts)
    assert len({path for _, path in written}) == 3
    for prompt, path in written:
        assert latents_file.read(path).settings["prompt"] == prompt


def test_latents_that_cannot_be_kept(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk spoils the precaution, not the picture."""
    # The first file shows that the folder can be written, the third is the picture.
    monkeypatch.setattr(os, "open", full_disk(tmp_path, {2}))
    result = sana("generate", "x", "-m", tiny_model, "-o", tmp_path / "a.png", *FAST)
    assert result.code == 0, result.err
    assert "finished latents are not kept: cannot write " in result.err
    assert "No space left on device" in result.err
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("stage", ["load decode", "decode", "save"])
def test_kill(tiny_model: Path, tmp_path: Path, whole: Path, stage: str, sana: Any) -> None:
    """SIGKILL in a process of its own, which can clean up nothing."""
    killed_at(stage, "generate", "A Fox", "-m", tiny_model, "-o", tmp_path / "a.png", *FAST)
    for part in tmp_path.glob(".sana-*.tmp"):  # of a picture, removed a minute later
        assert stage == "save"
        part.unlink()
    assert names(tmp_path) == [KEPT, "whole.png"]
    assert sana("decode", tmp_path / KEPT, "--device", "cpu").code == 0
    assert (tmp_path / "a.png").read_bytes() == whole.read_bytes()
    assert names(tmp_path) == ["a.png", "whole.png"]


# -- sana decode -----------------------------------------------------------------------------------


def test_built_in_model(
    sana: Callable[..., Any],
    before_computing: Callable[..., Any],
    tmp_path: Path,
) -> None:
    options = ("a red circle", "--steps", 1, "--seed", 1, "--device", "cpu")
    require_same_picture(sana, before_computing, tmp_path, options)


def require_same_picture(
    sana: Callable[..., Any],
    before_computing: Callable[..., Any],
    folder: Path,
    options: tuple[object, ...],
) -> None:
    """Finished by `sana decode` after an interruption, to the byte the one that was not interrupted."""
    assert sana("generate", *options, "-o", folder / "whole.png").code == 0
    with before_computing("decode", raising(KeyboardInterrupt())):
        sana("generate", *options, "-o", folder / "a.png")
    assert sana("decode", folder / KEPT, "--device", "cpu").code == 0
    assert (folder / "a.png").read_bytes() == (folder / "whole.png").read_bytes()


def test_document(sana: Callable[..., Any], tiny_model: Path, whole: Path, kept: Path) -> None:
    document = sana("decode", kept, "--device", "cpu", "--json", "--tile", 32).document
    assert document["model"] == tiny_model.name
    assert document["precision"] == "fp32"
    (image,) = document["images"]
    assert image["path"] == str(kept.parent / "a.png")
    assert (image["seed"], image["width"], image["height"]) == (3, 96, 64)
    assert image["decode"] == "exact-tiles 32"
    assert image["settings"] == {**read_settings(whole), "decode": "exact-tiles 32"}
    assert image["seconds"]["decode"] > 0
    assert image["seconds"]["denoise"] == 0


@pytest.mark.parametrize("command", ["generate", "decode"])
def test_a_cap_that_allocations_are_held_to(
    sana: Callable[..., Any],
    kept: Path,
    tiny_model: Path,
    before_computing: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    gpu: Any,
    command: str,
) -> None:
    """On a CUDA device: it may be the cap that is in the way, whoever set it."""
    monkeypatch.setenv("SANA_MAX_MEMORY", "4GiB")
    words: tuple[object, ...] = ("decode", kept, "--device", "cuda")
    if command == "generate":
        words = ("generate", "x", "-m", tiny_model, "-o", kept.parent / "b.png", *FAST, "--device", "cuda")  # fmt: skip
    with before_computing("decode", raising(MemoryError())):
        told = sana(*words).err
    assert ", limit 4.00 GiB, set by SANA_MAX_MEMORY\nhint: give a higher --max-memory, " in told
    monkeypatch.delenv("SANA_MAX_MEMORY")
    with before_computing("decode", raising(MemoryError())):
        free = sana("decode", kept, "--device", "cuda").err
    assert "out of memory" in free
    assert "--max-memory" not in free
    assert "--size" not in free, "which this command has not"


def test_a_cap(
    sana: Callable[..., Any],
    kept: Path,
    before_computing: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    gpu: Any,
) -> None:
    """As for `sana generate`, with remedies that this command has."""
    held: set[float] = set()  # of the device's 24 GiB
    refused = sana("decode", kept, "--device", "cpu", "--max-memory", "64MiB")
    assert refused.code == ExitCode.USAGE
    assert "no plan fits into 64 MiB" in refused.err
    assert re.search(r"hint: use --max-memory \d+MiB: Python and torch alone take ", refused.err)
    refused = sana("decode", kept, "--device", "cpu", "--max-memory", "64MiB", "--tile", 32)
    assert "error: decode exact-tiles 32 needs " in refused.err
    assert re.search(r"hint: use --max-memory \d+MiB: Python and torch alone take ", refused.err)
    monkeypatch.setenv("SANA_MAX_MEMORY", "64MiB")
    assert "into 64 MiB, set by SANA_MAX_MEMORY: the" in sana("decode", kept, "--device", "cpu").err
    monkeypatch.delenv("SANA_MAX_MEMORY")
    assert kept.is_file()
    with before_computing("decode", lambda: held.add(gpu.memory.fraction)):
        result = sana("decode", kept, "--device", "cuda", "--max-memory", "4GiB")
    assert result.code == 0, result.err
    assert "limit 4.00 GiB" in result.err
    assert held == {4 / 24}
    assert gpu.memory.fraction == 1


def test_what_resizing_takes_is_planned(sana: Callable[..., Any], kept: Path) -> None:
    """A size in a file of a kilobyte stands for gigabytes."""
    rewrite(kept, setting("settings", "size", "12000x8000"))
    result = sana("decode", kept, "--device", "cpu", "--max-memory", "1GiB")
    assert result.code == ExitCode.USAGE
    assert "no plan fits into 1.00 GiB" in result.err
    assert kept.is_file()


def test_resized_pictures(
    sana: Callable[..., Any],
    before_computing: Callable[..., Any],
    pipelines: Any,
    tmp_path: Path,
) -> None:
    """With --bins the picture is not of the size that was drawn; a way to decode is kept too."""
    options = (
        "x", "-m", pipelines.folder("native_512"), "--width", 100, "--height", 57, "--bins", "--steps", 1,
        "--seed", 1, "--device", "cpu", "--decode", "blended-tiles", "--tile", 128,
    )  # fmt: skip
    require_same_picture(sana, before_computing, tmp_path, options)


def test_output(sana: Callable[..., Any], whole: Path, kept: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(kept, copy)
    shutil.copy(kept, tmp_path / "c.png.latents.safetensors")
    result = sana("decode", copy, "--device", "cpu")
    assert result.code == ExitCode.USAGE
    assert "the picture's name does not follow from copy" in result.err
    (tmp_path / "b.png").write_text("mine")
    result = sana("decode", copy, "--device", "cpu", "-o", tmp_path / "b.png")
    assert (result.code, (tmp_path / "b.png").read_text()) == (ExitCode.USAGE, "mine")
    assert "b.png exists" in result.err
    assert sana("decode", copy, "--device", "cpu", "-o", tmp_path / "b.png", "--force").code == 0
    assert (tmp_path / "b.png").read_bytes() == whole.read_bytes()
    folder = tmp_path / "folder"
    folder.mkdir()
    assert sana("decode", kept, "--device", "cpu", "-o", folder).code == 0
    assert names(folder) == ["a.png"]
    new = f"{folder}/new/er/"
    result = sana("decode", tmp_path / "c.png.latents.safetensors", "--device", "cpu", "-o", new)
    assert (result.code, names(Path(new))) == (0, ["c.png"])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("b.gif", "saved as .png"),
        ("no/b.png", "no such folder"),
        ("", "--output is empty"),
    ],
)
def test_bad_output(sana: Callable[..., Any], kept: Path, output: str, message: str) -> None:
    target = f"{kept.parent}/{output}" if output else ""
    result = sana("decode", kept, "-o", target)
    assert result.code == ExitCode.USAGE
    assert message in result.err
    assert kept.is_file()


def test_broken_values(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, kept: Path
) -> None:
    """A decoder with a NaN: a clear end, and the latents stay for a better one."""
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken" / tiny_model.name))
    path = broken / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_out.bias"][0] = torch.inf
    save_file(tensors, path)
    result = sana("decode", kept, "-m", broken, "--device", "cpu")
    assert result.code == ExitCode.CHECKPOINT
    assert f"sana decode {kept}" in result.err
    assert kept.is_file()
    assert not (tmp_path / "a.png").exists()


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, str]], None]) -> None:
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def setting(name: str, key: str, value: object) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def change(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        metadata[name] = json.dumps(json.loads(metadata[name]) | {key: value})

    return change


CHANGES: dict[str, tuple[Callable[..., Any], str]] = {
    "nan": (lambda t, m: t["latents"].view(-1)[5].fill_(torch.nan), "hold NaN"),
    "infinite": (lambda t, m: t["latents"].view(-1)[5].fill_(torch.inf), "infinite values"),
    "no batch": (lambda t, m: t.update(latents=t["latents"][0]), "have the shape (32, 2, 3)"),
    "two pictures": (
        lambda t, m: t.update(latents=t["latents"].repeat(2, 1, 1, 1)),
        "have the shape (2, 32, 2, 3)",
    ),
    "empty": (lambda t, m: t.update(latents=torch.zeros(1, 32, 0, 3)), "have the shape"),
    "other size": (lambda t, m: t.update(latents=torch.ones(1, 32, 3, 3)), "are none of a 96x64"),
    "half": (lambda t, m: t.update(latents=t["latents"].half()), "are torch.float16"),
    "huge": (lambda t, m: t.update(latents=t["latents"] * 1e30), "which no model draws"),
    "no tensor": (lambda t, m: t.update(other=t.pop("latents")), "have the shape None"),
    "channels": (
        lambda t, m: t.update(latents=torch.ones(1, 16, 2, 3)),
        "of 16 channels do not fit",
    ),
    "newer": (lambda t, m: m.update(format_version="3"), "format version is '3', not 1 or 2"),
    "no original": (
        lambda t, m: m.update(format_version="2"),
        "settings cannot be read: 'original'",
    ),
    "another original": (
        lambda t, m: (
            m.update(format_version="2"),
            t.update(original=torch.zeros(8, 8, 3, dtype=torch.uint8), mask=torch.zeros(8, 8)),
        ),
        "an original of shape (8, 8, 3) and a mask of (8, 8)",
    ),
    "no settings": (lambda t, m: m.pop("settings"), "settings cannot be read"),
    "settings": (lambda t, m: m.update(settings="{"), "settings cannot be read"),
    "settings list": (lambda t, m: m.update(settings="[]"), "settings cannot be read"),
    "deep": (lambda t, m: m.update(settings="[" * 100_000), "settings cannot be read"),
    "prompt": (setting("settings", "prompt", 3), "settings cannot be read"),
    "half a character": (setting("settings", "prompt", "\ud800"), "settings cannot be read"),
    "seed": (setting("settings", "seed", "3"), "settings cannot be read"),
    "size": (setting("settings", "size", "huge"), "settings cannot be read"),
    "size of zero": (setting("settings", "size", "00x00"), "settings cannot be read: size"),
    "a thin size": (setting("settings", "size", "16384x00"), "settings cannot be read: size"),
    "a large size": (setting("settings", "size", "99999x99999"), "settings cannot be read: size"),
    "size of numbers": (setting("settings", "size", [96, 64]), "settings cannot be read"),
    "empty mask": (
        lambda t, m: (
            m.update(format_version="2"),
            t.update(
                original=torch.zeros(64, 96, 3, dtype=torch.uint8),
                mask=torch.zeros(64, 96, dtype=torch.uint8),
            ),
        ),
        "a mask that redraws nothing",
    ),
    "large tensor": (
        lambda t, m: t.update(latents=torch.zeros(1, 1, 1, 20_000)),
        "larger than any picture",
    ),
    "large tile": (setting("finish", "tile", 32 * 10**400), "settings cannot be read"),
    "key": (setting("settings", "a\nb", 1), "settings cannot be read"),
    "mode": (setting("finish", "decode", "magic"), "settings cannot be read"),
    "tile": (setting("finish", "tile", 33), "settings cannot be read"),
    "precision": (setting("finish", "vae_precision", "int3"), "settings cannot be read"),
    "field": (setting("finish", "more", 1), "settings cannot be read"),
}


@pytest.mark.parametrize("damage", CHANGES)
def test_damaged_file(sana: Callable[..., Any], kept: Path, damage: str) -> None:
    change, message = CHANGES[damage]
    rewrite(kept, change)
    before = kept.read_bytes()
    refused(sana, kept, ExitCode.CHECKPOINT, message)
    assert kept.read_bytes() == before


def refused(sana: Callable[..., Any], path: Path, code: ExitCode, message: str) -> None:
    result = sana("decode", path, "--device", "cpu")
    lines = result.err.splitlines()
    assert (result.code, result.out) == (code, ""), result.err
    assert message in lines[0]
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2
    assert not (path.parent / "a.png").exists()


@pytest.mark.parametrize("length", [0, 4, 100, -4])
def test_truncated_file(sana: Callable[..., Any], kept: Path, length: int) -> None:
    kept.write_bytes(kept.read_bytes()[:length])
    refused(sana, kept, ExitCode.CHECKPOINT, "not a whole safetensors file")


def test_files_of_another_kind(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    refused(sana, tmp_path / "none", ExitCode.USAGE, "no such file")
    refused(sana, tmp_path, ExitCode.USAGE, "is a folder, not a file")
    weights = tiny_model / "vae/diffusion_pytorch_model.safetensors"
    refused(sana, weights, ExitCode.USAGE, "holds no finished latents")
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG" * 10)
    refused(sana, path, ExitCode.USAGE, "is a picture, not latents")


def test_model_that_is_gone(
    sana: Callable[..., Any], tiny_model: Path, kept: Path, tmp_path: Path, whole: Path
) -> None:
    rewrite(kept, setting("finish", "model", str(tmp_path / "gone")))
    result = sana("decode", kept, "--device", "cpu")
    assert result.code == ExitCode.USAGE
    assert "cannot open the model that drew this" in result.err
    assert "hint: name the model: --model" in result.err
    assert sana("decode", kept, "--device", "cpu", "--model", tiny_model).code == 0
    assert (tmp_path / "a.png").read_bytes() == whole.read_bytes()


def test_another_model(sana: Callable[..., Any], kept: Path) -> None:
    result = sana("decode", kept, "--device", "cpu", "--model", "builtin")
    assert result.code == 0
    assert "another decoder makes another picture of it" in result.err


def test_onto_the_latents_themselves(sana: Callable[..., Any], kept: Path) -> None:
    path = kept.with_name("latents.png")
    kept.rename(path)
    before = path.read_bytes()
    result = sana("decode", path, "-o", path, "--force", "--device", "cpu")
    assert result.code == ExitCode.USAGE
    assert "holds the latents themselves" in result.err
    assert path.read_bytes() == before


def test_latents_that_cannot_be_removed(
    sana: Callable[..., Any], kept: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that is read-only: the picture is there, so the command has done its work."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == kept:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        os.unlink(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    result = sana("decode", kept, "--device", "cpu")
    assert result.code == 0, result.err
    assert "cannot be removed: Read-only file system" in result.err
    assert kept.with_name("a.png").read_bytes() == whole.read_bytes()
