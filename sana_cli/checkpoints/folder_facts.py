"""Read what the small files of a model folder say: configurations, manifest, and what a run uses by default. No torch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from quant.dtypes import PRECISIONS
from quant.manifest import MANIFEST, FormatError, Manifest, read_manifest
from sana_cli.checkpoints.fitness import require_class
from sana_cli.checkpoints.model_files import one_line, read_config, read_json, unreadable
from sana_cli.checkpoints.safetensors_headers import main_dtype
from sana_cli.checkpoints.shapes import Headers
from sana_cli.config.choices import SchedulerName
from sana_cli.config.components import NETWORKS, OPTIONAL
from sana_cli.config.networks import OwnSettings, RunDefaults, TransformerConfig
from sana_cli.config.variants import Variant
from sana_cli.errors import checkpoint_error

_Config = TypeVar("_Config")

_SCHEDULERS: dict[str, SchedulerName] = {
    "DPMSolverMultistepScheduler": "flow-dpm",
    "FlowMatchEulerDiscreteScheduler": "flow-euler",
    "SCMScheduler": "scm",
}


def part_config(
    folder: Path, component: str, parse: Callable[[dict[str, Any]], _Config]
) -> _Config:
    """Read a component's `config.json` with `parse`; SanaError where it describes another class of network."""
    path = folder / component / "config.json"
    require_class(component, read_json(path))
    return read_config(path, parse)


def own_settings(folder: Path) -> OwnSettings:
    """Read `sana.json`, which says what its author recommends; empty settings for a folder without one."""
    path = folder / "sana.json"
    return read_config(path, OwnSettings.from_dict) if os.path.lexists(path) else OwnSettings()


def manifest_of(folder: Path) -> Manifest | None:
    """Read the manifest of a quantized folder; None for any other. SanaError where it or a file that it lists is unfit."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    try:
        manifest = read_manifest(folder)
        if {*manifest.components} - {*OPTIONAL} != {*NETWORKS}:
            raise FormatError(f"its components are not {', '.join(NETWORKS)}")
    except FormatError as error:
        first = "install a newer sana" if "newer" in str(error) else "copy the folder again"
        raise checkpoint_error(
            f"{path}: {one_line(error)}", hint=f"{first}, or quantize the model again"
        ) from error
    except OSError as error:
        raise unreadable(path, "is no manifest", error) from error
    for part in manifest.components.values():
        if not (folder / part.file).is_file():
            raise checkpoint_error(
                f"missing file {folder / part.file}",
                hint="copy the folder again, or quantize the model again",
            )
    return manifest


def trained_precision(
    headers: Headers, manifest: Manifest | None, variant: Variant | None, own: OwnSettings
) -> str:
    """Return fp32, bf16 or fp16. The stored dtype comes last: half models are published in fp32 files, too."""
    if manifest is not None:
        return manifest.base_precision
    found = variant.precision if variant else own.precision or main_dtype(headers)
    if found not in PRECISIONS:
        raise checkpoint_error(
            f"the transformer is stored in {found}, which is not a type that Sana computes in",
            hint="use a release in fp32, bf16 or fp16, or a folder made by `sana quantize`",
        )
    return found


def run_defaults(
    folder: Path, config: TransformerConfig, variant: Variant | None, own: OwnSettings
) -> RunDefaults:
    """Return the settings used when the user gives none: those of `sana.json`, else the published
    ones.
    """
    sprint = config.guidance_embeds

    def parse(found: dict[str, Any]) -> RunDefaults:
        name = found.get("_class_name")
        if name not in _SCHEDULERS:
            raise ValueError(f"scheduler {name!r} is none of {', '.join(_SCHEDULERS)}")
        prediction = found.get("prediction_type", "flow_prediction")
        flow = found.get("use_flow_sigmas", True) and prediction == "flow_prediction"
        if name == "DPMSolverMultistepScheduler" and not flow:
            raise ValueError(f"a sampler for {prediction!r} is not one for flow models")
        return RunDefaults(
            steps=own.steps or (variant.steps if variant else 2 if sprint else 20),
            guidance_scale=(variant.guidance if variant else 4.5)
            if own.guidance is None
            else own.guidance,
            scheduler="scm" if sprint else _SCHEDULERS[name],
            flow_shift=float(found.get("flow_shift", found.get("shift", 3.0))),
            native_size=own.native_size or config.sample_size * 32,
            enhance=own.enhance,
        )

    return read_config(folder / "scheduler/scheduler_config.json", parse)
