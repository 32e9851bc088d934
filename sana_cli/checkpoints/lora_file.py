"""LoRA files: which layers they change, by their headers. No torch.

Named as diffusers and PEFT save them, as kohya's sd-scripts do, whose names have underscores for dots, or after
NVIDIA's original layers. So names are a model's only once its layers are known (`in_model`). A file without any
`alpha` means one of the rank, as theirs do.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import isfinite, prod
from pathlib import Path
from typing import Any
from warnings import catch_warnings

from quant.files import read_small_text
from quant.manifest import sha256_of
from sana_cli.checkpoints.model_files import reading
from sana_cli.checkpoints.native_names import published_layers
from sana_cli.checkpoints.safetensors_headers import read_header, read_metadata
from sana_cli.errors import SanaError, checkpoint_error, usage_error
from sana_cli.files import require_file, require_utf8_name
from sana_cli.system.home import without_home

# What PEFT, diffusers, sd-scripts, OneTrainer, LyCORIS and others put before a layer's path, alone or several, with a
# dot or underscore after it. A block's own name begins like one of them.
_PREFIX = re.compile(
    r"(?:base_model[._]model|model|module|diffusion_model|unet|lora_unet|lora_transformer|lycoris"
    r"|transformer(?!_blocks[._]))[._]"
)
_TEXT_ENCODER = re.compile(r"text_encoder|lora_te\d*[._]|te\d*[._]")
_IN_FOLDERS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")  # PEFT, diffusers
_DOWN = re.compile(r"(.+)\.(?:lora_A(?:\.\w+)?|lora_down|lora\.down)\.weight")
_UP = re.compile(r"(.+)\.(?:lora_B(?:\.\w+)?|lora_up|lora\.up)\.weight")
_ALPHA = re.compile(r"(.+?)(?:\.lora_[AB](?:\.\w+)?)?\.alpha")
_OTHER_KINDS = {
    "lora_magnitude_vector": "DoRA",
    "dora_scale": "DoRA",
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "lora_mid": "LoCon of three factors",
    "oft_": "OFT",
    "vera_lambda": "VeRA",
    "ia3_l": "IA3",
    "glora": "GLoRA",
    "lora_B.bias": "LoRA with biases",
    "lora_up.bias": "LoRA with biases",
    ".diff": "difference of whole weights",
    "emb_params": "textual inversion",
}
_MOST_CHOICES = 3  # repeats and groups in a pattern of layers; time grows with the power of it
_LONGEST = 128  # characters of a layer's path or a pattern; the bases of that power
_LARGEST_ALPHA = 1e9
_MOST = 100.0  # of a scale; larger ones are typing mistakes
_TRAINING_HINT = "look in the file's metadata, or in adapter_config.json next to it"
_TRAINER = "the training program saved it so: save it again with another program"
_ADAPTER_CONFIG = "adapter_config.json"  # next to a file that PEFT saved


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraLayer:
    """The change to a weight (N, K, ...): up (N, R) @ down (R, K, ...), times alpha / R."""

    down: str  # names of tensors
    up: str
    rank: int
    down_shape: tuple[int, ...]
    up_shape: tuple[int, ...]
    first_row: int = 0  # of N in the stored up: a projection may be a third of a fused one
    alpha_name: str | None  # of a tensor with one number
    alpha: float | None  # from the file's metadata; None, and no tensor: the rank


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFile:
    """A file whose layers are understood; whether they are a model's is not known yet."""

    path: Path
    digest: str  # SHA-256
    bytes: int
    layers: Mapping[str, LoraLayer] = field(hash=False)  # by path within the transformer
    by_root_of_rank: bool  # alpha / sqrt(R) instead of alpha / R (rsLoRA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A file and how strongly it counts."""

    file: LoraFile
    scale: float

    def __str__(self) -> str:
        """Return the form that `parse_lora` reads and pictures store."""
        return f"{without_home(self.file.path)}:{self.scale!r}"


def in_model(lora: Lora, paths: Iterable[str]) -> Lora:
    """Rename a LoRA's layers to those of a model, which have these paths; unknown ones keep their
    names.

    Paths are compared without a difference between dots and underscores, which trainers mix.
    """
    by_flat = {path.replace(".", "_"): path for path in paths}
    layers: dict[str, LoraLayer] = {}
    for place, layer in lora.file.layers.items():
        for path, part in _parts(place, layer, by_flat):
            if path in layers:
                raise _twice(lora.file.path, path)
            layers[path] = part
    return replace(lora, file=replace(lora.file, layers=layers))


