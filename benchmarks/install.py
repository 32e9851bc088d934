"""Install a wheel as strangers do, each time into an empty environment, and draw a first picture.

`python -m benchmarks.install dist/sana_cli-VERSION-py3-none-any.whl` runs pip, pipx and uv from the path, as far as they
are there, and writes `benchmarks/results/install.json` and the table of `docs/install.md`. `--find-links FOLDER` offers
wheels of torch, so that no CUDA libraries are downloaded. Nothing of the clone is on the path of what it installs.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.record import RESULTS, record

PAGE = Path(__file__).parents[1] / "docs" / "install.md"
BEGIN, END = "<!-- table -->\n", "<!-- /table -->\n"
FIRST = ("generate", "a panda", "--seed", "7", "-o", "panda.png")


def install(tool: str, wheel: Path, folder: Path, environment: dict[str, str]) -> Path:
    """Install the wheel below a folder and return the path of the command."""
    binaries = folder / "bin"
    if tool == "pip":
        binaries = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        _run([sys.executable, "-m", "venv", str(folder / "venv")], folder, environment)
        _run([str(binaries / "python"), "-m", "pip", "install", "-q", str(wheel)], folder, environment)  # fmt: skip
    elif tool == "pipx":
        places = {"PIPX_HOME": str(folder / "pipx"), "PIPX_BIN_DIR": str(binaries)}
        _run(["pipx", "install", str(wheel)], folder, environment | places)
    else:
        places = {"UV_TOOL_DIR": str(folder / "tools"), "UV_TOOL_BIN_DIR": str(binaries), "UV_LINK_MODE": "copy"}  # fmt: skip
        _run(["uv", "tool", "install", "-q", str(wheel)], folder, environment | places)
    return binaries / "sana"


def measured(tool: str, wheel: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Seconds of each step and megabytes on disk, of one tool in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        command = str(install(tool, wheel, folder, environment))
        installed_s = time.perf_counter() - started
        megabytes = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink()) / 1e6  # fmt: skip
        own = clean(environment) | {"HOME": name, "SANA_SERVER": "off"}
        started = time.perf_counter()
        _run([command, *FIRST], folder, own)
        picture_s = time.perf_counter() - started
        _run([command, "info", "panda.png"], folder, own)
        problems = problems_of(_run([command, "doctor"], folder, own))
    return {
        "tool": tool, "install_s": round(installed_s, 1), "megabytes": round(megabytes),
        "first_picture_s": round(picture_s, 1), "problems_of_doctor": problems,
    }  # fmt: skip


def clean(environment: dict[str, str]) -> dict[str, str]:
    """Drop the settings and folders of whoever measures: strangers have none, and a running server would draw."""
    return {name: value for name, value in environment.items() if not name.startswith(("SANA_", "XDG_"))}  # fmt: skip


def problems_of(output: str) -> int:
    """Read how many problems `sana doctor` has counted in its last line. ValueError where it says nothing of them."""
    found = re.search(r"^(\d+) problems?$", output, re.MULTILINE)
    if found is None:
        raise ValueError(f"sana doctor has counted no problems:\n{output}")
    return int(found[1])


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| | install | on disk | first picture | `sana doctor` |",
        "|---|---|---|---|---|",
        *(
            f"| {row['tool']} | {row['install_s']:.0f} s | {row['megabytes']:,} MB | {row['first_picture_s']:.1f} s | {row['problems_of_doctor']} problems |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def main(
    wheel: Annotated[Path, typer.Argument(exists=True, help="The wheel to install.")],
    find_links: Annotated[
        Path | None, typer.Option(help="A folder of wheels that are preferred, such as torch's.")
    ] = None,
) -> None:
    """Install with pip, pipx and uv, draw, and keep seconds and megabytes."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}  # fmt: skip
    if find_links is not None:
        environment |= dict.fromkeys(("PIP_FIND_LINKS", "UV_FIND_LINKS"), str(find_links))
    tools = [tool for tool in ("pip", "pipx", "uv") if tool == "pip" or shutil.which(tool)]
    rows = [measured(tool, wheel.resolve(), environment) for tool in tools]
    document = {
        "benchmark": "install", "date": date.today().isoformat(), "wheel": wheel.name,
        "command": "python -m benchmarks.install WHEEL", "wheel_megabytes": round(wheel.stat().st_size / 1e6, 1),
        "python": sys.version.split()[0], "rows": rows,
    }  # fmt: skip
    record("install", document, folder=RESULTS)
    text = PAGE.read_text(encoding="utf-8")
    start = text.index(BEGIN) + len(BEGIN)
    PAGE.write_text(text[:start] + "\n" + table(rows) + "\n" + text[text.index(END) :], encoding="utf-8")  # fmt: skip
    print(table(rows))


if __name__ == "__main__":
    typer.run(main)
