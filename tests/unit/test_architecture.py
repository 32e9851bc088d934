"""The house rules that a parser can check: imports point downwards, light files stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.replaced import replaced

ROOT = Path(__file__).parents[2]

# The six layers of docs/architecture.md, lowest first. A part imports from layers below its own, and beside it only
# where BESIDE says so.
LAYERS = (
    ("quant", "errors", "text", "progress", "files", "system"),
    ("config",),
    ("images", "models", "schedulers", "checkpoints"),
    ("request", "memory", "decoding", "accelerate", "loading"),
    ("pipeline", "quantize_checkpoint"),
    ("terminal", "bench", "doctor", "calibration", "remote", "server", "cluster"),
    ("cli", "commands", "__main__"),
)
BESIDE = {
    "files": {"errors", "quant"},
    "system": {"errors", "quant"},
    "progress": {"system", "text"},  # a log line is shown as any other
    "text": {"system"},  # secrets of the machine are never shown
    "models": {"checkpoints"},  # a tokenizer is a file
    "memory": {"request"},  # a plan is made for what is to be drawn
    "loading": {"accelerate"},  # a module is loaded with its kernels
    "doctor": {"bench"},
    "terminal": {"remote"},  # for types: reports of pictures that a server drew
    "server": {"remote"},  # it announces itself where commands look
    "cli": {"commands"},
    "__main__": {"cli"},
}
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}


def sources() -> list[Path]:
    files = [
        path for top in ("sana_cli", "quant", "calibration") for path in (ROOT / top).rglob("*.py")
    ]
    return sorted(path for path in files if path.name != "__init__.py")


def part_of(path: Path) -> str:
    """The name that has a layer: a file or folder of sana_cli, or one of the other packages."""
    package, first = path.relative_to(ROOT).parts[:2]
    return first.removesuffix(".py") if package == "sana_cli" else package


def imported(path: Path) -> set[str]:
    """The parts that a file imports anywhere, in functions and for types too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "sana_cli":
            modules |= {f"sana_cli.{a.name}" for a in node.names if not a.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    parts = (name.split(".") for name in modules)
    return {
        p[1] if p[0] == "sana_cli" else p[0]
        for p in parts
        if p[0] in ("quant", "calibration") or (p[:1] == ["sana_cli"] and p[1:])
    }


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    assert part in LAYER_OF, f"{part} has no layer; add it to LAYERS and docs/architecture.md"
    for other in imported(path) - {part}:
        below = LAYER_OF[other] < LAYER_OF[part]
        assert below or other in BESIDE.get(part, set()), (
            f"{part} imports {other}, which is not below it"
        )


def test_no_circle_within_a_part() -> None:
    """Modules that need each other are one module. Imports for types alone do not count."""
    needs = {path: _needed(path) for path in sources()}
    known = {_module(path): path for path in needs}
    done: set[Path] = set()

    def visit(path: Path, way: tuple[Path, ...]) -> None:
        assert path not in way, " imports ".join(
            _module(p) for p in (*way[way.index(path) :], path)
        )
        if path not in done:
            for name in needs[path]:
                if name in known:
                    visit(known[name], (*way, path))
            done.add(path)

    for path in needs:
        visit(path, ())


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _needed(path: Path) -> set[str]:
    """Modules that a file imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_few_modules_lie_loose() -> None:
    assert len(list((ROOT / "sana_cli").glob("*.py"))) <= 10


TOO_LONG = {  # each of these is one thing; nothing comes in addition
    "quant.kernels.cross_attention.kernel.cross_attention_kernel",  # a Triton program: the sums of its two tiles run through all of it
    "sana_cli.config.generation.GenerationOptions",  # the table of options, a field a row
}


def test_classes_and_functions_can_be_read_at_once() -> None:
    """Signatures of commands are lists of options and may be longer."""
    long = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                limit, length = 200, (node.end_lineno or 0) - node.lineno + 1
            elif isinstance(node, ast.FunctionDef):
                limit, length = 60, (node.end_lineno or 0) - node.body[0].lineno + 1
            else:
                continue
            if length > limit:
                long.add(f"{_module(path)}.{node.name}")
    assert long == TOO_LONG


def test_the_architecture_names_every_part() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line[:3] in {f"| {n}" for n in range(1, 7)}]
    assert 10 < len(rows) <= 20, "one table that can be read at once"
    parts = {part_of(path) for path in sources()} - {"__main__"}
    assert {part for part in parts if f"`{part}" not in text} == set()


# Parts whose modules each have a test of their name, which needs no command line.
MIRRORED = (
    "checkpoints",
    "decoding",
    "images",
    "loading",
    "memory",
    "pipeline",
    "request",
    "system",
)


def test_modules_have_tests_of_their_name() -> None:
    untested = {
        f"{part}/{path.stem}"
        for part in MIRRORED
        for path in (ROOT / "sana_cli" / part).glob("*.py")
        if path.name != "__init__.py"
        and not (ROOT / f"tests/unit/{part}/test_{path.name}").is_file()
    }
    assert untested == set()


# Workers' answers to their parent, pictures in a terminal, and the reporter that draws bars.
PRINTERS = {
    "text.py", "terminal/progress_bars.py", "terminal/image.py", "bench/worker.py", "bench/openvino_convert.py",
}  # fmt: skip
PRINTING = ("typer.echo", "typer.secho", "print", "sys.stdout.write", "sys.stderr.write")


def test_all_printing_passes_through_one_module() -> None:
    """There values are kept to their lines, and JSON is JSON in every encoding."""
    top = ROOT / "sana_cli"
    found = {
        path.relative_to(top).as_posix()
        for path in top.rglob("*.py")
        if any(f"{name}(" in (text := path.read_text(encoding="utf-8")) for name in PRINTING)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTING
    }
    assert found <= PRINTERS, "print with sana_cli.text: say, note, say_command, print_json"


# What one module knows is asked of it: code that is a sign of a second home, and who may have it.
HOMES = {
    "difflib": {"text.py"},
    # A config as Hugging Face writes it, and what users of diffusers type.
    '"bfloat16"': {"bench/flops.py", "config/other_values.py"},
    'in ("fp32", "bf16", "fp16")': {"pipeline/latents_file.py"},
    '("transformer", "vae", "text_encoder"': {"config/components.py"},
}


@pytest.mark.parametrize("sign", HOMES)
def test_what_is_known_has_one_home(sign: str) -> None:
    top = ROOT / "sana_cli"
    found = {
        path.relative_to(top).as_posix()
        for path in top.rglob("*.py")
        if sign in path.read_text(encoding="utf-8")
    }
    assert found <= HOMES[sign]


REPLACED = 30  # places of all tests


def test_few_tests_replace_what_they_test() -> None:
    """Pass in what a test varies, plant a fault where a user's machine has one (`at_stage` of conftest.py), simulate a device."""
    places = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in replaced(path.read_text(encoding="utf-8"))
    ]
    assert len(places) <= REPLACED, places


