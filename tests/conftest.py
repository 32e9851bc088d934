"""Fixtures for all tests. Nothing heavy is imported until a fixture needs it.

Caches go to a temporary folder, and the hub's address to a closed port: a test that forgets to stay offline fails at
once instead of downloading.
"""

import errno
import functools
import gc
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from tests import faults


def _set_variables() -> str:
    """Set what torch, huggingface_hub and transformers read when they are imported; return the folder of all caches.

    Not in `pytest_configure`: where a path names a folder below, its `conftest.py` has imported them by then, and this
    process computes with as many threads as there are cores, which a process that a test starts does not.
    """
    assert "torch" not in sys.modules, "a plugin has imported torch"
    scratch = tempfile.mkdtemp(prefix="sana-tests-")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)
    os.mkdir(f"{scratch}/runtime", 0o700)
    os.environ |= {
        "HF_HOME": f"{scratch}/huggingface",
        "XDG_CACHE_HOME": f"{scratch}/cache",
        "XDG_CONFIG_HOME": f"{scratch}/config",
        "XDG_STATE_HOME": f"{scratch}/state",
        "XDG_RUNTIME_DIR": f"{scratch}/runtime",  # no test draws with a server that runs here
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # The pictures are tiny, and sums in another order would make a process draw other bits than this one.
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve each other on a busy machine
    }
    return scratch


_scratch = _set_variables()
_BUSY = 80  # percent of all cores


@pytest.hookimpl(optionalhook=True)  # some tests start pytest without xdist
def pytest_xdist_auto_num_workers() -> int | None:
    """Return the workers of `-n logical`: one a core, up to three where other programs keep the cores busy.

    Beside four of them on two cores, two workers would get a third of the time, and take three times as long.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # as it says
    cores = psutil.cpu_count() or 1
    if psutil.cpu_percent(interval=1) < _BUSY:
        return cores
    room = psutil.virtual_memory().available // 2**30  # a worker takes about one
    return max(cores, min(3 * cores, room))


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_scratch, ignore_errors=True)


# More than half of the suite's time: comparisons with diffusers, the CUDA path and its kernels without a GPU, and what
# quicker tests cover with fewer models, options and processes. `.ci/run` runs them after the others; the marker is
# `thorough`.
THOROUGH = (
    "parity",
    "rehearsal",
    *(f"e2e/test_{name}.py" for name in (
        "best_of", "bench", "calibrate", "combinations", "control", "decode", "decoder", "doctor", "fewer_passes", "fit", "lora",
        "memory", "models", "odd_files", "picture_to_picture", "preview", "repeat", "show", "upscale",
    )),
    "unit/accelerate/cuda",
    "unit/bench/test_gpu_suite.py",
    "unit/kernels",
    "unit/server/test_page.py",
)  # fmt: skip
_thorough = tuple(Path(__file__).parent / each for each in THOROUGH)
assert all(each.exists() for each in _thorough), "a name of THOROUGH is no test"


def pytest_itemcollected(item: pytest.Item) -> None:
    for each in _thorough:
        if item.path.is_relative_to(each) and not _is_named(each, item.config.args):
            item.add_marker("thorough")


def _is_named(path: Path, arguments: list[str]) -> bool:
    """Return whether the command line names the path, or one below it, which then runs without more words."""
    return any(Path(each.partition("::")[0]).resolve().is_relative_to(path) for each in arguments)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """`tests/reference.py`: lively random pipelines and diffusers' own pictures."""
    from tests import reference

    gc.collect()
    gc.freeze()  # `sana` collects garbage between stages; half of its time here without this
    return reference


@pytest.fixture(scope="session")
def decoder_files() -> ModuleType:
    """Random decoders in published files: `tests/decoder_files.py`."""
    from tests import decoder_files

    return decoder_files


@pytest.fixture(scope="session")
def lora_files() -> ModuleType:
    """Random LoRAs, as trainers save them: `tests/lora_files.py`."""
    from tests import lora_files

    return lora_files


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    """A Hugging Face hub on the loopback, `tests/hub_server.py`."""
    from tests.hub_server import serve_hub

    with serve_hub(tmp_path / "hf") as server:
        yield server


@pytest.fixture(scope="session")
def terminal() -> Any:
    """A program in a pseudo-terminal: the class of `tests/terminal.py`."""
    from tests.terminal import Terminal

    return Terminal


@pytest.fixture(scope="session")
def terminal_pictures() -> ModuleType:
    """Decoders of what terminals are sent: `tests/terminal_pictures.py`."""
    from tests import terminal_pictures

    return terminal_pictures


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A simulated CUDA device of 24 GiB and capability 8.9; `indirect` parameters are options of `install`."""
    import torch

    from tests.rehearsal.device import Calls
    from tests.rehearsal.install import install

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    options = getattr(request, "param", {})
    converts = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    found = install(monkeypatch.setattr, **options)
    with Calls():
        yield found
    torch.__future__.set_overwrite_module_params_on_conversion(converts)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """`program("nvidia-smi", "echo 570.1")` puts a script of the shell before all other programs of that name."""

    def put(name: str, script: str) -> None:
        file = tmp_path / "programs" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(file.parent), prepend=os.pathsep)

    return put


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a terminal with all colours."""
    names = (
        "PATH",
        "HF_HOME",
        "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR",
        "PYTHONPATH",
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
    )
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {
        **kept, "HOME": str(tmp_path), "TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8",
        "SANA_CONFIG": str(tmp_path / "config.toml"),
    }  # fmt: skip


@pytest.fixture(scope="session")
def documents() -> ModuleType:
    """`tests/documents.py`: the commands that documents show."""
    from tests import documents

    return documents


