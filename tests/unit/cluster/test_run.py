"""A real cluster of two nodes on this machine: pictures as from one process, faults, resumption. Needs `ray[data]`.

`pytest -m slow tests/unit/cluster/test_run.py`
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SIZE = ("--size", "32", "--steps", "1", "--device", "cpu", "--precision", "fp32")
LINES = [f"picture {index}" for index in range(8)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a core each. Sockets have short names, so their folder has one."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")  # of a busy machine
    folder = tempfile.mkdtemp(prefix="rc-")
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "memory": 4 * 2**30}
    made = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False, "temp_dir": folder},
    )
    made.add_node(**node)
    yield made
    made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def draw(cluster: Any, tiny_model: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run `sana generate --prompts` in a process of its own, on the cluster unless `ray` is false."""
    (tmp_path / "p.txt").write_text("\n".join(LINES))

    def run(
        *words: str, ray: bool = True, output: str = "out/"
    ) -> subprocess.CompletedProcess[str]:
        cluster_words = ("--ray", cluster.address) if ray else ()
        command = [
            sys.executable, "-m", "sana_cli", "generate", "--prompts", "p.txt", "-m", str(tiny_model), "-o", output,
            *SIZE, "--json", *cluster_words, *words,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row["index"])


def test_pictures_are_those_of_one_process_and_a_rerun_draws_what_is_missing(
    draw: Callable[..., Any], tmp_path: Path
) -> None:
    assert draw(ray=False, output="plain/").returncode == 0
    done = draw()
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, "what Ray says is not told"
    plain, out = tmp_path / "plain", tmp_path / "out"
    names = sorted(p.name for p in plain.iterdir())
    assert sorted(p.name for p in out.iterdir()) == [*names, "manifest.jsonl"]
    assert [(out / n).read_bytes() for n in names] == [(plain / n).read_bytes() for n in names]
    found = rows(out)
    assert {row["status"] for row in found} == {"drawn"}
    (out / names[2]).unlink()
    again = draw()
    statuses = [json.loads(line)["status"] for line in again.stdout.splitlines()]
    assert sorted(statuses) == ["done"] * 7 + ["drawn"]
    kept = rows(out)
    assert [row["sha256"] for row in kept] == [row["sha256"] for row in found]
    assert kept[0] == found[0], "rows of an earlier run stay"


def test_a_prompt_that_kills_its_worker_costs_nobody_elses_picture(cluster: Any) -> None:
    """Blocks that Ray gives up come back one by one; the rest are told as errors."""
    import ray

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
    ray.init(
        cluster.address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[3])}},
    )
    try:
        outcomes = list(draw_with_ray(ray, tasks, "setup", pool, worker=Poisoned))
    finally:
        ray.shutdown()
    assert sorted(outcome.index for outcome in outcomes) == list(range(8))
    assert [outcome.index for outcome in outcomes if outcome.status == "error"] == [3]


def test_an_output_behind_a_url(draw: Callable[..., Any], tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote/"
    done = draw(output=url)
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in (tmp_path / "remote").iterdir())
    assert len(names) == len(LINES) + 1
    assert names[-1] == "manifest.jsonl"
    documents = list(map(json.loads, done.stdout.splitlines()))
    assert {d["path"].rpartition("/")[0] for d in documents} == {url.rstrip("/")}
    assert {json.loads(line)["status"] for line in draw(output=url).stdout.splitlines()} == {"done"}


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--workers", "5"), "the cluster holds 2 workers"), (("--device", "cuda"), "no node of the cluster has a GPU")],
)  # fmt: skip
def test_what_the_cluster_does_not_hold(
    draw: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = draw(*words)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert said in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
