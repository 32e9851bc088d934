"""Turn a model folder into a quantized one: tensors are read and written one by one.

Without data, each is rounded to nearest, with searched 4-bit scales, so memory holds one layer at a
time. With data, `calibration/` says what to write instead. Finished components survive an
interruption; a rerun reuses them.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
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
from quant.files import read_small_text, replace_file
from quant.manifest import (
    MANIFEST,
    REPORT,
    WEIGHTS,
    Component,
    Manifest,
    new_folder,
    restore_folder,
    sha256_of,
)
from quant.primitives import sqnr_db
from quant.stream_writer import StreamWriter, TensorSpec
from sana_cli import __version__
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.component_weights import ComponentWeights, component_weights
from sana_cli.checkpoints.file_selection import select_files
from sana_cli.checkpoints.quantized_folder import check_target
from sana_cli.config.components import NETWORKS, OPTIONAL, RUN_ORDER
from sana_cli.config.recipes import component_recipe
from sana_cli.errors import ExitCode, SanaError, is_out_of_memory
from sana_cli.loading.added_decoders import copy_decoders
from sana_cli.loading.assign import require_finite, require_fit, require_same_names
from sana_cli.loading.load import TOKEN_CONVS, empty_module
from sana_cli.loading.lora import Adapters

_DONE = "done.json"  # next to a finished component: its inputs, and its digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentReport:
    """The result of quantizing one component."""

    component: str
    scheme: str
    bytes_before: int
    bytes_after: int
    layers: list[LayerReport]
    sqnr: dict[str, float]  # dB of each quantized weight; of a calibrated layer's output
    calibrated: frozenset[str]  # by path


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentPlan:
    """The calibration's decisions for one component. Layers without a finished one are made without data."""

    layers: list[LayerReport]
    finished: Mapping[str, Quantized] = field(default_factory=dict)  # by path
    replaced: Mapping[str, Tensor] = field(default_factory=dict)  # float tensors, by name
    sqnr: Mapping[str, float] = field(default_factory=dict)  # dB of a finished layer's output


