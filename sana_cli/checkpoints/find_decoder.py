"""Find the decoder that `--decoder` names, and refuse one that does not fit the model. No torch, but for a `.pth` file.

In this order: a decoder that the model's folder brings (`decoders/NAME`), a folder or `.pth` file, a published one by its
short name, a repository of the hub. Nothing is downloaded here, `obtain_decoder.py` does that.
"""

from pathlib import Path
from typing import NoReturn

from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.decoder_files import OtherDecoder, decoder_shapes
from sana_cli.checkpoints.digest import files_digest
from sana_cli.checkpoints.model_files import CORRUPT, read_config, read_json, unreadable
from sana_cli.checkpoints.model_names import looks_like_repo
from sana_cli.checkpoints.packed_weights import unpacked_decoder
from sana_cli.checkpoints.shapes import require_shapes
from sana_cli.config.decoders import DECODERS, FULL, PUBLISHED_SCALING, TINY, PublishedDecoder
from sana_cli.config.networks import DCAEConfig, TinyDecoderConfig
from sana_cli.config.places import models_folder
from sana_cli.errors import ExitCode, SanaError, checkpoint_error, usage_error
from sana_cli.files import local_path
from sana_cli.system.home import without_home
from sana_cli.text import did_you_mean, readable_bytes

OWN_FOLDER = "decoders"  # in a model's folder
_NO_DECODER = "give the folder of an AutoencoderDC or of a tiny decoder, or TAESANA's .pth file"


def find_decoder(name: str | None, checkpoint: Checkpoint) -> OtherDecoder | None:
    """The decoder of this name for a model; None for the model's own.

    SanaError where there is none, where its files are not here, and where it does not fit the model.
    """
    if name in (None, FULL):
        return None
    assert name is not None
    own = own_decoder(name, checkpoint)
    if own is not None:
        return own
    path = local_path(name)
    published = DECODERS.get(name)
    if published is not None and not path.exists():
        require_latents(name, PUBLISHED_SCALING, checkpoint)
        return opened(name, _place_of(published, checkpoint), checkpoint)
    if path.exists():
        return opened(without_home(path.resolve()), _part_in(path), checkpoint)
    if looks_like_repo(name):
        found = hub_folder(name)
        if found is None:
            raise not_here(name, checkpoint)
        return opened(name, found, checkpoint)
    raise _unknown(name, checkpoint)


def own_decoder(name: str, checkpoint: Checkpoint) -> OtherDecoder | None:
    """The decoder that the model's folder brings under this name; None where it brings none. SanaError as `local_path`."""
    if name != Path(name).name or name in ("", ".", ".."):
        return None
    local_path(name)
    folder = checkpoint.folder / OWN_FOLDER / name
    return opened(name, folder, checkpoint) if folder.is_dir() else None


def tiny_here(checkpoint: Checkpoint) -> OtherDecoder | None:
    """The tiny decoder for a model if its files are here and fit; None otherwise, whatever the reason."""
    try:
        return find_decoder(TINY, checkpoint)
    except (SanaError, OSError):
        return None


def kept_file(published: PublishedDecoder) -> Path:
    """Return where the file of a published decoder is kept."""
    return models_folder() / OWN_FOLDER / published.file


def hub_folder(repo_id: str) -> Path | None:
    """The folder of a decoder in the hub's cache; None where it is not whole."""
    cached = hub_cache.find(repo_id)
    folder = cached.snapshot if cached is not None else None
    if folder is None or not (folder / "config.json").is_file():
        return None
    return folder if any(folder.glob("diffusion_pytorch_model*.safetensors")) else None


def require_latents(name: str, scaling_factor: float, checkpoint: Checkpoint) -> None:
    """SanaError for a decoder of other latents: autoencoders differ in their scaling factor."""
    own = checkpoint.vae.scaling_factor
    if abs(own - scaling_factor) > 1e-4 * own:
        brought = _names_in(checkpoint)
        # Works for a decoder of the settings, too, which no command line names.
        hint = f"use the model's own: --decoder {' or '.join(['full', *brought])}"
        raise usage_error(
            f"the decoder {name} does not fit {checkpoint.name}: it decodes latents of another autoencoder "
            f"(scaled by {scaling_factor:g}, the model's by {own:g})",
            hint,
        )


