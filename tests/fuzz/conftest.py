"""How long inputs are tried, and what must hold for each of them.

By default a few of every kind, always the same ones. `SANA_FUZZ_INPUTS=20000` tries so many in all and prints the count,
`SANA_FUZZ_SECONDS=3600` (`make fuzz`) goes on for that long; both take new ones every time.
"""

import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.strategies import SearchStrategy

from sana_cli.errors import SanaError

FEW = 25  # inputs of a kind in the default run
INPUTS = int(os.environ.get("SANA_FUZZ_INPUTS", "0"))
SECONDS = float(os.environ.get("SANA_FUZZ_SECONDS", "0"))
SLOWEST_S = 5.0  # of the processor, for one input; pytest's own limit ends what waits
LARGEST = 2**29  # bytes that the process may grow by for one input
ROOM = 2**32  # bytes of address space that all inputs may take, beyond what libraries hold

_counts: Counter[str] = Counter()
_kinds = 1
_most = 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    global _kinds
    _kinds = max(1, sum("fuzz" in item.path.parts for item in items))
    for item in items:
        if "fuzz" in item.path.parts:
            item.add_marker(pytest.mark.timeout(2 * SECONDS / _kinds + INPUTS + 300))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _counts:
        kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(_counts.items()))
        most = _most / 2**20
        terminalreporter.write_line(
            f"fuzz: {_counts.total():,} inputs, memory grew by {most:.0f} MiB at most: {kinds}"
        )


@pytest.fixture(scope="session", autouse=True)
def _no_database() -> Iterator[None]:
    """Hypothesis keeps what it learns about the code in files: not in the checkout."""
    with tempfile.TemporaryDirectory(prefix="sana-fuzz-") as folder:
        set_hypothesis_home_dir(folder)
        yield


@pytest.fixture
def explore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give many inputs to a function: it may return, or raise SanaError (or one of `expected`), soon, without taking
    much memory, and without changing a file."""
    working, folder = tmp_path / "working", tmp_path / "folder"
    working.mkdir()
    folder.mkdir()
    monkeypatch.chdir(working)

    def run(
        parse: Callable[[Path, Any], object],
        inputs: SearchStrategy[Any],
        *expected: type[Exception],
    ) -> None:
        def check(value: Any) -> None:
            _counts[parse.__name__] += 1
            before = _files(tmp_path)
            told = "nothing"
            with _limited():
                try:
                    parse(folder, value)
                except (SanaError, *expected) as error:
                    told = str(error)
            assert told
            assert "more memory than there is" not in told
            after = _files(tmp_path)
            assert after == before, "a reader has changed files"

        _try_for_long(check, inputs)

    return run


def _try_for_long(check: Callable[[Any], None], inputs: SearchStrategy[Any]) -> None:
    share = -(-INPUTS // _kinds) if INPUTS else FEW
    end = time.monotonic() + SECONDS / _kinds
    while True:
        few = not (INPUTS or SECONDS)
        tried = settings(
            max_examples=1000 if SECONDS else share, deadline=None, database=None, derandomize=few,
            suppress_health_check=list(HealthCheck),
        )(given(inputs)(check))  # fmt: skip
        (tried if few else seed(random.getrandbits(64))(tried))()
        if time.monotonic() >= end:
            return


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below but the inputs, with what changes when it is written."""
    found = (path for path in folder.rglob("*") if path.is_file())
    own = (path for path in found if "/input" not in path.as_posix())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in own}


@contextmanager
def _limited() -> Iterator[None]:
    """Fail where a block takes long, or the process grows by much."""
    global _most
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, hard))
    start, peak = time.process_time(), _peak()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    grown, taken = _peak() - peak, time.process_time() - start
    _most = max(_most, grown)
    assert grown < LARGEST, f"memory grew by {grown:,} bytes"
    assert taken < SLOWEST_S, f"took {taken:.1f} s"


def _peak() -> int:
    """The most that this process ever held, in bytes (kilobytes on Linux)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