REPLACING = (
    'monkeypatch.setattr("sana_cli.doctor._gpu", None)', 'patch.setattr(f"quant.{name}", 1)',
    'monkeypatch.setattr(doctor, "_gpu", None)', 'monkeypatch.setattr(doctor.os, "link", None)',
    'monkeypatch.setattr(place, name, None)', 'monkeypatch.setitem(VARIANTS, "a", 1)', "doctor._gpu = None",
    "VARIANTS['a'] = 1", 'setattr(doctor, "_gpu", None)', 'mock.patch("quant.files.lock")', "del VARIANTS['a']",
    'mock.patch.object(doctor, "_gpu")', 'patch(import_module(f"quant.{name}"), "launch", run)',
)  # fmt: skip
NOT_REPLACING = (
    'monkeypatch.setattr(os, "link", None)', 'monkeypatch.setattr("sys.stdin", None)', "found.name = 1",
    'monkeypatch.setitem(sys.modules, "torchao", None)', 'patch(torch.cuda, "is_available", yes)',
    'setattr(block, "to_q", layer)', 'mock.patch.object(Path, "open")', "x = doctor._gpu", 'info.dict("a")',
)  # fmt: skip


@pytest.mark.parametrize("line", [*REPLACING, *NOT_REPLACING])
def test_replacements_are_found(line: str) -> None:
    imports = (
        "import os, sys, torch\nfrom pathlib import Path\nfrom unittest import mock\n"
        "from sana_cli import doctor\nfrom sana_cli.config.variants import VARIANTS\n"
    )
    assert bool(replaced(imports + line)) == (line in REPLACING)


def test_a_mistake_is_told_before_torch_is_imported() -> None:
    program = (
        "import sys\nfrom sana_cli.cli import main\n"
        "code = main(['generate', 'x', '-m', 'builtim'])\n"
        "assert code == 2 and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "unknown model" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["generate", "--help"],
        ["decode", "--help"],
        ["bench", "--help"],
        ["config", "show"],
        ["--version"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom sana_cli.cli import main\n"
        f"code = main({arguments!r})\n"
        "heavy = {'torch', 'rich', 'numpy', 'transformers', 'PIL', 'pydantic'} & set(sys.modules)\n"
        "assert code == 0 and not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
