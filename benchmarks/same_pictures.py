"""Draw the built-in model in many ways with this tree and with an earlier commit, and compare every bit.

A change of structure must change no picture: `python -m benchmarks.same_pictures --before COMMIT`. Each tree runs in a
process of its own, through `sana_cli.cli.main` alone, so that nothing else of it has to stay. Pixels and the settings
that files carry are compared by SHA-256, `--json` documents by their keys and all values but times and paths.
"""

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
VERDICTS = "kernels.json"  # of `sana_cli.loading.load`, in the cache folder
_SMALL = ("--size", "64x64", "--steps", "3", "--seed", "5", "--device", "cpu")
# name: arguments of `sana generate`; {here} is a folder of its own, with the inputs that `_prepare` makes
WAYS: dict[str, tuple[str, ...]] = {
    "usual": ("a cat", "--seed", "1"),
    "small": ("a cat", *_SMALL),
    "wide": ("a cat", *_SMALL, "--size", "160x96"),
    "negative": ("a cat", *_SMALL, "--negative", "a tree"),
    "without guidance": ("a cat", *_SMALL, "--guidance", "1"),
    "euler": ("a cat", *_SMALL, "--scheduler", "flow-euler"),
    "interval": ("a cat", *_SMALL, "--guidance-interval", "0.2-0.8"),
    "cache": ("a cat", *_SMALL, "--steps", "8", "--cache", "0.3"),
    "count": ("a cat", *_SMALL, "--count", "3", "-o", "{here}/cats/"),
    "fp32": ("a cat", *_SMALL, "--precision", "fp32"),
    "exact tiles": ("a cat", *_SMALL, "--size", "256x192", "--tile", "64"),
    "blended tiles": ("a cat", *_SMALL, "--size", "256x192", "--decode", "blended-tiles", "--tile", "128"),
    "streamed": ("a cat", *_SMALL, "--plan", "streamed", "--no-prompt-cache"),
    "branches": ("a cat", *_SMALL, "--plan", "branches"),
    "stages": ("a cat", *_SMALL, "--plan", "stages"),
    "from a picture": ("a cat", *_SMALL, "--image", "{here}/original.png"),
    "strength": ("a cat", *_SMALL, "--image", "{here}/original.png", "--strength", "0.9"),
    "mask": ("a cat", *_SMALL, "--image", "{here}/original.png", "--mask", "{here}/mask.png"),
    "w8a8": ("a cat", *_SMALL, "-m", "{here}/w8a8"),
    "int4": ("a cat", *_SMALL, "-m", "{here}/int4"),
    "w8a8 streamed": ("a cat", *_SMALL, "-m", "{here}/w8a8", "--plan", "streamed"),
    "batch": ("--prompts", "{here}/prompts.txt", *_SMALL[:4], "--device", "cpu", "-o", "{here}/batch"),
    "lines": ("--prompts", "{here}/lines.jsonl", "--device", "cpu", "-o", "{here}/lines"),
    "again": ("--from", "{here}/drawn-small.png"),
    "grid": ("a cat", *_SMALL, "--count", "2", "--grid", "-o", "{here}/grid.png"),
}  # fmt: skip
DOCUMENTS: dict[str, tuple[str, ...]] = {
    "generate": ("generate", "a dog", *_SMALL, "--json", "-o", "{here}/dog.png"),
    "forecast": ("generate", "a dog", *_SMALL, "--dry-run", "--json", "--max-memory", "2GiB"),
    "info of a model": ("info", "builtin", "--json"),
    "info of a picture": ("info", "{here}/drawn-small.png", "--json"),
    "models": ("models", "--json"),
    "settings": ("config", "show", "--json"),
}
_UNSTABLE = ("folder", "seconds", "peak_memory_bytes", "predicted_peak_bytes", "path", "version", "cap_bytes", "peak_bytes", "note")  # fmt: skip


