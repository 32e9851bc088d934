"""Every block of docs/server.md that a client could type runs as it is written, on the port of a server that runs."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[3] / "docs/server.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CURL = [line for line in PAGE.splitlines() if line.startswith("curl ")]


def test_the_page_has_blocks() -> None:
    assert (len(PYTHON), len(CURL)) == (2, 1)


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python(server: Any, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = PYTHON[number].replace("7262", str(server.running.port))
    exec(compile(code, f"block {number + 1} of docs/server.md", "exec"), {})
    assert (tmp_path / "cat.png").is_file()


@pytest.mark.parametrize("line", CURL)
def test_curl(server: Any, line: str) -> None:
    command = line.replace("7262", str(server.running.port))
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert '"status"' in done.stdout