@pytest.fixture(scope="session")
def pipelines(reference: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every reference pipeline of this session: `.folder(name, layout)`, `.pipeline(name)`, `.draw(name, ...)`."""
    return reference.Pipelines(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture
def tiny_model(pipelines: Any) -> Path:
    """A tiny plain Sana pipeline on disk. Shared: a test that damages files copies it first."""
    return pipelines.folder("plain")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of `sana` left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The JSON documents on stdout, one a line."""
        return [json.loads(line) for line in self.out.split("\n") if line]

    def told(self, status: str) -> list[dict[str, Any]]:
        """Those of a batch that tell of pictures which are "drawn" or "done", of an "error" or the "grid"."""
        return [each for each in self.documents if each.get("status") == status]


@pytest.fixture(scope="session")
def sana() -> Callable[..., Result]:
    """Run `sana ARGUMENTS` in this process, through `main` and its error edge."""

    def run(*arguments: object) -> Result:
        from sana_cli.cli import main

        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return Result(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def examined() -> Callable[..., Result]:
    """`sana doctor` with some of its checks, by name, or with others: `examined("disk", cpu=function, json=True)`."""

    def run(*topics: str, json: bool = False, **others: Callable[[], Any]) -> Result:
        from sana_cli.commands.doctor import report
        from sana_cli.doctor import CHECKS

        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = report({**{topic: CHECKS[topic] for topic in topics}, **others}, json=json)
        return Result(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def quantized(
    sana: Callable[..., Result], pipelines: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`quantized(recipe, model)`: the folder that `sana quantize --samples 0` makes of a model, the plain tiny one by default.

    Shared: a test that damages files copies it first.
    """

    @functools.cache
    def made(recipe: str, model: str = "") -> Path:
        folder = tmp_path_factory.mktemp("quantized") / recipe
        words = ("quantize", model or pipelines.folder("plain"), folder, "--samples", 0, "--quiet")
        result = sana(*words, "--recipe", recipe)
        assert result.code == 0, result.err
        return folder

    return made


@pytest.fixture
def sana_draw(sana: Callable[..., Result], tmp_path: Path) -> Callable[..., list[Any]]:
    """Draw with `sana generate` in fp32 on the CPU; returns the PNGs as (H, W, 3) uint8 arrays."""

    def run(model: Path, prompt: str, *options: object, exact: bool = True) -> list[Any]:
        import numpy as np
        from PIL import Image

        result = sana(
            "generate", prompt, "--model", model, "--output", tmp_path / "picture.png", "--force",
            "--precision", "fp32", "--device", "cpu", "--exact" if exact else "--bins", "--json", *options,
        )  # fmt: skip
        assert result.code == 0, f"sana generate ended with {result.code}:\n{result.err}"
        pictures = []
        for entry in result.document["images"]:
            with Image.open(entry["path"]) as png:
                assert png.size == (entry["width"], entry["height"]), entry
                pictures.append(np.asarray(png.convert("RGB")))
        return pictures

    return run


@pytest.fixture
def before_opening(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`before_opening(act)` has `act(path, mode)` called before `Path.open` opens a file, from then on."""
    opens = Path.open

    def watch(act: Callable[[Path, str], object]) -> None:
        def opened(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            act(path, mode)
            return opens(path, mode, *rest, **named)

        monkeypatch.setattr(Path, "open", opened)

    return watch


@pytest.fixture(scope="session")
def before_computing() -> Callable[..., AbstractContextManager[None]]:
    """`with before_computing("denoise", act): ...` calls `act()` before each module of that stage's network runs."""
    return faults.before_computing


@pytest.fixture(scope="session")
def before_loading() -> Callable[..., AbstractContextManager[None]]:
    """`with before_loading("denoise", act): ...` calls `act()` whenever that stage's weights begin to be read."""
    return faults.before_loading


@pytest.fixture(scope="session")
def at_stage() -> Callable[..., AbstractContextManager[Any]]:
    """`with at_stage("load denoise", act): ...`, one of `faults.STAGES`: `act()` is called when a run is there."""
    return faults.at_stage


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each kind of layer whose kernels would be timed; none is found usable, which takes no time."""
    events: list[str] = []

    def measure(*_: object, **__: object) -> list[object]:
        events.append("measured")
        return []

    monkeypatch.setattr("quant.backends.dispatch.measure", measure)
    return events


@pytest.fixture
def system_file(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str | None], None]:
    """`system_file("/proc/cpuinfo", text)`: what the kernel says there from then on; None: it has no such file."""
    reads, texts = Path.read_text, {}

    def read(path: Path, *rest: Any, **named: Any) -> str:
        text = texts.get(str(path), "")
        if text is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return text or reads(path, *rest, **named)

    def put(path: str, text: str | None) -> None:
        texts[path] = text
        monkeypatch.setattr(Path, "read_text", read)

    return put


@pytest.fixture
def fast_bf16(system_file: Callable[..., None]) -> None:
    """This processor has instructions for bf16."""
    system_file("/proc/cpuinfo", "flags\t: avx2 avx512f avx512_bf16\n")


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """What was imported and drawn before is no garbage: `sana` looks for some after each stage, at every object."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Random tensors of a test do not depend on the tests before it, which differ by worker."""
    if "torch" in sys.modules:
        import torch  # waits for another thread that imports it now

        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def prompts() -> Path:
    """The folder of encoded prompts. No test finds what another has encoded: it would not run the text encoder."""
    folder = Path(f"{_scratch}/cache/sana/prompts")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.fixture(autouse=True)
def _no_leaked_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the person who runs the tests do not reach them."""
    for name in [name for name in os.environ if name.startswith("SANA_")]:
        monkeypatch.delenv(name)
    return