def _prepare(here: Path) -> None:
    """Make the inputs, with the tree that runs first."""
    from PIL import Image

    from sana_cli.cli import main

    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(here / "original.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    mask.save(here / "mask.png")
    (here / "prompts.txt").write_text("a cat\na red car\na tree\n", encoding="utf-8")
    (here / "batch").mkdir()
    (here / "lines").mkdir()
    (here / "cats").mkdir()
    (here / "lines.jsonl").write_text(
        '{"prompt": "a cat", "seed": 3, "steps": 2, "width": 64, "height": 64}\n'
        '{"prompt": "a dog", "seed": 4, "steps": 3, "width": 96, "height": 64, "guidance": 2}\n',
        encoding="utf-8",
    )
    for scheme in ("w8a8", "int4"):
        if not (here / scheme).exists():
            code = main(
                [
                    "quantize",
                    "builtin",
                    str(here / scheme),
                    "--recipe",
                    scheme,
                    "--samples",
                    "0",
                    "-q",
                ]
            )
            assert code == 0, scheme


def draw_all(here: Path, models: Path) -> dict[str, Any]:
    """Every way and every document with the tree that is imported; `models` holds the quantized ones."""
    import torch

    from sana_cli.cli import main

    torch.set_num_threads(1)  # sums of threads have no order that lasts
    for scheme in ("w8a8", "int4"):
        (here / scheme).symlink_to(models / scheme)
    found: dict[str, Any] = {}
    for name, words in WAYS.items():
        arguments = [word.format(here=here) for word in words]
        output = [] if "-o" in words else ["-o", str(here / f"drawn-{name.replace(' ', '-')}.png")]
        before = set(here.rglob("*.png"))
        code = main(["generate", *arguments, *output, "-q"])
        if code:
            raise SystemExit(f"{name}: exit code {code}")
        new = sorted(set(here.rglob("*.png")) - before)
        found[name] = [_digest(path) for path in new]
    for name, words in DOCUMENTS.items():
        told = io.StringIO()
        with redirect_stdout(told):
            code = main([word.format(here=here) for word in words])
        if code:
            raise SystemExit(f"{name}: exit code {code}")
        found[f"document: {name}"] = _stable(json.loads(told.getvalue()), str(here))
    return found


def _digest(path: Path) -> str:
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        pixels = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()[:16]
        settings = json.loads(getattr(image, "text", {}).get("sana", "{}"))
    stable = _stable(settings, str(path.parent))
    carried = hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:16]
    return f"{path.name} {pixels} {carried}"


def _stable(value: Any, here: str) -> Any:
    """A document without what no two runs share."""
    if isinstance(value, dict):
        return {
            k: type(v).__name__ if k in _UNSTABLE else _stable(v, here) for k, v in value.items()
        }
    if isinstance(value, list):
        return [_stable(each, here) for each in value]
    return re.sub(re.escape(here) + r"\S*", "PATH", value) if isinstance(value, str) else value


def _run(tree: Path, step: str, *folders: Path) -> dict[str, Any]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "SANA_CACHE": str(folders[0] / "cache"),
        "SANA_CONFIG": str(folders[0] / "none.toml"),
        "SANA_MODELS": str(folders[0] / "models"),
        "SANA_SERVER": "off",  # one that runs here would draw in place of both
    }
    program = [sys.executable, str(Path(__file__).resolve()), step, *map(str, folders)]
    done = subprocess.run(program, env=environment, cwd=folders[0], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{step} with {tree} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if step == "draw" else {}


def _hand_over(measured: Path, target: Path) -> None:
    """Write the verdicts of the earlier commit as this one's: each key begins with the version of how they are found."""
    from quant.backends.verdicts import _VERSION

    verdicts = json.loads(measured.read_text(encoding="utf-8"))
    ours = {re.sub(r"^\d+;", f"{_VERSION};", key): verdict for key, verdict in verdicts.items()}
    target.write_text(json.dumps(ours), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, metavar="COMMIT")
    commit = parser.parse_args().before
    with tempfile.TemporaryDirectory(prefix="sana-same-") as name:
        folder = Path(name)
        tree = folder / "before"
        archive = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(tree, filter="data")
        inputs = folder / "inputs"
        inputs.mkdir()
        _run(tree, "prepare", inputs)
        results = []
        for which, root in (("old", tree), ("new", ROOT)):
            here = folder / which / "pictures"
            here.mkdir(parents=True)
            # Kernels that are about as fast round differently, and chance would choose for each tree.
            measured = folder / "old/pictures/cache" / VERDICTS
            if which == "new" and measured.exists():
                (here / "cache").mkdir()
                _hand_over(measured, here / "cache" / VERDICTS)
            for item in inputs.iterdir():
                if item.name not in ("w8a8", "int4", "cache", "models"):
                    subprocess.run(["cp", "-r", str(item), str(here)], check=True)
            results.append(_run(root, "draw", here, inputs))
    old, new = results
    different = [name for name in old if old[name] != new.get(name)]
    for name in different:
        print(
            f"{name}:\n  before {json.dumps(old[name])[:600]}\n  now    {json.dumps(new.get(name))[:600]}"
        )
    pictures = sum(len(result) for name, result in new.items() if not name.startswith("document"))
    print(
        f"{len(WAYS)} ways to draw, {pictures} pictures, {len(DOCUMENTS)} documents: {len(different)} differ from {commit}"
    )
    return 1 if different else 0


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "prepare":
        _prepare(Path(sys.argv[2]))
    elif len(sys.argv) > 1 and sys.argv[1] == "draw":
        print(json.dumps(draw_all(Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        raise SystemExit(main())
