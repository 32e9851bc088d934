"""Open a model's name or path as a checked `Checkpoint`: its files exist and its configuration
fits.

Accepted: a folder in the diffusers layout, an original `.pth` transformer, an alias or hub id, and
`builtin`. Nothing heavy is imported for a folder, so mistakes are reported at once.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.manifest import Manifest
from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.checkpoint import Checkpoint, weight_headers
from sana_cli.checkpoints.file_selection import TOKENIZER
from sana_cli.checkpoints.fitness import (
    PartConfig,
    naming_pipeline,
    require_fitting_parts,
    require_fitting_tensors,
    require_pipeline,
)
from sana_cli.checkpoints.folder_facts import (
    manifest_of,
    own_settings,
    part_config,
    run_defaults,
    trained_precision,
)
from sana_cli.checkpoints.model_files import read_json, require_json_object
from sana_cli.checkpoints.model_names import (
    BUILTIN_FOLDER,
    kept_folder,
    looks_like_repo,
    refuse_part,
    require_name,
    unknown_model,
)
from sana_cli.checkpoints.obtaining import Absent, Access, Found, obtain, outlined, published
from sana_cli.checkpoints.other_quantization import refuse_config
from sana_cli.config.components import COMPONENTS, NETWORKS, OPTIONAL
from sana_cli.config.generation import BUILTIN
from sana_cli.config.networks import (
    ControlNetConfig,
    DCAEConfig,
    Gemma2Config,
    OwnSettings,
    TransformerConfig,
)
from sana_cli.config.variants import Variant, find_variant, match_structure
from sana_cli.errors import ExitCode, SanaError, checkpoint_error
from sana_cli.files import in_utf8, local_path, require_file

if TYPE_CHECKING:
    from sana_cli.checkpoints.hub import Offer

_log = logging.getLogger("sana.model")


def argument_for(checkpoint: Checkpoint) -> str:
    """Write what `--model` takes for a checkpoint: its name, or the path of a folder or file of the user's."""
    name = checkpoint.name
    if checkpoint.revision or name == BUILTIN or find_variant(name) or kept_folder(name):
        return name
    return str(checkpoint.pth or checkpoint.folder)


def open_checkpoint(
    model: str, access: Access | None = None, *, offline: bool = False
) -> Checkpoint:
    """Find a model, downloading what it needs as far as `access` goes; SanaError says what is wrong.

    `offline` is short for an access that asks nobody. With `access.planning` the checkpoint may be `absent`.
    """
    access = access or Access(offline=offline)
    require_name(model)
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
        return _open_folder(path, name=in_utf8(path.resolve().name))
    if (kept := kept_folder(model)) is not None:
        return _open_folder(kept, name=in_utf8(model))
    refuse_part(path)
    if path.suffix in (".pth", ".pt") or path.is_file():
        return _open_pth(path, name=in_utf8(model), access=access)
    variant = find_variant(model)
    if variant is None and not looks_like_repo(model):
        raise unknown_model(model)

    def opened(found: Found) -> Checkpoint:
        return _open_folder(
            found.folder, name=model, revision=found.revision, variant=variant, absent=found.absent
        )

    return opened(obtain(variant.repo if variant else model, variant, access, judge=opened))


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
    """Open a published model as `absent`, by its configuration alone, without asking the hub."""
    found = published(variant)
    return _open_folder(found.folder, name=variant.alias, variant=variant, absent=found.absent)


def open_snapshot(name: str, snapshot: Path, variant: Variant | None) -> Checkpoint:
    """Open a model from a complete folder of the hub's cache, without asking huggingface_hub."""
    return _open_folder(snapshot, name=name, revision=snapshot.name, variant=variant)


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
    snapshot = complete_snapshot(name, variant)
    return open_snapshot(name, snapshot, variant) if snapshot is not None else None


def complete_snapshot(name: str, variant: Variant | None) -> Path | None:
    """Return the folder of the hub's cache with all files of a model, None where some are missing."""
    repo = variant.repo if variant else name
    cached = hub_cache.find(repo, weight_variant=variant.weight_variant if variant else None)
    return cached.snapshot if cached is not None and cached.complete else None


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
    index = read_json(folder / "model_index.json")
    with naming_pipeline(name, index):
        opened = _open_parts(folder, name=name, revision=revision, variant=variant, absent=absent)
        require_pipeline(index)
    return opened


def _open_parts(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    variant: Variant | None,
    absent: Absent | None,
) -> Checkpoint:
    for component in (*NETWORKS, *OPTIONAL):
        refuse_config(folder / component)
    config = part_config(folder, "transformer", TransformerConfig.from_dict)
    vae = part_config(folder, "vae", DCAEConfig.from_dict)
    text = part_config(folder, "text_encoder", Gemma2Config.from_dict)
    require_fitting_parts(config, vae, text)
    own = own_settings(folder)
    manifest = manifest_of(folder)
    defaults = run_defaults(folder, config, variant, own)
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
        controlnet=_controlnet(folder, config, manifest),
    )
    transformer = weight_headers(checkpoint, "transformer")
    trained = trained_precision(transformer, manifest, variant, own)
    _require_fitting_tensors(checkpoint, text)
    if absent is None:
        require_json_object(folder / TOKENIZER, "is not a readable tokenizer")
    return replace(checkpoint, trained_precision=trained)


def _open_pth(path: Path, *, name: str, access: Access) -> Checkpoint:
    """An original transformer file; its other parts come from the matching published model."""
    require_file(path, "file", "check the path", ExitCode.CHECKPOINT)
    from sana_cli.checkpoints.pth import read_pth, stored_precision

    original = read_pth(path)
    config = original.config
    variant = _published_variant(config)

    def opened(found: Found) -> Checkpoint:
        folder = found.folder
        vae = part_config(folder, "vae", DCAEConfig.from_dict)
        text = part_config(folder, "text_encoder", Gemma2Config.from_dict)
        require_fitting_parts(config, vae, text)
        checkpoint = Checkpoint(
            name=name,
            folder=folder,
            revision=found.revision,
            pth=path,
            weight_variant=None,
            transformer=config,
            vae=vae,
            trained_precision=stored_precision(original.transformer),
            defaults=run_defaults(folder, config, variant, OwnSettings()),
            own=OwnSettings(),
            absent=found.absent,
            controlnet=original.controlnet_config,
        )
        _require_fitting_tensors(checkpoint, text)
        return checkpoint

    parts = [part for part in COMPONENTS if part != "transformer"]
    return opened(obtain(variant.repo, variant, access, judge=opened, components=parts))


def _controlnet(
    folder: Path, transformer: TransformerConfig, manifest: Manifest | None
) -> ControlNetConfig | None:
    """Read the description of a folder's ControlNet; None where it has none. SanaError for one of another base."""
    listed = manifest is None or "controlnet" in manifest.components
    if not listed or not (folder / "controlnet").is_dir():
        return None

    def parse(values: dict[str, Any]) -> ControlNetConfig:
        config = ControlNetConfig.from_dict(values)
        config.require_base(transformer)
        return config

    return part_config(folder, "controlnet", parse)


def _require_fitting_tensors(checkpoint: Checkpoint, text: Gemma2Config) -> None:
    configs: dict[str, PartConfig] = {
        "transformer": checkpoint.transformer, "vae": checkpoint.vae, "text_encoder": text,
    }  # fmt: skip
    if checkpoint.controlnet is not None:
        configs["controlnet"] = checkpoint.controlnet
    headers = {component: weight_headers(checkpoint, component) for component in checkpoint.parts}
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
