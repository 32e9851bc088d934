"""Things that are no regular files, wherever a name leads to one: told in one line, at once, and left as they are."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.checkpoints.model_names import BUILTIN_FOLDER

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here"),
    pytest.mark.timeout(60),  # a reader of a pipe waits for ever
]
FAST = ("--size", "64x64", "--steps", "1", "--seed", "1")


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # what /dev/null is
    except OSError:
        pytest.skip("only root makes devices")


def state(path: Path) -> tuple[int, ...]:
    """All that tells one file from another, and its content from a later one; reading it changes nothing of it."""
    found = path.lstat()
    return (found.st_mode, found.st_ino, found.st_rdev, found.st_size, found.st_mtime_ns)


def circle(path: Path) -> None:
    path.symlink_to(path.name)


KINDS: dict[str, Callable[[Path], None]] = {"pipe": os.mkfifo, "device": device, "folder": os.mkdir}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@pytest.mark.parametrize("make", [*KINDS.values(), circle])
@pytest.mark.parametrize(
    "command",
    [
        "info {}.png",
        "generate --from {}.png",
        "generate x --image {}.png",
        "generate x --image picture.png --mask {}.png",
        "generate x --lora {}.safetensors",
        "generate x --model {}.pth",
        "generate x --model {}.safetensors",
        "decode {}.png.latents.safetensors",
        "info {}.pth",
        "bench --fail-if total>2*{}.json",
    ],
)
def test_what_is_read(
    sana: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    command: str,
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("picture.png")
    (name,) = (word for word in command.split() if "{}" in word)
    odd = Path(name.partition("*")[2] or name)
    odd = Path(str(odd).format("odd"))
    make(odd)
    before = state(odd)
    result = sana(*command.format("odd").split())
    assert result.code in (2, 4), result.err
    assert result.err.count("error: ") == 1, result.err
    assert "no such" not in result.err
    assert "Traceback" not in result.err
    assert state(odd) == before


@pytest.mark.parametrize("make", [device, os.mkdir, circle])
@pytest.mark.parametrize(
    "command",
    ["generate --prompts", "compare builtin builtin --prompts", "quantize builtin out --calibration-prompts"],
)  # fmt: skip
def test_prompts(
    sana: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    command: str,
) -> None:
    """A pipe is waited for, since shells make one of <(...)."""
    monkeypatch.chdir(tmp_path)
    make(Path("odd.txt"))
    result = sana(*command.split(), "odd.txt")
    assert result.code == 2
    assert result.err.startswith(("error: odd.txt", "error: cannot read odd.txt"))
    assert os.listdir() == ["odd.txt"]


@pytest.mark.parametrize(
    "command",
    [
        "generate x --preview-file odd.png -o odd.png --force",
        "bench --json odd.json --html odd.json",
        "decode a.png.latents.safetensors -o odd.png",
    ],
)
def test_circles_that_are_written(
    sana: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("odd.png", "odd.json"):
        circle(Path(name))
    result = sana(*command.split())
    assert (result.code, result.err.count("error: ")) == (2, 1), result.err
    assert sorted(os.listdir()) == ["odd.json", "odd.png"]


@kinds
@pytest.mark.parametrize(
    "command",
    [
        "generate x {} -o FILE",
        "generate x {} -o FILE --force",
        "generate x {} --preview-file FILE",
        "generate x {} --preview-file FILE --force -o other.png",
        "bench --json FILE.json",
        "bench --html FILE.html",
        "bench --plot FILE.svg",
        "config set steps 9",
        "config unset steps",
    ],
)
def test_what_is_written(
    sana: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command.format(" ".join(FAST)).replace("FILE", "odd.png").split()
    odd = tmp_path / next((word for word in words if word.startswith("odd")), "odd.toml")
    if "config" in words:
        monkeypatch.setenv("SANA_CONFIG", str(odd))
    make(odd)
    if make is os.mkdir and "generate" in words and "-o" in words and "--preview-file" not in words:
        assert sana(*words).code == 0, "a folder is where pictures go"
        return
    result = sana(*words)
    assert result.code in (2, 3), result.err
    assert result.err.count("error: ") == 1, result.err
    assert stat.S_IFMT(odd.lstat().st_mode) != stat.S_IFREG
    assert os.listdir(tmp_path) == [odd.name]


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "manifest.json",
        "sana.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
@pytest.mark.parametrize("command", ["info", "generate"])
def test_parts_of_a_model(
    sana: Callable[..., Any], tmp_path: Path, command: str, file: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(BUILTIN_FOLDER, model)
    (model / file.removesuffix(".index.json")).unlink(missing_ok=True)
    os.mkfifo(model / file)
    words = ("info", model) if command == "info" else ("generate", "x", "--model", model, *FAST)
    result = sana(*words, *(("-o", tmp_path / "a.png") if command == "generate" else ()))
    if result.code == 0:  # nobody asked for it
        assert command == "info" or not file.startswith(("transformer", "vae", "model_index"))
        return
    assert result.code in (2, 4), result.err
    assert result.err.count("error: ") == 1, result.err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: p.symlink_to("nowhere")])
@pytest.mark.parametrize(
    "name",
    ["a.png.latents.safetensors", ".sana-x.tmp", "cache/kernels.json", "cache/prompts"],
)
def test_what_lies_around(
    sana: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    name: str,
) -> None:
    """Under names of files of ours: it is not asked for, so nothing fails."""
    monkeypatch.chdir(tmp_path)
    if name.startswith("cache/"):  # an empty one has kernels measured again
        monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
        (tmp_path / "cache").mkdir()
    odd = tmp_path / name
    make(odd)
    os.utime(odd, (0, 0), follow_symlinks=False)
    result = sana("generate", "x", *FAST, "-o", "a.png")
    assert result.code == 0, result.err
    assert os.path.lexists(odd)
    assert not odd.is_file() or make not in (os.mkfifo, os.mkdir)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: p.symlink_to("nowhere")])
def test_a_history_that_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    from sana_cli.terminal.line_reader import _history

    monkeypatch.setenv("SANA_HISTORY", str(tmp_path / "history"))
    make(tmp_path / "history")
    assert _history() is None
    monkeypatch.setenv("SANA_HISTORY", str(tmp_path / "another"))
    assert _history() is not None


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.symlink_to("nowhere")])
@pytest.mark.parametrize(
    "name",
    [
        "out",
        ".out.partial",
        ".out.lock",
        ".out.old",
        ".out.partial/vae/model.safetensors",
        ".out.partial/vae/done.json",
    ],
)
def test_where_a_model_is_made(
    sana: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    name: str,
) -> None:
    """It is made all the same, or what is in the way is told; nothing is waited for or written to."""
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / name
    odd.parent.mkdir(parents=True, exist_ok=True)
    make(odd)
    result = sana("quantize", "builtin", "out", "--recipe", "w8a8", "--samples", "0")
    assert not (tmp_path / "nowhere").exists()
    if result.code == 0:
        assert (tmp_path / "out/manifest.json").is_file()
    else:
        assert result.code in (2, 3), result.err
        assert result.err.count("error: ") == 1, result.err
        assert os.path.lexists(odd)
