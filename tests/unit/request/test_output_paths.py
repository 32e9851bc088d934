"""Where pictures go: one name a picture, none that is taken, folders only where they are or are asked for."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError
from sana_cli.request.output_paths import planned, require_picture


def names(
    output: str | None, builtin: Checkpoint, *, count: int = 1, overwrite: bool = False
) -> list[str]:
    options = GenerationOptions(prompt="A Red Fox!", seed=7, count=count, output=output)
    return [str(path) for _, path in planned(options, builtin, overwrite=overwrite)]


def test_usual_names(builtin: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names(None, builtin) == ["a-red-fox-7.png"]
    assert names(str(tmp_path), builtin, count=2) == [
        str(tmp_path / f"a-red-fox-{seed}.png") for seed in (7, 8)
    ]
    (tmp_path / "a-red-fox-7.png").touch()
    assert names(None, builtin) == ["a-red-fox-7-2.png"], "nothing is replaced"
    assert names(None, builtin, overwrite=True) == ["a-red-fox-7.png"]


def test_each_picture_is_named_after_its_own_prompt(builtin: Checkpoint, tmp_path: Path) -> None:
    """Wildcards choose another prompt for each seed."""
    options = GenerationOptions(
        prompt="{cat|dog|fox}", wildcards=True, seed=1, count=8, output=str(tmp_path)
    )
    pictures = planned(options, builtin, overwrite=False)
    assert len({params.prompt for params, _ in pictures}) > 1
    assert [path.name for _, path in pictures] == [f"{p.prompt}-{p.seed}.png" for p, _ in pictures]


def test_a_name_of_one_s_own(builtin: Checkpoint, tmp_path: Path) -> None:
    fox = str(tmp_path / "fox.png")
    assert names(fox, builtin) == [fox]
    assert names(fox, builtin, count=2) == [str(tmp_path / f"fox-{seed}.png") for seed in (7, 8)]
    Path(fox).touch()
    with pytest.raises(SanaError, match="exists"):
        names(fox, builtin)
    assert names(fox, builtin, overwrite=True) == [fox]


def test_a_pattern(builtin: Checkpoint, tmp_path: Path) -> None:
    assert names(f"{tmp_path}/{{index}}-{{slug}}-{{seed}}.png", builtin, count=2) == [
        f"{tmp_path}/1-a-red-fox-7.png",
        f"{tmp_path}/2-a-red-fox-8.png",
    ]
    with pytest.raises(SanaError, match="has 1 name for 2 pictures"):
        names(f"{tmp_path}/{{slug}}.png", builtin, count=2)


@pytest.mark.parametrize(
    ("output", "name"),
    [("new/", "new/a-red-fox-7.png"), ("new/{seed}.png", "new/7.png"), ("new/{slug}/x.png", "new/a-red-fox/x.png")],
)  # fmt: skip
def test_a_folder_or_pattern_needs_no_folder_that_is_there(
    builtin: Checkpoint, tmp_path: Path, output: str, name: str
) -> None:
    assert names(f"{tmp_path}/{output}", builtin) == [f"{tmp_path}/{name}"]
    assert list(tmp_path.iterdir()) == [], "only when something is drawn"
    (tmp_path / "new").touch()
    with pytest.raises(SanaError, match="new is no"):
        names(f"{tmp_path}/{output}", builtin)


@pytest.mark.parametrize(
    ("name", "message"),
    [("fox.gif", "pictures are saved as .png, .jpg or .webp"), ("nowhere/fox.png", "no such folder"), ("fox", "saved as .png")],
)  # fmt: skip
def test_names_that_cannot_be(builtin: Checkpoint, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SanaError, match=message):
        names(str(tmp_path / name), builtin)


def _device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # what /dev/null is
    except OSError:
        pytest.skip("only root makes devices")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
@pytest.mark.parametrize("make", [os.mkfifo, _device, _socket])
def test_what_is_no_regular_file_gets_no_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    """`-o /dev/null` is no forgotten suffix: /dev/null.png would be a file among devices."""
    monkeypatch.chdir(tmp_path)
    make(Path("null"))
    with pytest.raises(SanaError, match="null is not a regular file") as caught:
        require_picture(Path("null"), False)
    assert "null.png" not in caught.value.hint
