"""Constants that NVIDIA published with Sana, read from the installed diffusers' source text.

They are data: the instruction that the models were trained with and the aspect-ratio tables. Reading
the text instead of importing the package saves seconds and its import-time messages. No torch.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sana_cli.errors import ExitCode, SanaError
from sana_cli.system.packages import pip_install

_PIPELINES = {
    512: "pixart_alpha/pipeline_pixart_alpha.py",
    1024: "pixart_alpha/pipeline_pixart_alpha.py",
    2048: "pixart_alpha/pipeline_pixart_sigma.py",
    4096: "sana/pipeline_sana.py",
}


@cache
def complex_human_instruction() -> str:
    """The instruction that precedes a prompt; ends in "User Prompt: " (diffusers, Apache-2.0)."""
    tree = _parse("sana/pipeline_sana.py")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__call__":
            names = [argument.arg for argument in node.args.args]
            defaults = dict(zip(reversed(names), reversed(node.args.defaults), strict=False))
            if "complex_human_instruction" in defaults:
                return "\n".join(ast.literal_eval(defaults["complex_human_instruction"]))
    raise _not_found("complex_human_instruction")


def has_bins(native_size: int) -> bool:
    """Return whether a table of aspect ratios is published for a native size."""
    return native_size in _PIPELINES


def published_sizes() -> tuple[int, ...]:
    """The native sizes, in pixels, that have a table of aspect ratios."""
    return tuple(_PIPELINES)


@cache
def aspect_ratio_bins(native_size: int) -> dict[float, tuple[int, int]]:
    """Height/width ratio -> (height, width) in pixels, for a native size of 512 to 4096.

    Raises ValueError for a native size without a published table.
    """
    if not has_bins(native_size):
        raise ValueError(f"no aspect-ratio table is published for {native_size} px")
    name = f"ASPECT_RATIO_{native_size}_BIN"
    for node in _parse(_PIPELINES[native_size]).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            table: dict[str, Any] = ast.literal_eval(node.value)
            return {float(ratio): (int(h), int(w)) for ratio, (h, w) in table.items()}
    raise _not_found(name)


@cache
def _parse(pipeline: str) -> ast.Module:
    spec = find_spec("diffusers")
    if spec is None or spec.origin is None:
        raise SanaError(
            "the package diffusers is not installed",
            hint=f"{pip_install('diffusers')}: Sana's published instruction and size tables are read from it",
            code=ExitCode.ENVIRONMENT,
        )
    path = Path(spec.origin).parent / "pipelines" / pipeline
    return ast.parse(path.read_text(encoding="utf-8"))


def _not_found(name: str) -> SanaError:
    return SanaError(
        f"the installed diffusers does not hold {name}",
        hint="install a version of diffusers in the range that this package asks for",
        code=ExitCode.ENVIRONMENT,
    )
