"""A real cluster of two nodes on this machine: pictures as from one process, faults, resumption. Needs `ray[data]`.

`pytest -m slow tests/unit/cluster/test_run.py`. All commands but one run in this process, over one connection: most of
what a command with `--ray` takes is the start of processes.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sana_cli.cluster.manifest import MANIFEST
from sana_cli.cluster.sizing import RAY_BYTES
from sana_cli.errors import ExitCode

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[3]
SIZE = ("--size", "32", "--steps", "1", "--device", "cpu", "--precision", "fp32", "--json")
LINES = [f"picture {index}" for index in range(8)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster, whose nodes see this tree."""
    from benchmarks.cluster import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with cluster(nodes=2) as (_, address, _):
            yield address


@pytest.fixture(scope="module")
def ray(address: str) -> Iterator[Any]:
    """Ray, with this process connected to the cluster."""
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def words(address: str, tiny_model: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of `sana` for a batch, drawn on the cluster unless `ray` is false."""
    (tmp_path / "p.txt").write_text("\n".join(LINES))

    def made(*more: str, output: str, ray: bool = True) -> list[str]:
        place = ("--ray", address) if ray else ("--local",)
        given = ("--prompts", f"{tmp_path}/p.txt", "-m", str(tiny_model), "-o", output)
        return ["generate", *given, *SIZE, *place, *more]

    return made


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / MANIFEST).read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row["index"])


def test_a_command_draws_the_pictures_of_one_process(
    words: Callable[..., list[str]], sana: Callable[..., Any], tmp_path: Path
) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert sana(*words(output=f"{plain}/", ray=False)).code == 0
    command = [sys.executable, "-m", "sana_cli", *words(output=f"{out}/")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, "what Ray says is not told"
    assert len(list(map(json.loads, done.stdout.splitlines()))) == len(LINES)
    names = sorted(p.name for p in plain.iterdir())
    assert sorted(p.name for p in out.iterdir()) == [*names, MANIFEST]
    assert [(out / n).read_bytes() for n in names] == [(plain / n).read_bytes() for n in names]
    found = rows(out)
    assert {row["status"] for row in found} == {"drawn"}
    for row in found:
        assert row["peak_memory_bytes"] < 1.15 * (row["predicted_peak_bytes"] + RAY_BYTES)
    largest = max(found, key=lambda row: row["peak_memory_bytes"])
    assert largest["peak_memory_bytes"] > 0.85 * (largest["predicted_peak_bytes"] + RAY_BYTES)


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "url"])
def test_a_rerun_draws_what_is_missing(
    words: Callable[..., list[str]],
    sana: Callable[..., Any],
    ray: Any,
    tmp_path: Path,
    remote: bool,
) -> None:
    out = tmp_path / "out"
    command = words(output=f"file://{out}/" if remote else f"{out}/")
    first = sana(*command)
    assert first.code == 0, first.err
    drawn = rows(out)
    assert [Path(row["path"]).name for row in drawn] == sorted(p.name for p in out.glob("*.png"))
    removed = out / Path(drawn[2]["path"]).name
    removed.unlink()
    again = sana(*command)
    statuses = [json.loads(line)["status"] for line in again.out.splitlines()]
    assert sorted(statuses) == ["done"] * 7 + ["drawn"]
    kept = rows(out)
    assert [row["sha256"] for row in kept] == [row["sha256"] for row in drawn]
    assert kept[0] == drawn[0], "rows of an earlier run stay"
    assert sorted(p.name for p in out.iterdir() if p.suffix != ".png") == [MANIFEST]


def test_a_prompt_that_kills_its_worker_costs_nobody_elses_picture(ray: Any) -> None:
    """Blocks that Ray gives up come back one by one; the rest are told as errors."""
    from sana_cli.cluster.run import draw_with_ray
    from sana_cli.cluster.sizing import Pool
    from sana_cli.cluster.tasks import Task
    from tests.unit.cluster.poison import Poisoned

    pool = Pool(
        smallest=1, largest=2, num_cpus=1, num_gpus=0, memory=2**28, max_memory=None, device="cpu", nodes=2
    )  # fmt: skip
    tasks = [
        Task(index=i, place="", name="kill" if i == 3 else "", options={}, planned="")
        for i in range(8)
    ]
    setup: Any = "setup"
    outcomes = list(draw_with_ray(ray, tasks, setup, pool, worker=Poisoned))
    assert sorted(outcome.index for outcome in outcomes) == list(range(8))
    assert [outcome.index for outcome in outcomes if outcome.status == "error"] == [3]


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--workers", "5"), "the cluster holds 2 workers"), (("--device", "cuda"), "no node of the cluster has a GPU")],
)  # fmt: skip
def test_what_the_cluster_does_not_hold(
    words: Callable[..., list[str]], sana: Callable[..., Any], ray: Any, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:  # fmt: skip
    done = sana(*words(*more, output=f"{tmp_path}/out/"))
    assert (done.code, said in done.err) == (ExitCode.ENVIRONMENT, True), done.err
    assert list((tmp_path / "out").iterdir()) == []


def test_the_class_of_the_docs_draws(ray: Any, tiny_model: Path, tmp_path: Path) -> None:
    """`docs/scale.md`, Ray Data: its class and its pipeline as they stand, with another model and a core in place of a GPU."""
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8").partition("### Ray Data")[2]
    draw, pipeline = re.findall(r"```(?:python)?\n(.*?)```", text, re.DOTALL)[:2]
    lines = [{"prompt": f"picture {i}", "seed": i, "path": f"{tmp_path}/{i}.png"} for i in range(2)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for before, after in {
        '"prompts.jsonl"': f'"{tmp_path}/prompts.jsonl"', '"manifest"': f'"{tmp_path}/manifest"',
        "/shared/sana-0.6b-w8a8": str(tiny_model), "num_gpus=1": "num_cpus=1",
    }.items():  # fmt: skip
        assert before in pipeline
        pipeline = pipeline.replace(before, after)
    exec(f"{draw}\n{pipeline}", {"ray": ray, "__name__": "__main__"})
    found = [
        json.loads(line)
        for file in (tmp_path / "manifest").iterdir()
        for line in file.read_text().splitlines()
    ]
    assert sorted((row["path"], row["error"]) for row in found) == [(line["path"], "") for line in lines]  # fmt: skip
    assert all((tmp_path / f"{i}.png").stat().st_size > 1000 for i in range(2))