def opened(name: str, path: Path, checkpoint: Checkpoint) -> OtherDecoder:
    """A decoder's files as one that fits the model, unpacked; SanaError where they do not fit."""
    path = unpacked_decoder(path)
    config = config_of(path)
    own = checkpoint.vae
    require_latents(name, config.scaling_factor, checkpoint)
    if config.downscale != own.downscale or config.latent_channels != own.latent_channels:
        raise usage_error(
            f"the decoder {name} (f{config.downscale}c{config.latent_channels}) does not fit "
            f"{checkpoint.name} (f{own.downscale}c{own.latent_channels})",
            "use a decoder of the model's own autoencoder",
        )
    if isinstance(config, DCAEConfig):
        if config.in_channels != own.in_channels:
            raise checkpoint_error(
                f"{path} decodes to {config.in_channels} channels", hint=_NO_DECODER
            )
        if config.attention_head_dim != own.attention_head_dim and _attends(own):
            raise checkpoint_error(
                f"{path} attends in heads of {config.attention_head_dim} channels, "
                f"{checkpoint.name} in heads of {own.attention_head_dim}",
                hint="use a decoder of the model's own autoencoder",
            )
    decoder = OtherDecoder(name=name, config=config, path=path, digest="")
    require_shapes(decoder_shapes(config), decoder.headers(), f"decoder {name}")
    files = sorted(decoder.paths)
    settings = [] if path.is_file() else [path / "config.json"]
    return OtherDecoder(
        name=name, config=config, path=path, digest=_digest(path, [*settings, *files])
    )


def _digest(path: Path, files: list[Path]) -> str:
    try:
        return files_digest(files)
    except OSError as error:
        raise unreadable(path, CORRUPT, error) from error


def not_here(name: str, checkpoint: Checkpoint) -> SanaError:
    """The error for a decoder that would have to be downloaded first."""
    published = DECODERS.get(name)
    size = f", {readable_bytes(published.bytes)}" if published else ""
    return SanaError(
        f"the decoder {name} is not here",
        hint=f"`sana pull {checkpoint.name} --decoder {name}` downloads it{size}",
        code=ExitCode.ENVIRONMENT,
    )


def _place_of(published: PublishedDecoder, checkpoint: Checkpoint) -> Path:
    if published.kind == "hub":
        found = hub_folder(published.source)
    else:
        file = kept_file(published)
        found = file if file.is_file() else None
    if found is None:
        raise not_here(published.name, checkpoint)
    return found


def _part_in(path: Path) -> Path:
    """The decoder in what a person names: a file, its folder, or a model's folder."""
    if path.is_file():
        if path.suffix not in (".pth", ".pt"):
            raise checkpoint_error(f"{path} is no .pth file", hint=_NO_DECODER)
        return path
    return path / "vae" if (path / "vae/config.json").is_file() else path


def config_of(path: Path) -> DCAEConfig | TinyDecoderConfig:
    """Read a decoder's configuration; a `.pth` file is TAESANA's, which has none of its own."""
    if path.is_file():
        return TinyDecoderConfig()
    file = path / "config.json"
    kind = read_json(file).get("_class_name")
    if kind == "TinyDecoder":
        return read_config(file, TinyDecoderConfig.from_dict)
    if kind not in (None, "AutoencoderDC"):
        raise checkpoint_error(f"{path} is a {str(kind)[:60]}, no decoder", hint=_NO_DECODER)
    return read_config(file, DCAEConfig.from_dict)


def _attends(own: DCAEConfig) -> bool:
    return any(
        kind != "ResBlock" and count
        for kind, count in zip(own.encoder_stage_types, own.encoder_layers_per_block, strict=True)
    )


def _names_in(checkpoint: Checkpoint) -> list[str]:
    folder = checkpoint.folder / OWN_FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _unknown(name: str, checkpoint: Checkpoint) -> NoReturn:
    known = [FULL, *dict.fromkeys([*DECODERS, *_names_in(checkpoint)])]
    raise usage_error(
        f"there is no decoder {name!r}{did_you_mean(name, known)}",
        f"known: {', '.join(known)}; or a folder, a .pth file or a hub id",
    )
