"""Open a model's name or path as a checked `Checkpoint`: its files exist and its configuration
fits.

Accepted: a folder in the diffusers layout, an original `.pth` transformer, an alias or hub id, and
`builtin`. Nothing heavy is imported for a folder, so mistakes are reported at once.
"""

import difflib
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from quant.manifest import MANIFEST, FormatError, Manifest, read_manifest
from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.file_selection import STEMS, TOKENIZER
from sana_cli.checkpoints.fitness import (
    PartConfig,
    naming_pipeline,
    require_class,
    require_fitting_tensors,
)
from sana_cli.checkpoints.lora_file import Lora
from sana_cli.checkpoints.model_files import one_line, read_config, read_json, unreadable
from sana_cli.checkpoints.obtaining import Absent, Access, Found, obtain, outlined, published
from sana_cli.checkpoints.other_quantization import refuse_config, refuse_tensors
from sana_cli.checkpoints.safetensors_headers import WeightFiles, main_dtype
from sana_cli.checkpoints.shapes import Headers
from sana_cli.config.networks import (
    DCAEConfig,
    Gemma2Config,
    OwnSettings,
    RunDefaults,
    SchedulerName,
    TransformerConfig,
)
from sana_cli.config.recipes import RECIPES
from sana_cli.config.user_settings import BUILTIN, models_folder
from sana_cli.config.variants import VARIANTS, Variant, find_variant, match_structure, suggest
from sana_cli.errors import ExitCode, SanaError, checkpoint_error, usage_error

if TYPE_CHECKING:
    from sana_cli.checkpoints.hub import Offer

_Config = TypeVar("_Config")

_log = logging.getLogger("sana.model")

