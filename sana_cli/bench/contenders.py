"""List what to time: our own engine in several schemes, other model folders, and peers. No torch.

Every contender runs in a process of its own, so that no one's settings, caches or memory reach
another.
"""

import shutil
from dataclasses import asdict, dataclass
from typing import Any, Literal

from quant.dtypes import PRECISIONS
from quant.installed import is_installed
from sana_cli.checkpoints.model_names import lasting_name
from sana_cli.config.decoders import FULL
from sana_cli.config.recipes import RECIPES
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.system.packages import pip_install
from sana_cli.system.precision import Precision

FLOATS = ("auto", *PRECISIONS)
Kind = Literal[
    "sana", "diffusers", "diffusers-fp32", "diffusers-compile", "torchao", "quanto",
    "openvino", "openvino-fp32", "openvino-w8a16", "openvino-int8",
]  # fmt: skip
PEERS: dict[str, tuple[str, ...]] = {  # what each imports, in pip's spelling
    "diffusers": ("diffusers", "transformers"),
    "diffusers-fp32": ("diffusers", "transformers"),
    "diffusers-compile": ("diffusers", "transformers"),
    "torchao": ("diffusers", "transformers", "torchao"),
    "quanto": ("diffusers", "transformers", "optimum-quanto"),
    "openvino": ("diffusers", "transformers", "openvino"),
    "openvino-fp32": ("diffusers", "transformers", "openvino"),
    "openvino-w8a16": ("diffusers", "transformers", "openvino", "nncf"),
    "openvino-int8": ("diffusers", "transformers", "openvino", "nncf"),
}
_MODULES = {"optimum-quanto": "optimum.quanto"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A column of the table; `open_checkpoint` takes its `model`."""

    name: str
    kind: Kind
    model: str
    precision: Precision = "auto"
    decoder: str = FULL  # as --decoder names it; of sana itself alone

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The picture that every contender draws."""

    prompt: str
    width: int | None
    height: int | None
    steps: int | None
    timed_steps: int | None  # of these; the others are extrapolated
    batch: int
    device: str
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_schemes(text: str) -> list[str]:
    """`auto,fp32,w8a8` -> its parts; SanaError for what is neither a precision nor a recipe."""
    known = (*FLOATS, *(name for name in RECIPES if name != "mixed"))
    names = _parts(text, "--scheme")
    for name in names:
        if name not in known:
            raise usage_error(f"unknown scheme {name!r}", f"known: {', '.join(known)}")
    return names


def parse_decoders(text: str) -> list[str]:
    """`full,tiny` -> its parts; whether they are decoders of the model shows when it is opened."""
    return _parts(text, "--decoder")


def parse_peers(text: str) -> list[str]:
    """`diffusers,NAME` -> peers that can run here, and models as `--model` takes them; SanaError for others."""
    names = _parts(text, "--compare")
    for name in names:
        if name in PEERS:
            _require_installed(name)
        else:
            _require_model(name)
    return names


def _require_model(name: str) -> None:
    try:
        lasting_name(name)
    except SanaError as error:
        raise SanaError(
            f"cannot compare with {name!r}: {error.message}",
            hint=f"name a model, as --model takes it ({error.hint}), or one of: {', '.join(PEERS)}",
            code=error.code,
        ) from error


def _parts(text: str, option: str) -> list[str]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise usage_error(f"{option} {text!r} names nothing", f"omit {option}")
    return names


def _require_installed(peer: str) -> None:
    missing = [name for name in PEERS[peer] if not is_installed(_MODULES.get(name, name))]
    if missing:
        raise SanaError(
            f"--compare {peer} needs {' and '.join(missing)}, not installed here",
            hint=f"{pip_install(*missing)}, or omit {peer}",
            code=ExitCode.ENVIRONMENT,
        )
    compilers = ("c++", "g++", "clang++", "cl")
    if peer == "diffusers-compile" and not any(shutil.which(name) for name in compilers):
        raise SanaError(
            "--compare diffusers-compile needs a C++ compiler, none is on the path",
            hint="install g++ or clang, or omit diffusers-compile",
            code=ExitCode.ENVIRONMENT,
        )
