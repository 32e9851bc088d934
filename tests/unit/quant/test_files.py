"""Things of a file system that are no regular files: never waited for, never replaced, never read without end."""

import os
import socket
import stat
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from quant.files import changing, new_file, open_regular, read_small, read_small_text


def device(path: Path) -> None:
    """What /dev/null is, by another name."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except OSError:
        pytest.skip("only root makes devices")


def local_socket(path: Path) -> None:
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


KINDS: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "device": device,
    "folder": os.mkdir,
    "socket": local_socket,
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@pytest.fixture(autouse=True)
def _back_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@kinds
@pytest.mark.parametrize("by_link", [False, True], ids=["itself", "by a link"])
def test_only_regular_files_are_read(
    tmp_path: Path, make: Callable[[Path], None], by_link: bool
) -> None:
    path = tmp_path / "x"
    make(path)
    if by_link:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    with pytest.raises(OSError, match=r"regular|directory|device or address"):
        read_small(path)


@kinds
@pytest.mark.parametrize("overwrite", [False, True])
def test_only_regular_files_are_replaced(
    tmp_path: Path, make: Callable[[Path], None], overwrite: bool
) -> None:
    path = tmp_path / "x"
    make(path)
    before = path.lstat()
    with pytest.raises(OSError, match=r"regular|directory"), new_file(path, overwrite=overwrite):
        pass
    assert (path.lstat().st_mode, path.lstat().st_rdev) == (before.st_mode, before.st_rdev)
    assert os.listdir(tmp_path) == ["x"]


@kinds
def test_one_that_appears_while_the_file_is_written(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "x"
    with pytest.raises(OSError, match=r"regular|directory"), new_file(path, overwrite=True):
        make(path)
    assert not stat.S_ISREG(path.lstat().st_mode)


@kinds
def test_old_temporary_files_that_are_none(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A folder that others write to may hold anything under our names."""
    odd = tmp_path / ".sana-x.tmp"
    make(odd)
    os.utime(odd, (0, 0))
    with new_file(tmp_path / "a", overwrite=False) as file:
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert os.path.lexists(odd)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to("target")
    with new_file(tmp_path / "link", overwrite=True) as file:
        file.write(b"ours")
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


def test_a_small_file_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_small(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_small(tmp_path / "x", 4)
    tracemalloc.start()
    read_small(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 2**20, "the limit's size is not taken"
    tracemalloc.stop()
    assert len(read_small(Path("/proc/self/status"))) > 100, "which says that it is empty"


def test_the_mark_of_some_editors_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfsteps = 9\r\n")
    assert read_small_text(tmp_path / "x") == "steps = 9\r\n"


def test_a_regular_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(3 * 2**20))
    with open_regular(tmp_path / "x") as file:
        assert len(file.read()) == 3 * 2**20


def test_changes_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "new folder/count"

    def count() -> None:
        for _ in range(20):
            with changing(path):
                value = int(path.read_text()) if path.exists() else 0
                with new_file(path, overwrite=True) as file:
                    file.write(str(value + 1).encode())

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "80"
    assert os.listdir(path.parent) == ["count"], "no lock stays"


def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with changing(path), pytest.raises(TimeoutError, match="another process"):  # noqa: SIM117
        with changing(path, patience_s=0.02):
            pass
