"""Kernels whose launch may depend on the one before wait for it before they touch memory."""

import ast
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_launches import WAITING
from quant.kernels.dependent import can_depend, dependent_launches, launch_options

FILES = sorted((Path(__file__).parents[3] / "quant" / "kernels").glob("*/kernel.py"))


def kernels(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.endswith("_kernel")]


def takes_option(kernel: ast.FunctionDef) -> bool:
    return any(argument.arg == "DEPENDENT" for argument in kernel.args.args)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_it_waits_first(path: Path) -> None:
    """And a kernel is launched so only if it can wait: all of a file, or none."""
    found = kernels(path)
    assert found
    assert len({takes_option(kernel) for kernel in found}) == 1
    waits = takes_option(found[0])
    assert ("launch_options()" in path.read_text(encoding="utf-8")) is waits
    for kernel in found if waits else ():
        docstring = ast.get_docstring(kernel) is not None
        assert ast.unparse(kernel.body[docstring]) == "wait_for_inputs(DEPENDENT)", kernel.name


def test_the_model_of_times_counts_them() -> None:
    found = {
        kernel.name.removesuffix("_kernel")
        for path in FILES
        for kernel in kernels(path)
        if takes_option(kernel)
    }
    endings = {"layer_norm_modulate_quantize", "linear_w8a8_on_load", "cross_attention_w8a8"}
    assert found == set(WAITING) - endings


def test_no_other_device_has_them() -> None:
    with dependent_launches(torch.device("cpu")) as depends:
        assert not depends
        assert launch_options() == {"DEPENDENT": False}
    assert not can_depend(torch.device("cpu"))