def _parts(
    place: str, layer: LoraLayer, by_flat: Mapping[str, str]
) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the model's layers that a LoRA's layer changes: several for NVIDIA's fused projections."""
    flat = place.replace(".", "_")
    native = [
        by_flat.get(name) or by_flat.get(name.replace("time_embed_emb_", "time_embed_"))  # Sprint's
        for name in (each.replace(".", "_") for each in published_layers(place))
    ]
    known = [path for path in native if path is not None]
    if flat in by_flat or not native or len(known) < len(native):
        yield by_flat.get(flat, place), layer
        return
    rows = layer.up_shape[0] // len(known)
    for n, path in enumerate(known):
        yield path, replace(layer, up_shape=(rows, *layer.up_shape[1:]), first_row=n * rows)


def parse_lora(text: str) -> tuple[str, float]:
    """Read "style.safetensors:0.8" as a path and a scale; SanaError (usage) for a scale that cannot be."""
    path, colon, number = text.rpartition(":")
    if not colon or not path or _is_file(text):
        return text, 1.0
    try:
        scale = float(number)
    except ValueError:
        return text, 1.0  # a colon of the path
    if not isfinite(scale) or abs(scale) > _MOST:
        raise usage_error(
            f"--lora {text}: a scale of {number} is out of range",
            "write FILE:0.8; 1 is the strength it was trained for",
        )
    return path, scale


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def open_loras(wanted: Iterable[tuple[Path, float]]) -> tuple[Lora, ...]:
    """Open and check every LoRA file. Raises SanaError for one that is missing or no LoRA."""
    return tuple(Lora(file=_open(path), scale=scale) for path, scale in wanted)


def _open(path: Path) -> LoraFile:
    path = _adapter_in(path) if path.is_dir() else path
    hint = "--lora takes a .safetensors file, a folder with one, or FILE:SCALE with a number"
    require_file(path, "LoRA", hint)
    require_utf8_name(path, "the LoRA")
    state = path.stat()
    return _examined(path, state.st_size, state.st_mtime_ns)


def _adapter_in(folder: Path) -> Path:
    """The LoRA in a folder: under the name that PEFT or diffusers gives it, or the only file that could be one."""
    with reading(folder):
        found = sorted(path.name for path in folder.glob("*.safetensors"))
    known = [name for name in _IN_FOLDERS if name in found]
    if known or len(found) == 1:
        return folder / (known or found)[0]
    others = sorted(
        p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt")
    )
    if others and not found:
        raise checkpoint_error(
            f"the folder {folder} holds no .safetensors file, but {others[0]}",
            hint="other formats can run code when they are read: get the LoRA as .safetensors",
        )
    what = "several LoRAs" if found else f"no {' or '.join(_IN_FOLDERS)}"
    raise usage_error(f"the folder {folder} holds {what}", "--lora FOLDER/FILE.safetensors")


@cache
def _examined(path: Path, size: int, changed_ns: int) -> LoraFile:
    """Examine a file once for each of its states: a batch asks for it again and again."""
    if path.suffix != ".safetensors":
        raise checkpoint_error(
            f"{path} is not a .safetensors file",
            hint="other formats can run code when they are read",
        )
    headers, settings = read_header(path), _settings(path)
    if settings.get("use_dora"):
        raise _other_kind(path, "DoRA")
    downs: dict[str, str] = {}
    ups: dict[str, str] = {}
    alphas: dict[str, str] = {}
    unknown = []
    for name in headers:
        for pattern, found in ((_DOWN, downs), (_UP, ups), (_ALPHA, alphas)):
            if match := pattern.fullmatch(name):
                place = _layer_path(match[1], path)
                if place in found:
                    raise _twice(path, place)
                found[place] = name
                break
        else:
            unknown.append(name)
    _refuse(unknown, path)
    lone = sorted(set(downs) ^ set(ups) | set(alphas) - set(downs))
    if lone or not downs:
        what = f"{lone[0]} has only a half" if lone else "it changes no layer"
        raise checkpoint_error(f"{path}: {what}", hint="is the file whole, and a LoRA?")
    layers = {}
    for place, down in downs.items():
        for half in (down, ups[place]):
            if headers[half][0].startswith(("I", "U", "B8", "BOOL")):
                raise checkpoint_error(
                    f"{path}: {half} holds {headers[half][0]}, no floating-point numbers",
                    hint=_TRAINER,
                )
        shapes = headers[down][1], headers[ups[place]][1]
        if (
            min(map(len, shapes)) < 2
            or shapes[0][0] != shapes[1][1]
            or 0 in (*shapes[0], *shapes[1])
        ):
            raise checkpoint_error(
                f"{path}: the halves of {place} have the shapes {list(shapes[0])} and "
                f"{list(shapes[1])}, which do not multiply",
                hint=_TRAINER,
            )
        alpha_name = alphas.get(place)
        if alpha_name is not None and prod(headers[alpha_name][1]) != 1:
            raise checkpoint_error(f"{path}: {alpha_name} is not one number", hint=_TRAINER)
        layers[place] = LoraLayer(
            down=down, up=ups[place], rank=shapes[0][0], down_shape=shapes[0], up_shape=shapes[1],
            alpha_name=alpha_name, alpha=_alpha(settings, place, path),
        )  # fmt: skip
    return LoraFile(
        path=path, digest=sha256_of(path), bytes=size, layers=layers,
        by_root_of_rank=bool(settings.get("use_rslora")),
    )  # fmt: skip


