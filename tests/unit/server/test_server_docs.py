"""Every block of docs/server.md that a client could type runs as it is written, on the port of a server that runs."""

import inspect
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sana_cli.config.generation import FIELDS
from sana_cli.pipeline import SanaPipeline
from sana_cli.request.runtime import COMMANDS_OWN, RuntimeOptions
from sana_cli.server.schema import OWN_FIELDS, job_request

PAGE = (Path(__file__).parents[3] / "docs/server.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CURL = [line for line in PAGE.splitlines() if line.startswith("curl ")]


def test_the_page_names_the_fields_of_a_request() -> None:
    """Those of Python, but the ones that the page excepts."""
    names, open_names, others = re.search(
        r"by the same names, without\s(.*?);\sthose of `SanaPipeline.open` without\s(.*?), and (.*?) are fields", PAGE, re.DOTALL
    ).groups()  # type: ignore[union-attr]  # fmt: skip
    excepted, not_of_open, more = (
        set(re.findall("`(.*?)`", each)) for each in (names, open_names, others)
    )
    runtime = set(RuntimeOptions.__dataclass_fields__)
    of_open = {*inspect.signature(SanaPipeline.open).parameters, *runtime} - {"runtime"}
    of_open -= {"branches_apart"}  # said by pictures only
    of_picture = set(FIELDS) - runtime - set(COMMANDS_OWN)
    own = {name for name, *_ in OWN_FIELDS}
    fields = set(job_request().__struct_fields__) - own
    assert (of_picture - excepted) | (of_open - not_of_open) | more == fields
    assert not fields & (excepted | not_of_open)


def test_the_page_has_blocks() -> None:
    assert (len(PYTHON), len(CURL)) == (2, 3)


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python(server: Any, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = PYTHON[number].replace("7262", str(server.running.port))
    exec(compile(code, f"block {number + 1} of docs/server.md", "exec"), {})
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]


def test_curl(server: Any, tmp_path: Path) -> None:
    """A job, its events until it is done, its picture: each line runs with the id that the first one prints."""
    said, job = "", ""
    for line in CURL:
        command = line.replace("7262", str(server.running.port)).replace("/ID/", f"/{job}/")
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, check=True, cwd=tmp_path
        )
        said += done.stdout
        job = job or json.loads(done.stdout)["id"]
    assert '"status"' in said
    assert "event: done" in said
    assert (tmp_path / "job.png").read_bytes()[:4] == b"\x89PNG"
