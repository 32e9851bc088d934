"""What nodes are asked before any work, and the line that names the first that cannot draw."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sana_cli import __version__
from sana_cli.cluster.probe import judge, look, sign
from sana_cli.cluster.sizing import Node
from sana_cli.errors import ExitCode, SanaError
from sana_cli.progress import SilentReporter
from tests.unit.cluster.conftest import Planned

NODE = Node(name="n1/abc", id="1", cpus=2, gpus=0, memory=2**30)
GOOD = {"version": __version__, "python": "3.11.2", "gpu_memory": None, "model": None}


class Notices(SilentReporter):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def notice(self, message: str) -> None:
        self.heard.append(message)


def judged(answer: Any, *, offline: bool = False, model: str = "sana-0.6b") -> list[str]:
    reporter = Notices()
    judge([NODE], [answer], offline=offline, model=model, reporter=reporter)
    return reporter.heard


@pytest.mark.parametrize("remote", [False, True])
def test_a_node_that_shares_all(
    planned: Callable[..., Planned], tmp_path: Path, remote: bool, in_a_process: Callable[..., Any]
) -> None:
    setup = planned("a fox", url=f"file://{tmp_path}/remote" if remote else "").setup
    folder = None if remote else tmp_path / "out"
    with sign(setup, folder) as left:
        elsewhere = replace(setup, output=f"file://{tmp_path}/other" if remote else "")
        other = {
            **left,
            "name": left["name"] if remote else str(tmp_path / Path(left["name"]).name),
        }
        answer, lost = in_a_process(look, (asdict(setup), left), (asdict(elsewhere), other))
    assert "problem" not in answer, answer
    assert answer["model"] is None
    assert judged(answer) == []
    assert "does not see the output" in lost["problem"]["message"]
    places = [tmp_path / "out", *([tmp_path / "remote"] if remote else [])]
    assert [p for place in places for p in place.iterdir()] == [], "no sign stays"


@pytest.fixture
def in_a_process() -> Callable[..., Any]:
    """Call a function in a process of its own, with each of several arguments: it changes the working folder and the allocator, as a worker may."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    def call(function: Callable[..., Any], *calls: tuple[Any, ...]) -> list[Any]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return [pool.submit(function, *arguments).result() for arguments in calls]

    return call


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({**GOOD, "version": "0.0.9"}, "node n1/abc has sana 0.0.9, this machine"),
        ({**GOOD, "problem": {"message": "does not see the output /out", "hint": "share it"}}, "does not see"),
        ({**GOOD, "model": {"message": "m holds other files on this machine", "hint": ""}}, "other files"),
        (RuntimeError("No module named 'sana_cli'"), "node n1/abc has no sana"),
        (RuntimeError("ImportError: cannot import name 'look'"), "another installation"),
        (TimeoutError("no answer within 120 s"), "does not answer: no answer within 120 s"),
    ],
    ids=["version", "output", "model", "no sana", "old sana", "silent"],
)  # fmt: skip
def test_a_node_that_cannot_draw_is_named(answer: Any, words: str) -> None:
    with pytest.raises(SanaError, match=words) as error:
        judged(answer)
    assert error.value.code == ExitCode.ENVIRONMENT


def test_a_model_that_is_not_there_yet_is_downloaded_unless_offline(tmp_path: Path) -> None:
    absent = {**GOOD, "model": {"message": "sana-0.6b is not downloaded", "hint": "sana pull"}}
    assert "is downloaded there" in judged(absent)[0]
    with pytest.raises(SanaError, match=r"cannot open the model: .* is not downloaded"):
        judged(absent, offline=True)
    with pytest.raises(SanaError, match="cannot open the model"):
        judged(absent, model=str(tmp_path))
