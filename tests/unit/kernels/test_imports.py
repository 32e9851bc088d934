"""A machine without Triton imports every public part; only a call would need it."""

import subprocess
import sys

PARTS = (
    "cross_attention",
    "depthwise3x3_glu",
    "layer_norm_modulate",
    "quantize_per_token",
    "relu_linear_attention",
    "rms_norm",
    "linear_w8a8",
    "linear_w4a16",
    "conv3x3_w8a8",
    "reference",
    "autotune",
)


def test_triton_is_not_needed_to_import() -> None:
    program = "import importlib, sys\nsys.modules['triton'] = None\n" + "\n".join(
        f"importlib.import_module('quant.kernels.{part}')" for part in PARTS
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
