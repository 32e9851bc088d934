"""Files appear whole or not at all, and killed writers leave nothing for long."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sana_cli.errors import SanaError
from sana_cli.files import check_writable, local_path, new_file


def age(path: Path, seconds: float = 3600) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with suppress(KeyboardInterrupt), new_file(path, overwrite=False) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with new_file(path, overwrite=False) as file:
        file.write(b"whole")
    with pytest.raises(SanaError, match="exists"), new_file(path, overwrite=False) as file:
        file.write(b"other")
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (b"whole", 1)


def test_file_of_a_killed_process(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom sana_cli.files import new_file\n"
        "with new_file(Path(sys.argv[1]), overwrite=False) as file:\n"
        "    file.write(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a.bin"], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    young = tmp_path / "young"  # a folder is looked through once a minute
    young.mkdir()
    shutil.copy2(left, young)
    with new_file(young / "b.bin", overwrite=False):
        assert (young / left.name).exists(), "too young to tell"
    age(left)
    with new_file(tmp_path / "c.bin", overwrite=False):
        assert not left.exists()


def test_files_of_others_stay(tmp_path: Path) -> None:
    """One that a living process holds, and ones of other names."""
    held, foreign = tmp_path / ".sana-x.tmp", tmp_path / "mine.tmp"
    foreign.write_text("mine")
    with held.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for path in (held, foreign):
            age(path)
        with new_file(tmp_path / "a.bin", overwrite=False):
            pass
        assert held.exists()
        assert foreign.exists()


@pytest.mark.parametrize("folder", ["new", "a folder/it's new"])
def test_the_hint_makes_the_folder(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = Path(folder, "a.png")
    with pytest.raises(SanaError, match="no such folder: ") as caught:
        check_writable(picture)
    command = caught.value.hint.removeprefix("create it: ").partition(";")[0]
    subprocess.run(command, shell=True, check=True)
    check_writable(picture)


def test_a_file_is_no_folder_to_create(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SanaError, match="file is not a folder") as caught:
        check_writable(tmp_path / "file" / "a.png")
    assert caught.value.hint == "choose another --output"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 300 + ".png", "a name in it is too long"),
        ("猫" * 100 + ".png", "a name in it is too long"),
        ("d/" * 3000 + "a.png", "it is too long"),
        ("a\0b", "it holds a NUL character"),
        ("~nosuchuser/a", "there is no such home folder"),
    ],
)
def test_what_cannot_be_a_path_says_why(text: str, reason: str) -> None:
    with pytest.raises(SanaError, match=f"cannot be a path: {reason}") as caught:
        local_path(text)
    assert caught.value.hint
    assert len(caught.value.message) < 200


def test_a_folder_goes_with_its_last_file(tmp_path: Path) -> None:
    """Those that were there stay, and so does one that somebody else writes to."""
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "new" / "er" / "a.bin"
    with suppress(KeyboardInterrupt), new_file(path, overwrite=False):
        raise KeyboardInterrupt
    assert [each.name for each in tmp_path.rglob("*")] == ["there"]
    with suppress(KeyboardInterrupt), new_file(path, overwrite=False):
        (path.parent.parent / "other").touch()
        raise KeyboardInterrupt
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["new", "other", "there"]
    with new_file(path, overwrite=False):
        pass
    assert path.is_file()
