"""A model folder becomes a quantized one: tensors are read from mapped files and written one by one.

Without data, each is rounded to nearest, with searched 4-bit scales, so memory holds one layer at a time. With
data, `calibration/` says what to write instead. Finished components survive an interruption; a rerun goes on
behind them.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from quant.config import QuantConfig, config_from_json, config_to_json
from quant.convert import (
    Candidate,
    LayerReport,
    Quantized,
    empty_layer,
    quantized_layer,
    resolve,
)
from quant.manifest import MANIFEST, Component, Manifest, new_folder, sha256_of
from quant.primitives import sqnr_db
from quant.stream_writer import StreamWriter, TensorSpec
from sana_cli import __version__
from sana_cli.checkpoint import Checkpoint
from sana_cli.errors import ExitCode, SanaError
from sana_cli.loading import TOKEN_CONVS, ComponentWeights, component_weights, empty_module
from sana_cli.recipes import COMPONENTS, component_recipe
from sana_cli.weight_files import select_files
from sana_cli.weights import require_finite, require_same_names

RUN_ORDER = ("text_encoder", "transformer", "vae")  # each makes the next one's inputs
_DONE = "done.json"  # beside a finished component: what it was made with, and its digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentReport:
    """What quantization did to one component."""

    component: str
    scheme: str
    bytes_before: int
    bytes_after: int
    layers: list[LayerReport]
    sqnr: dict[str, float]  # dB of each quantized weight; where calibrated, of its output


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentPlan:
    """What calibration decided for one component. Layers without a finished one are made without data."""

    layers: list[LayerReport]
    finished: Mapping[str, Quantized] = field(default_factory=dict)  # by path
    replaced: Mapping[str, Tensor] = field(default_factory=dict)  # float tensors, by name
    sqnr: Mapping[str, float] = field(default_factory=dict)  # dB of a finished layer's output


class Calibration(Protocol):
    """What `calibration/` does for the writer."""

    def key(self, component: str) -> list[Any]:
        """Everything that decides the component's result, as JSON; for resuming."""

    def plan(self, component: str) -> ComponentPlan | None:
        """Decide about a component, running the model; None where data has nothing to add."""

    def finish(self, folder: Path) -> None:
        """The folder is complete, but for its name."""


def quantize_folder(
    checkpoint: Checkpoint,
    target: Path,
    schemes: dict[str, str],
    *,
    recipe: str,
    overwrite: bool = False,
    calibration: Calibration | None = None,
    advance: Callable[[str, int, int], None] = lambda component, done, total: None,
) -> list[ComponentReport]:
    """Write `target`, a folder that `sana generate --model` takes. `advance` counts tensors.

    Raises SanaError for a target that exists, a full disk, or weights that are unfit.
    """
    _check_target(target, overwrite=overwrite)
    try:
        with _only_writer(target), new_folder(target, overwrite=overwrite) as working:
            _copy_small_files(checkpoint, working)
            done = {
                component: _quantize_component(
                    checkpoint, component, schemes[component], working, calibration, advance
                )
                for component in (RUN_ORDER if calibration else COMPONENTS)
            }
            reports = [done[component][0] for component in COMPONENTS]
            parts = {component: done[component][1] for component in COMPONENTS}
            manifest = Manifest(
                base_model=checkpoint.name,
                base_revision=checkpoint.revision or "",
                base_precision=checkpoint.trained_precision,
                recipe=recipe,
                written_by=f"sana {__version__}",
                components=parts,
            )
            text = json.dumps(manifest.to_json(), indent=1)
            (working / MANIFEST).write_text(text + "\n", encoding="utf-8")
            if calibration is not None:
                calibration.finish(working)
            for mark in working.glob(f"*/{_DONE}"):
                mark.unlink()
    except OSError as error:
        raise SanaError(
            f"cannot write {target}: {error.strerror or error}",
            hint="make room or choose another folder; a rerun goes on behind finished components",
            code=ExitCode.ENVIRONMENT,
        ) from error
    return reports


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise SanaError(
            f"no such folder: {target.parent}", hint="create it first", code=ExitCode.USAGE
        )
    if not target.exists():
        return
    if not overwrite:
        raise SanaError(
            f"{target} exists", hint="choose another folder, or --force", code=ExitCode.USAGE
        )
    if not (target / MANIFEST).is_file():  # --force is for our own folders, not for anything else
        raise SanaError(
            f"{target} exists and is no quantized model",
            hint="choose another folder",
            code=ExitCode.USAGE,
        )


@contextmanager
def _only_writer(target: Path) -> Iterator[None]:
    """Keep a second process out of the same working folder."""
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path, blocking=False)
    try:
        with lock:
            yield
            path.unlink(missing_ok=True)
    except Timeout as error:
        raise SanaError(
            f"another process is making {target}",
            hint="wait for it, or choose another folder",
            code=ExitCode.ENVIRONMENT,
        ) from error


def _copy_small_files(checkpoint: Checkpoint, working: Path) -> None:
    """What a model folder holds besides weights. A card is left behind: it describes other files."""
    names = [
        path.relative_to(checkpoint.folder).as_posix() for path in checkpoint.folder.rglob("*")
    ]
    chosen = [name for name in select_files(names) if not _is_weight(name)]
    for name in [*chosen, *(name for name in names if name.upper().startswith("LICEN"))]:
        (working / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint.folder / name, working / name)
    if checkpoint.pth is not None:  # an original file knows its configuration by its shapes alone
        config = {"_class_name": "SanaTransformer2DModel", **asdict(checkpoint.transformer)}
        (working / "transformer").mkdir(exist_ok=True)
        (working / "transformer/config.json").write_text(json.dumps(config, indent=2) + "\n")