BUILTIN_FOLDER = Path(__file__).parents[1] / "builtin"
_SCHEDULERS: dict[str, SchedulerName] = {
    "DPMSolverMultistepScheduler": "flow-dpm",
    "FlowMatchEulerDiscreteScheduler": "flow-euler",
    "SCMScheduler": "scm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model whose files are there and whose configuration makes sense; weights are not read yet."""

    name: str  # as asked for
    folder: Path  # holds vae/, text_encoder/, tokenizer/, scheduler/ and mostly transformer/
    revision: str | None  # of the hub, when it came from there
    pth: Path | None  # the transformer, when it is an original file
    weight_variant: str | None
    transformer: TransformerConfig
    vae: DCAEConfig
    trained_precision: str
    defaults: RunDefaults
    own: OwnSettings
    manifest: Manifest | None = None  # of a quantized folder
    absent: Absent | None = None  # known by its configuration and headers; it cannot be loaded
    loras: tuple[Lora, ...] = ()  # that its transformer is changed by


def open_checkpoint(
    model: str, access: Access | None = None, *, offline: bool = False
) -> Checkpoint:
    """Find a model, downloading what it needs as far as `access` goes; SanaError says what is wrong.

    `offline` is short for an access that asks nobody. With `access.planning` the checkpoint may be `absent`.
    """
    access = access or Access(offline=offline)
    path = local_path(model)
    if model == BUILTIN:
        if not (BUILTIN_FOLDER / "model_index.json").is_file():
            raise SanaError(
                "this installation comes without the built-in model",
                hint="install the package again, or name another model: --model sana-0.6b",
                code=ExitCode.ENVIRONMENT,
            )
        return _open_folder(BUILTIN_FOLDER, name=BUILTIN)
    if path.is_dir():
        return _open_folder(path, name=path.resolve().name)
    if (kept := kept_folder(model)) is not None:
        return _open_folder(kept, name=model)
    _refuse_part(path)
    if path.suffix in (".pth", ".pt") or path.is_file():
        return _open_pth(path, name=model, access=access)
    variant = find_variant(model)
    if variant is None and not looks_like_repo(model):
        raise _unknown_model(model)

    def opened(found: Found) -> Checkpoint:
        return _open_folder(
            found.folder, name=model, revision=found.revision, variant=variant, absent=found.absent
        )

    return opened(obtain(variant.repo if variant else model, variant, access, judge=opened))


def weight_files(checkpoint: Checkpoint, component: str) -> WeightFiles:
    """A component's safetensors files, by their headers. Not for the transformer of a .pth file."""
    # The variant is the transformer's; the other parts are the same in all their files.
    variant = checkpoint.weight_variant if component == "transformer" else None
    stem = STEMS[component] if checkpoint.manifest is None else "model"
    files = WeightFiles(checkpoint.folder / component, stem=stem, weight_variant=variant)
    if checkpoint.manifest is None:
        refuse_tensors(files.folder, files.headers)
    return files


def module_names(component: str, names: Iterable[str]) -> dict[str, str]:
    """The module's own name of every tensor -> its name in the file."""
    if component != "text_encoder":
        return {name: name for name in names}
    # Files saved with a language-model head have a prefix and maybe the head.
    return {name.removeprefix("model."): name for name in names if name != "lm_head.weight"}


def weight_headers(
    checkpoint: Checkpoint, component: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type (in safetensors' words) and shape of every tensor, under the module's own names."""
    if component == "transformer" and checkpoint.pth is not None:
        from sana_cli.checkpoints.pth import read_pth

        words = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
        tensors = read_pth(checkpoint.pth)[1]
        return {
            name: (words.get(str(tensor.dtype).removeprefix("torch."), "F32"), tuple(tensor.shape))
            for name, tensor in tensors.items()
        }
    if checkpoint.absent is not None:
        headers = checkpoint.absent.headers(component)
        refuse_tensors(checkpoint.folder / component, headers)
    else:
        headers = weight_files(checkpoint, component).headers
    names = module_names(component, headers)
    return {name: headers[stored] for name, stored in names.items()}


def local_path(text: str) -> Path:
    """Return a typed path with `~` resolved; raise SanaError when no file can have that name."""
    try:
        if "\0" in text:  # `is_file` says no
            raise ValueError(text)
        path = Path(text).expanduser()
        path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        shown = text if len(text) < 80 else f"{text[:80]}..."
        raise SanaError(
            f"{shown!r} cannot be a path", hint="check the spelling", code=ExitCode.USAGE
        ) from error
    return path


def judge_offer(offer: "Offer", *, name: str, variant: Variant | None) -> Checkpoint:
    """Open a model that the hub offers from its small files and headers; raise SanaError if it is
    unusable.
    """
    return outlined(
        offer,
        lambda found: _open_folder(
            found.folder, name=name, revision=found.revision, variant=variant, absent=found.absent
        ),
    )[1]


def open_published(variant: Variant) -> Checkpoint:
    """A published model by its configuration, whether it is here or not; it asks nobody and is `absent`."""
    found = published(variant)
    return _open_folder(found.folder, name=variant.alias, variant=variant, absent=found.absent)


def open_snapshot(name: str, snapshot: Path, variant: Variant | None) -> Checkpoint:
    """A model from a complete folder of the hub's cache, without asking huggingface_hub."""
    return _open_folder(snapshot, name=name, revision=snapshot.name, variant=variant)


def kept_folder(model: str) -> Path | None:
    """The quantized model of this name, among those that `sana quantize` keeps by name."""
    if model != Path(model).name or model in ("", ".", ".."):
        return None
    folder = models_folder() / model
    return folder if folder.is_dir() else None


def lasting_name(model: str) -> str:
    """Return a name that opens this model from any folder and on any later day; else raise
    SanaError.

    Hub names are not looked up; a missing repository shows when it is used.
    """
    path = local_path(model)
    if model == BUILTIN:
        return model
    if not model.strip():
        raise SanaError(
            "the model's name is empty", hint="`sana models` lists them", code=ExitCode.USAGE
        )
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise SanaError(
            f"{path} is not a model folder: it has no model_index.json",
            hint="give a known name, or the folder that holds transformer/, vae/ and the others",
            code=ExitCode.USAGE,
        )
    if path.exists():
        _refuse_part(path)
        return str(path.resolve())
    if kept_folder(model) is not None:
        return model
    if find_variant(model) is None and not looks_like_repo(model):
        raise _unknown_model(model)
    return model.strip()


def open_if_here(name: str) -> Checkpoint | None:
    """Open a model whose files are on this machine, None for another; raise SanaError if a run
    would refuse it.

    No hub is asked. `name` is one that `lasting_name` accepts.
    """
    path = local_path(name)
    if name == BUILTIN or path.exists() or kept_folder(name) is not None:
        try:
            return open_checkpoint(name, offline=True)
        except SanaError as error:
            if error.code == ExitCode.ENVIRONMENT:  # what a .pth file lacks is elsewhere
                return None
            raise
    variant = find_variant(name)
    repo = variant.repo if variant else name
    cached = hub_cache.find(repo, weight_variant=variant.weight_variant if variant else None)
    if cached is None or cached.snapshot is None or not cached.complete:
        return None
    return open_snapshot(name, cached.snapshot, variant)


def _refuse_part(path: Path) -> None:
    """SanaError for a file of a model folder; a .pth file is a whole transformer."""
    around = [
        folder for folder in list(path.parents)[:2] if (folder / "model_index.json").is_file()
    ]
    if path.suffix == ".safetensors" and not path.exists():
        raise usage_error(f"no such file: {path}", "check the path; `sana models` lists models")
    if path.suffix != ".safetensors" and not (
        around and path.is_file() and path.suffix not in (".pth", ".pt")
    ):
        return
    raise checkpoint_error(
        f"{path} is one part of a model",
        hint=f"name the folder: {around[0]}"
        if around
        else "give the folder that holds transformer/, vae/, text_encoder/ and tokenizer/",
    )


def looks_like_repo(model: str) -> bool:
    """Return whether `model` has the form `owner/name` and is not a mistyped path."""
    parts = model.split("/")
    return len(parts) == 2 and all(parts) and not model.startswith((".", "~"))


def _unknown_model(model: str) -> SanaError:
    close = suggest(model)
    folder = models_folder()
    kept = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
    if own := difflib.get_close_matches(model, [BUILTIN, *kept], n=1):
        close = own[0]
    names = ", ".join([BUILTIN, *VARIANTS, *kept])
    hint = f"did you mean {close}? " if close else ""
    for recipe in RECIPES:
        base = model.removesuffix(f"-{recipe}")
        if base != model and find_variant(base) is not None:
            hint = f"`sana pull {base} --quantize {recipe}` makes it; "
    return SanaError(
        f"unknown model {model!r}: neither a folder, a .pth file, a known name nor OWNER/NAME",
        hint=f"{hint}known names: {names}",
        code=ExitCode.USAGE,
    )


def _open_folder(
    folder: Path,
    *,
    name: str,
    revision: str | None = None,
    variant: Variant | None = None,
    absent: Absent | None = None,
) -> Checkpoint:
    if not (folder / "model_index.json").is_file():
        raise checkpoint_error(
            f"{folder} is not a model folder: it has no model_index.json",
            hint="give the folder that holds transformer/, vae/, text_encoder/ and tokenizer/",
        )
    _log.info("model %s: %s", name, folder)
    with naming_pipeline(name, read_json(folder / "model_index.json")):
        return _open_parts(folder, name=name, revision=revision, variant=variant, absent=absent)


def _open_parts(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    variant: Variant | None,
    absent: Absent | None,
) -> Checkpoint:
    for component in STEMS:
        refuse_config(folder / component)
    config = _part_config(folder, "transformer", TransformerConfig.from_dict)
    vae = _part_config(folder, "vae", DCAEConfig.from_dict)
    text = _part_config(folder, "text_encoder", Gemma2Config.from_dict)
    _require_fitting_parts(config, vae, text)
    own = _own_settings(folder)
    manifest = _read_manifest(folder)
    defaults = _run_defaults(folder, config, variant, own)
    checkpoint = Checkpoint(
        name=name,
        folder=folder,
        revision=revision,
        pth=None,
        weight_variant=variant.weight_variant if variant else None,
        transformer=config,
        vae=vae,
        trained_precision="",
        defaults=defaults,
        own=own,
        manifest=manifest,
        absent=absent,
    )
    transformer = weight_headers(checkpoint, "transformer")
    trained = _trained_precision(transformer, manifest, variant, own)
    _require_fitting_tensors(checkpoint, text)
    if absent is None and not (folder / TOKENIZER).is_file():
        raise checkpoint_error(f"missing file {folder / TOKENIZER}")
    return replace(checkpoint, trained_precision=trained)


def _part_config(
    folder: Path, component: str, parse: Callable[[dict[str, Any]], _Config]
) -> _Config:
    path = folder / component / "config.json"
    require_class(component, read_json(path))
    return read_config(path, parse)


def _trained_precision(
    headers: Headers, manifest: Manifest | None, variant: Variant | None, own: OwnSettings
) -> str:
    """The surest source first: the stored dtype is only a guess for fp32 files of half models."""
    if manifest is not None:
        return manifest.base_precision
    found = variant.precision if variant else own.precision or main_dtype(headers)
    if found not in ("fp32", "bf16", "fp16"):
        raise checkpoint_error(
            f"the transformer is stored in {found}, which is not a type that Sana computes in",
            hint="use a release in fp32, bf16 or fp16, or a folder made by `sana quantize`",
        )
    return found


def _read_manifest(folder: Path) -> Manifest | None:
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    try:
        manifest = read_manifest(folder)
        if set(manifest.components) != set(STEMS):
            raise FormatError(f"its components are not {', '.join(STEMS)}")
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


def _require_fitting_parts(
    transformer: TransformerConfig, vae: DCAEConfig, text: Gemma2Config
) -> None:
    if transformer.out_channels != transformer.in_channels or vae.in_channels != 3:
        raise checkpoint_error(
            f"a transformer from {transformer.in_channels} to {transformer.out_channels} channels, or an "
            f"autoencoder of {vae.in_channels}-channel pictures, draws nothing",
            hint="use the folder of a published Sana model",
        )
    if text.hidden_size != transformer.caption_channels:
        raise checkpoint_error(
            f"the text encoder is {text.hidden_size} wide, the transformer reads {transformer.caption_channels}",
            hint="use the text_encoder/ folder that belongs to this transformer",
        )
    if vae.downscale != 32 or vae.latent_channels != transformer.in_channels:
        raise checkpoint_error(
            f"the autoencoder (f{vae.downscale}c{vae.latent_channels}) does not fit the transformer "
            f"(f32c{transformer.in_channels})",
            hint="use the vae/ folder of a published Sana model",
        )


def _own_settings(folder: Path) -> OwnSettings:
    path = folder / "sana.json"
    return read_config(path, OwnSettings.from_dict) if os.path.lexists(path) else OwnSettings()


def _open_pth(path: Path, *, name: str, access: Access) -> Checkpoint:
    """An original transformer file; its other parts come from the matching published model."""
    if not path.is_file():
        raise checkpoint_error(f"no such file: {path}", hint="check the path")
    from sana_cli.checkpoints.pth import read_pth, stored_precision

    config, tensors = read_pth(path)
    variant = _published_variant(config)

    def opened(found: Found) -> Checkpoint:
        folder = found.folder
        vae = _part_config(folder, "vae", DCAEConfig.from_dict)
        text = _part_config(folder, "text_encoder", Gemma2Config.from_dict)
        _require_fitting_parts(config, vae, text)
        checkpoint = Checkpoint(
            name=name,
            folder=folder,
            revision=found.revision,
            pth=path,
            weight_variant=None,
            transformer=config,
            vae=vae,
            trained_precision=stored_precision(tensors),
            defaults=_run_defaults(folder, config, variant, OwnSettings()),
            own=OwnSettings(),
            absent=found.absent,
        )
        _require_fitting_tensors(checkpoint, text)
        return checkpoint

    parts = ("vae", "text_encoder", "tokenizer", "scheduler")
    return opened(obtain(variant.repo, variant, access, judge=opened, components=parts))


def _require_fitting_tensors(checkpoint: Checkpoint, text: Gemma2Config) -> None:
    configs: dict[str, PartConfig] = {
        "transformer": checkpoint.transformer, "vae": checkpoint.vae, "text_encoder": text,
    }  # fmt: skip
    headers = {component: weight_headers(checkpoint, component) for component in STEMS}
    require_fitting_tensors(configs, headers, checkpoint.manifest)


def _published_variant(config: TransformerConfig) -> Variant:
    """The published model that this transformer was made from, for the parts it lacks."""
    matches = match_structure(
        inner_dim=config.inner_dim,
        num_layers=config.num_layers,
        qk_norm=config.qk_norm is not None,
        guidance_embeds=config.guidance_embeds,
        sample_size=config.sample_size,
    )
    if not matches:
        raise checkpoint_error(
            "this .pth file matches no published Sana model",
            hint="use a folder in the diffusers layout, which holds the parts that this file lacks",
        )
    return matches[0]


def _run_defaults(
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