class Calibration(Protocol):
    """The interface of `calibration/` that the writer uses."""

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
    describe: Callable[[list[ComponentReport]], Mapping[str, Any]] | None = None,
) -> list[ComponentReport]:
    """Write `target`, a folder that `sana generate --model` takes. `advance` counts tensors.

    A ControlNet takes the scheme of the transformer unless `schemes` names one for it. `describe` makes what the folder's report says, for people: no reader depends on it, and no digest holds it.

    Raises SanaError for a target that exists, a full disk, too little memory, or weights that are unfit.
    """
    added = checkpoint.decoder if checkpoint.decoder and checkpoint.decoder.is_tiny else None
    checkpoint = replace(checkpoint, decoder=None) if added else checkpoint
    check_target(target, overwrite=overwrite)
    with _translate_errors(target), _only_writer(target):
        restore_folder(target)
        check_target(target, overwrite=overwrite)
        with new_folder(target, overwrite=overwrite) as working, _nothing_unfinished(working):
            _clear(working)
            _copy_small_files(checkpoint, working)
            copy_decoders(checkpoint, added, working)
            done = {
                component: _quantize_component(
                    checkpoint, component, schemes.get(component, schemes["transformer"]), working,
                    calibration, advance,
                )
                for component in _in_turn(checkpoint, calibration)
            }  # fmt: skip
            reports = [done[component][0] for component in checkpoint.parts]
            parts = {component: done[component][1] for component in checkpoint.parts}
            manifest = Manifest(
                base_model=_base_of(checkpoint),
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
            if describe is not None:
                text = json.dumps(describe(reports), indent=1)
                (working / REPORT).write_text(text + "\n", encoding="utf-8")
            for mark in working.glob(f"*/{_DONE}"):
                mark.unlink()
    return reports


def _in_turn(checkpoint: Checkpoint, calibration: Calibration | None) -> tuple[str, ...]:
    """The components in the order in which they are made: calibration runs each on what the one before made."""
    parts = checkpoint.parts
    return parts if calibration is None else (*RUN_ORDER, *(p for p in parts if p in OPTIONAL))


def _base_of(checkpoint: Checkpoint) -> str:
    """Name the model and everything that was merged into it."""
    decoder = [f"decoder {checkpoint.decoder.name}"] if checkpoint.decoder else []
    return " + ".join([checkpoint.name, *map(str, checkpoint.loras), *decoder])


@contextmanager
def _translate_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise SanaError(
                f"not enough memory to make {target}",
                hint="close other programs, then run it again: finished parts are reused",
                code=ExitCode.ENVIRONMENT,
            ) from error
        if not isinstance(error, OSError):
            raise
        raise SanaError(
            f"cannot write {target}: {error.strerror or error}",
            hint="make room or choose another folder, then run it again: finished parts are reused",
            code=ExitCode.ENVIRONMENT,
        ) from error


@contextmanager
def _only_writer(target: Path) -> Iterator[None]:
    """Keep a second process out of the same working folder."""
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
        # Its owner deleted it after we had opened it: the next one gets a new file.
        if not os.path.lexists(path):
            raise Timeout(str(path))
    except Timeout as error:
        lock.release()
        raise SanaError(
            f"another process is making {target}",
            hint="wait for it, or choose another folder",
            code=ExitCode.ENVIRONMENT,
        ) from error
    try:
        yield
    finally:
        # Windows deletes no open file; the lock's release does it there.
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _nothing_unfinished(working: Path) -> Iterator[None]:
    """After an error, keep the folder only if it holds finished components for a rerun."""
    try:
        yield
    except BaseException:
        if not any(working.glob(f"*/{_DONE}")):
            shutil.rmtree(working, ignore_errors=True)
        raise


def _clear(working: Path) -> None:
    """Leave nothing of an earlier run but its components: it may have been of another model."""
    kept = {
        working / component / name
        for component in (*NETWORKS, *OPTIONAL)
        for name in (WEIGHTS, _DONE)
    }
    for path in sorted(working.rglob("*"), reverse=True):  # what a folder holds before itself
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept or not S_ISREG(path.lstat().st_mode):
            path.unlink()


def _copy_small_files(checkpoint: Checkpoint, working: Path) -> None:
    """Copy everything but weights. A model card is omitted: it describes other files."""
    names = [
        path.relative_to(checkpoint.folder).as_posix()
        for path in checkpoint.folder.rglob("*")
        if path.is_file()
    ]
    chosen = [name for name in select_files(names) if not _is_weight(name)]
    for name in [*chosen, *(name for name in names if name.upper().startswith("LICEN"))]:
        (working / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint.folder / name, working / name)
    if checkpoint.pth is not None:  # an original file knows its configuration by its shapes alone
        config = {"_class_name": "SanaTransformer2DModel", **asdict(checkpoint.transformer)}
        (working / "transformer").mkdir(exist_ok=True)
        (working / "transformer/config.json").write_text(json.dumps(config, indent=2) + "\n")
        if (net := checkpoint.controlnet) is not None:
            config = {"_class_name": "SanaControlNetModel", **asdict(net.blocks)}
            config["control_order"] = net.order.value
            (working / "controlnet").mkdir(exist_ok=True)
            (working / "controlnet/config.json").write_text(json.dumps(config, indent=2) + "\n")


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
    if component == "transformer":
        weights = Adapters(checkpoint.loras, model).merge(weights)
    _require_fitting(weights, model, component)
    path = working / component / WEIGHTS
    done = path.with_name(_DONE)
    key = [scheme, weights.fingerprint, __version__]
    key += calibration.key(component) if calibration else []
    key = json.loads(json.dumps(key))  # as it will be read: lists for tuples
    finished = _finished(path, done, key, layers)
    if finished is not None:
        layers, sqnr, calibrated, sha256 = finished
    else:
        done.unlink(missing_ok=True)
        plan = calibration.plan(component) if calibration else None
        plan = plan or ComponentPlan(layers=layers)
        layers, calibrated = plan.layers, frozenset(plan.finished)
        with path.open("wb") as stream:
            writer = StreamWriter(stream, _specs_of(model, layers, weights))
            writer.start()
            modules = _modules(model, layers)
            sqnr = {}
            for count, name in enumerate(sorted(weights.names), start=1):
                sqnr |= _write_tensor(writer, name, weights, modules, component, plan)
                advance(component, count, len(weights.names))
            sha256 = writer.finish()
        decided = {r.path: [config_to_json(r.config), r.reason] for r in layers}
        state = {
            "key": key, "sqnr": sqnr, "calibrated": sorted(calibrated), "layers": decided, "sha256": sha256,
        }  # fmt: skip
        unsure = done.with_suffix(".part")
        unsure.write_text(json.dumps(state), encoding="utf-8")
        replace_file(unsure, done)
    report = ComponentReport(
        component=component,
        scheme=scheme,
        bytes_before=weights.total_bytes,
        bytes_after=sum(spec.bytes for spec in _specs_of(model, layers, weights).values()),
        layers=layers,
        sqnr=sqnr,
        calibrated=calibrated,
    )
    file = f"{component}/{path.name}"
    schemes = {r.path: r.config for r in layers}
    return report, Component(file=file, sha256=sha256, layers=schemes)


def _require_fitting(weights: ComponentWeights, model: nn.Module, component: str) -> None:
    """SanaError where a tensor is missing, misshapen or of a type that holds no weights."""
    expected = model.state_dict()
    require_same_names(set(expected), set(weights.names), component)
    for name, place in expected.items():
        require_fit(weights.shape_of(weights.names[name]), place, name, component)


def _finished(
    path: Path, done: Path, key: list[Any], layers: list[LayerReport]
) -> tuple[list[LayerReport], dict[str, float], frozenset[str], str] | None:
    """Return what an earlier run made of the same inputs: layers, SQNR, which are calibrated,
    digest; None if it did not.
    """
    try:
        state = json.loads(read_small_text(done))
        if state["key"] != key or sha256_of(path) != state["sha256"]:
            return None
        decided = [_decided(layer, *state["layers"][layer.path]) for layer in layers]
        return decided, dict(state["sqnr"]), frozenset(state["calibrated"]), state["sha256"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # no mark, or a damaged one: the component is made again


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
            tensor = weights.shape_of(weights.names[name])
            yield name, TensorSpec(_stored_type(tensor), tuple(tensor.shape))


def _stored_type(tensor: Tensor) -> torch.dtype:
    """Nothing computes in fp64."""
    return torch.float32 if tensor.dtype == torch.float64 else tensor.dtype


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
    tensor = tensor.to(_stored_type(tensor))
    require_finite(tensor, name, component)
    if kind != "weight" or path not in modules:
        stored = _stored_type(weights.shape_of(weights.names[name]))
        tensor = tensor.to(stored)  # one that a LoRA changes was read in fp32
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
    if weight.shape[0] > 65536:  # a table of words: a sample of rows says as much
        rows = slice(0, None, 64)
        sample = layer.qweight[rows].float() * layer.scale[rows, None]
        return sqnr_db(weight[rows], sample)
    return sqnr_db(weight, layer.dequantize(torch.float32).view(weight.shape))