def _is_weight(name: str) -> bool:
    return name.endswith(".safetensors") or ".safetensors.index" in name


def _quantize_component(
    checkpoint: Checkpoint,
    component: str,
    scheme: str,
    working: Path,
    calibration: Calibration | None,
    advance: Callable[[str, int, int], None],
) -> tuple[ComponentReport, Component]:
    model = empty_module(checkpoint, component)
    layers = resolve(model, component_recipe(component, scheme))
    weights = component_weights(checkpoint, component)
    require_same_names(set(model.state_dict()), set(weights.names), component)
    path = working / component / "model.safetensors"
    done = path.with_name(_DONE)
    key = [scheme, weights.fingerprint, __version__]
    key += calibration.key(component) if calibration else []
    key = json.loads(json.dumps(key))  # as it will be read: lists for tuples
    state = json.loads(done.read_text()) if done.is_file() else {}
    if state.get("key") == key and sha256_of(path) == state["sha256"]:
        layers = [_decided(layer, *state["layers"][layer.path]) for layer in layers]
    else:
        done.unlink(missing_ok=True)
        plan = calibration.plan(component) if calibration else None
        plan = plan or ComponentPlan(layers=layers)
        layers = plan.layers
        with path.open("wb") as stream:
            writer = StreamWriter(stream, _specs_of(model, layers, weights))
            writer.start()
            modules = _modules(model, layers)
            sqnr: dict[str, float] = {}
            for count, name in enumerate(sorted(weights.names), start=1):
                sqnr |= _write_tensor(writer, name, weights, modules, component, plan)
                advance(component, count, len(weights.names))
            decided = {r.path: [config_to_json(r.config), r.reason] for r in layers}
            state = {"key": key, "sqnr": sqnr, "layers": decided, "sha256": writer.finish()}
        done.write_text(json.dumps(state))
    report = ComponentReport(
        component=component,
        scheme=scheme,
        bytes_before=weights.total_bytes,
        bytes_after=sum(spec.bytes for spec in _specs_of(model, layers, weights).values()),
        layers=layers,
        sqnr=state["sqnr"],
    )
    file = f"{component}/{path.name}"
    schemes = {r.path: r.config for r in layers}
    return report, Component(file=file, sha256=state["sha256"], layers=schemes)


def _decided(layer: LayerReport, config: dict[str, Any] | None, reason: str) -> LayerReport:
    return replace(layer, config=config_from_json(config), reason=reason)


_Modules = dict[str, tuple[Candidate, QuantConfig]]


def _modules(model: nn.Module, layers: list[LayerReport]) -> _Modules:
    return {r.path: (model.get_submodule(r.path), r.config) for r in layers if r.config}  # type: ignore[misc]


def _specs_of(
    model: nn.Module, layers: list[LayerReport], weights: ComponentWeights
) -> dict[str, TensorSpec]:
    return dict(_specs(weights, _modules(model, layers)))


def _specs(weights: ComponentWeights, modules: _Modules) -> Iterator[tuple[str, TensorSpec]]:
    """Dtype and shape of every tensor that will be written, in writing order."""
    for name in sorted(weights.names):
        path, _, kind = name.rpartition(".")
        if kind == "weight" and path in modules:
            with torch.device("meta"):
                layer = empty_layer(*modules[path], TOKEN_CONVS)
            for buffer, tensor in layer.named_buffers():
                yield f"{path}.{buffer}", TensorSpec(tensor.dtype, tuple(tensor.shape))
        else:
            tensor = weights.read(weights.names[name])  # a view: nothing is read yet
            yield name, TensorSpec(tensor.dtype, tuple(tensor.shape))


def _write_tensor(
    writer: StreamWriter,
    name: str,
    weights: ComponentWeights,
    modules: _Modules,
    component: str,
    plan: ComponentPlan,
) -> dict[str, float]:
    """Write one tensor, quantized if its layer is; returns the layer's SQNR by path, if so."""
    path, _, kind = name.rpartition(".")
    if kind == "weight" and path in plan.finished:
        _add_layer(writer, path, plan.finished[path])
        return {path: plan.sqnr[path]}
    tensor = weights.read(weights.names[name])
    require_finite(tensor, name, component)
    if kind != "weight" or path not in modules:
        writer.add(name, plan.replaced[name].to(tensor.dtype) if name in plan.replaced else tensor)
        return {}
    module, config = modules[path]
    module.weight = nn.Parameter(tensor, requires_grad=False)
    module.bias = None  # written by itself, under its own name
    layer = quantized_layer(module, config, TOKEN_CONVS)
    module.to_empty(device="meta")
    _add_layer(writer, path, layer)
    return {path: _sqnr(tensor, layer)}


def _add_layer(writer: StreamWriter, path: str, layer: Quantized) -> None:
    for buffer, tensor in layer.named_buffers():
        writer.add(f"{path}.{buffer}", tensor)


def _sqnr(weight: Tensor, layer: Quantized) -> float:
    if weight.shape[0] > 65536:  # a table of words: a sample of rows tells as much
        rows = slice(0, None, 64)
        sample = layer.qweight[rows].float() * layer.scale[rows, None]
        return sqnr_db(weight[rows], sample)
    return sqnr_db(weight, layer.dequantize(torch.float32).view(weight.shape))
