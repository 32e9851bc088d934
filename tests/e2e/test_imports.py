"""What a picture does not import: each of these costs a part of a second at the start of every command."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Packages and modules that a picture of the built-in model and of a quantized folder does without.
UNUSED = (
    "transformers", "diffusers", "torchao", "optimum.quanto", "accelerate", "huggingface_hub.hf_api", "triton",
    "openvino", "nncf", "cv2", "matplotlib", "scipy", "pandas", "sympy", "torch._dynamo", "torch._inductor",
    "torch.onnx", "torch.utils.tensorboard", "filelock", "uvicorn", "starlette", "fastapi", "mcp",
    "quant.backends.cuda", "quant.kernels", "sana_cli.accelerate.cuda", "sana_cli.images.foreign_readers",
    "sana_cli.server", "sana_cli.bench", "sana_cli.doctor", "sana_cli.quantize_checkpoint", "calibration",
    "sana_cli.checkpoints.hub_download", "typer",
)  # fmt: skip
RUN = """
import sys
from sana_cli.cli import main
code = main(sys.argv[1:])
print("modules:", *sorted(sys.modules))
sys.exit(code)
"""


@pytest.mark.parametrize("kind", ["built-in", "w8a8"])
def test_a_picture_imports_no_library_that_it_does_not_use(
    kind: str, quantized: Callable[..., Path], tmp_path: Path
) -> None:
    model = "builtin" if kind == "built-in" else str(quantized("w8a8", "builtin"))
    words = ("generate", "a red fox", "--model", model, "--steps", "1", "--size", "64x64")
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words, "--local", "--output", str(tmp_path / "a.png")],
        capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    imported = done.stdout.rpartition("modules: ")[2].split()
    assert "torch" in imported
    found = {m for m in imported for name in UNUSED if m == name or m.startswith(f"{name}.")}
    assert found == set()