def _layer_path(name: str, path: Path) -> str:
    while not _TEXT_ENCODER.match(name) and (prefix := _PREFIX.match(name)):
        name = name[prefix.end() :]
    if _TEXT_ENCODER.match(name):
        raise checkpoint_error(
            f"{path} changes the text encoder ({name}), which no LoRA for Sana changes",
            hint="it was made for another kind of model",
        )
    if len(name) > _LONGEST:
        raise checkpoint_error(
            f"{path} changes {name[:60]}..., which no model has", hint="is the file a LoRA?"
        )
    return name


def _refuse(unknown: list[str], path: Path) -> None:
    for name in unknown:
        for mark, kind in _OTHER_KINDS.items():
            if mark in name:
                raise _other_kind(path, kind)
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise checkpoint_error(
            f"{path}: unknown tensor {unknown[0][:100]}{more}",
            hint="LoRAs in diffusers', PEFT's or kohya's naming are read: LAYER.lora_A.weight and LAYER.lora_B.weight, or "
            "lora_unet_LAYER.lora_down.weight and .lora_up.weight",
        )


def _other_kind(path: Path, kind: str) -> SanaError:
    article = "an" if kind in ("OFT", "IA3") else "a"
    return checkpoint_error(
        f"{path} is {article} {kind}, not a plain LoRA", hint="plain LoRAs are read"
    )


def _twice(path: Path, place: str) -> SanaError:
    return checkpoint_error(
        f"{path} changes {place} twice, under two names", hint="keep one of the names"
    )


def _settings(path: Path) -> dict[str, Any]:
    """Read the training settings: from the file's metadata (diffusers) or a file next to it (PEFT)."""
    text = read_metadata(path).get("lora_adapter_metadata")
    config = path.with_name(_ADAPTER_CONFIG)
    try:
        if text is None and path.stem == "adapter_model" and config.is_file():
            text = read_small_text(config)
        found = json.loads(text) if text is not None else {}
    except (OSError, ValueError, RecursionError) as error:
        raise checkpoint_error(
            f"{path}: its training metadata cannot be read", hint=_TRAINING_HINT
        ) from error
    if not isinstance(found, dict):
        raise checkpoint_error(f"{path}: its training metadata cannot be read", hint=_TRAINING_HINT)
    return {str(key).removeprefix("transformer."): value for key, value in found.items()}


def _alpha(settings: Mapping[str, Any], place: str, path: Path) -> float | None:
    """The alpha of a layer: of the first pattern that fits, as in PEFT (`get_pattern_key`), else the common one."""
    value = settings.get("lora_alpha")
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise checkpoint_error(
            f"{path}: its alpha_pattern is {str(patterns)[:60]}, which names no layers",
            hint=_TRAINING_HINT,
        )
    for key, special in patterns.items():
        if _is_meant(place, str(key), path):
            value = special
            break
    if value is None:
        return None
    if type(value) not in (int, float) or not abs(value) <= _LARGEST_ALPHA:
        raise checkpoint_error(
            f"{path}: the alpha of {place} is {str(value)[:60]}, which is not a usable number",
            hint=_TRAINING_HINT,
        )
    return float(value)


def _is_meant(place: str, pattern: str, path: Path) -> bool:
    # A regular expression of a stranger: those that could take for ever are left to nobody.
    choices = re.findall(r"[*+{(]|(?<!\()\?", pattern)
    endless = (
        re.search(r"\)[*+{]", pattern) or len(choices) > _MOST_CHOICES or len(pattern) > _LONGEST
    )
    try:
        if not endless:
            with catch_warnings(action="error"):
                return re.fullmatch(rf"(.*\.)?({pattern})", place) is not None
    except (re.error, OverflowError, Warning):
        pass
    raise checkpoint_error(
        f"{path}: its alpha_pattern {pattern[:60]!r} cannot be used",
        hint="patterns are paths of layers, or simple regular expressions of them",
    )
