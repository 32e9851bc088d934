"""The house rules that a parser can check: imports point downwards, light files stay light."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Floors of docs/architecture.md, lowest first. A module may import from floors below its own.
FLOORS = (
    ("redact",),
    ("errors", "text", "packages"),
    ("logs", "process"),
    (
        "allocator",
        "config",
        "options",
        "files",
        "output",
        "png_chunks",
        "recipes",
        "variants",
        "weight_files",
        "published",
        "resident",
        "processor",
        "foreign_syntax",
    ),
    ("user_config", "shapes", "hub_files", "hub_environment"),
    ("model_files",),
    (
        "weight_headers",
        "config_file",
        "naming",
        "other_quantization",
        "hub_answer",
        "prompt_forms",
        "fitness",
    ),
    ("pictures", "oddities", "foreign_settings"),
    ("lora_file", "source"),
    ("hub_errors", "hub_cache", "hub_download"),
    (
        "models",
        "schedulers",
        "hub",
        "image_io",
        "latents_file",
        "pixels",
        "console",
        "precision",
        "stages",
        "weights",
    ),
    ("fusing", "pth", "engine", "hub_outline"),
    ("published_outline",),
    ("obtaining",),
    ("checkpoint", "contact_sheet", "show"),
    ("component_weights", "model_digest", "model_list", "request", "comparison_sheet"),
    ("lora", "memory"),
    ("loading",),
    ("quantizing", "safety", "wishes"),
    ("prompt_values",),
    ("prompt_file",),
    ("pipeline", "latent_preview"),
    ("passes",),
    ("finishing", "prompt_cache"),
    ("source_stage", "text_stage"),
    ("run", "finished_pictures"),
    ("batch",),
    ("bench", "calibration", "compare", "quantize_report"),
    ("doctor",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def sources() -> list[Path]:
    files = [*(ROOT / "sana_cli").rglob("*.py"), *(ROOT / "calibration").rglob("*.py")]
    return sorted(path for path in files if path.stem != "__init__")


def part_of(path: Path) -> str:
    """The name that has a floor: a file or folder of sana_cli, or the package `calibration`."""
    package, first = path.relative_to(ROOT).parts[:2]
    return package if package == "calibration" else first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of sana_cli (first name below the package), and `calibration`, that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("calibration"):
            found.add("calibration")
        elif isinstance(node, ast.ImportFrom) and node.module == "sana_cli":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sana_cli."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("sana_cli.")}
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    assert part in FLOOR_OF, f"{part} has no floor; add it to FLOORS and docs/architecture.md"
    for other in imported(path):
        below = FLOOR_OF[other] < FLOOR_OF[part]
        same_package = other == part and path.parent.name == part
        assert below or same_package, f"{part} imports {other}, which is not below it"


def test_the_architecture_names_every_part() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = {path.stem for path in (ROOT / "sana_cli").iterdir() if f"`{path.name}" in text}
    assert set(FLOOR_OF) - {"__main__", "calibration"} <= named


# Workers' answers to their parent, pictures in a terminal, and the reporter that draws bars.
PRINTERS = {"text.py", "console.py", "show.py", "bench/worker.py", "bench/openvino_convert.py"}
PRINTING = ("typer.echo", "typer.secho", "print", "sys.stdout.write", "sys.stderr.write")


def test_all_printing_passes_through_one_module() -> None:
    """There values are kept to their lines, and JSON is JSON in every encoding."""
    top = ROOT / "sana_cli"
    found = {
        path.relative_to(top).as_posix()
        for path in top.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTING
    }
    assert found <= PRINTERS, "print with sana_cli.text: say, note, say_command, print_json"


def test_every_package_is_installed() -> None:
    """An editable installation finds those that are not listed, too; a wheel lacks them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = (
        path
        for top in ("sana_cli", "quant", "calibration")
        for path in (ROOT / top).rglob("__init__.py")
    )
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in files}
    assert set(settings["tool"]["setuptools"]["packages"]) == found


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
