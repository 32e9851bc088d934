"""Read NVIDIA's original `.pth` transformer files: names, fused projections, and configuration.

Only tensors are unpickled (`weights_only=True`); a file that wants to run code is refused. What else a trainer saves
next to them, such as the state of NumPy's random numbers, is replaced by a stand-in that does nothing.
"""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.serialization import safe_globals

from quant.dtypes import STORED_NAMES
from quant.files import open_regular
from sana_cli.checkpoints.model_files import NO_PTH, reading
from sana_cli.checkpoints.native_names import PREFIXES, published_names
from sana_cli.config.choices import ControlOrder
from sana_cli.config.networks import ControlNetConfig, TransformerConfig
from sana_cli.errors import checkpoint_error

# Buffers of training and of a stored position table; every loader recomputes or ignores them.
_DROPPED = ("y_embedder.y_embedding", "pos_embed", "logvar_linear.weight", "logvar_linear.bias")

# A ControlNet's tensors (NVlabs/Sana, `sana_multi_scale_controlnet.py`), and those of the base that it reads, too.
_BRANCH = "controlnet."
_COPIED = re.compile(r"^controlnet\.(\d+)\.copied_block\.")
_PROJECTION = re.compile(r"controlnet\.(\d+)\.(before|after)_proj\.(weight|bias)")
_EMBEDDERS = ("patch_embed.", "time_embed.", "caption_projection.", "caption_norm.")

# Width -> cross-attention heads, the one thing that shapes do not show.
_CROSS_HEADS = {1152: 16, 2240: 20}


class _Ignored:
    """Stands for an object that is no tensor, whatever it is made of."""

    def __new__(cls, *args: object) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _ignored_dict(*args: object) -> dict[object, object]:
    return {}


_IGNORED = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray", "numpy.dtype", "numpy.random.bit_generator.SeedSequence", "numpy.random.mtrand.RandomState",
    *(f"numpy.random._pickle.{name}" for name in ("__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor")),
    *(f"numpy.random._{name.lower()}.{name}" for name in ("MT19937", "PCG64", "Philox", "SFC64")),
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
    "argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.Path",
    *(f"builtins.{name}" for name in ("int", "float", "str", "bool", "list", "dict", "tuple")),
)  # fmt: skip
# Calling these by their own name would run NumPy's code on a stranger's bytes.
_STAND_INS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    *((_Ignored, name) for name in _IGNORED),
    (_ignored_dict, "collections.defaultdict"),
]
_LONGEST_PICKLE = 64 * 2**20  # bytes; those of models have less than one million
_DIFFUSERS = "its names are those of diffusers: such tensors go into transformer/ of a model folder, as safetensors"
_NO_SANA = "is this the transformer of a Sana model?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The contents of a `.pth` file: the transformer, and a ControlNet where it holds one. Tensors are mapped from the file."""

    config: TransformerConfig
    transformer: dict[str, Tensor]  # under published names
    controlnet_config: ControlNetConfig | None = None
    controlnet: dict[str, Tensor] = field(default_factory=dict)


def read_pth(path: Path) -> Original:
    """Read a `.pth` file. Raises SanaError for anything but a Sana transformer."""
    native = _unwrapped(_unpickle(path))
    branch = {name: native.pop(name) for name in [*native] if name.startswith(_BRANCH)}
    config, tensors = _transformer_of(native, path)
    if not branch:
        return Original(config=config, transformer=tensors)
    try:
        controlnet = _branch_of(branch, tensors, path)
        blocks = len({n.split(".")[1] for n in controlnet if n.startswith("transformer_blocks.")})
        described = ControlNetConfig(
            blocks=replace(config, num_layers=blocks), order=ControlOrder.TRAINED
        )
        described.require_base(config)
    except ValueError as error:
        raise checkpoint_error(
            f"{path}: its ControlNet does not fit its transformer: {error}", hint=_NO_SANA
        ) from error
    return Original(
        config=config, transformer=tensors, controlnet_config=described, controlnet=controlnet
    )


def read_part(path: Path, component: str) -> dict[str, Tensor]:
    """The tensors of one part of a `.pth` file, "transformer" or "controlnet". Errors as for `read_pth`."""
    original = read_pth(path)
    return original.transformer if component == "transformer" else original.controlnet


def _branch_of(
    native: Mapping[str, Tensor], base: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Name a ControlNet's tensors as diffusers does. Its embedders are its base's."""
    tensors = {name: tensor for name, tensor in base.items() if name.startswith(_EMBEDDERS)}
    for name, tensor in native.items():
        projection = _PROJECTION.fullmatch(name)
        if projection is None:
            plain = _COPIED.sub(r"blocks.\1.", name)
            tensors |= _convert(plain, tensor, path)
        else:
            i, kind, rest = projection.groups()
            where = "input_block" if kind == "before" else f"controlnet_blocks.{i}"
            tensors[f"{where}.{rest}"] = tensor
    return tensors


def _transformer_of(
    native: dict[str, Tensor], path: Path
) -> tuple[TransformerConfig, dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    try:
        for name, tensor in native.items():
            if name not in _DROPPED:
                tensors.update(_convert(name, tensor, path))
        if "time_embed.guidance_embedder.linear_1.weight" in tensors:  # Sprint has no `.emb` level
            tensors = {k.replace("time_embed.emb.", "time_embed."): v for k, v in tensors.items()}
        return _infer_config(tensors, native, path), tensors
    except (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError) as error:
        raise checkpoint_error(
            f"{path} holds tensors of shapes that no Sana transformer has",
            hint=_NO_SANA,
        ) from error


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the prefixes that all of them have from a program that wrapped the model."""
    while tensors and (
        prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in tensors)), "")
    ):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a `.pth` file of plain tensors, of whatever network, mapped from the file. Raises SanaError for any other."""
    return _unpickle(path)


def headers_of(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type (in safetensors' words) and shape of every tensor of a `.pth` file."""
    return {name: header_of(tensor) for name, tensor in read_tensors(path).items()}


def header_of(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """Type (in safetensors' words) and shape of a tensor."""
    stored = STORED_NAMES.get(str(tensor.dtype).removeprefix("torch."), "F32")
    return stored, tuple(tensor.shape)


def stored_precision(tensors: dict[str, Tensor]) -> str:
    """Return "fp16" or "bf16" when the weights are stored so, else "fp32".

    A file in fp32 does not say what it was trained in, and the wrong half precision draws garbage.
    """
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if dtypes == {torch.float16}:
        return "fp16"
    return "bf16" if dtypes == {torch.bfloat16} else "fp32"


def _unpickle(path: Path) -> dict[str, Tensor]:
    with reading(path, NO_PTH):
        zipped = _is_sane_zip(path)
        try:
            with warnings.catch_warnings(), safe_globals(_STAND_INS):
                warnings.simplefilter(
                    "ignore"
                )  # about the pickle protocol of files that fail anyway
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except (pickle.UnpicklingError, RuntimeError) as error:
            if "global" not in str(error).lower():
                raise RuntimeError(_reason(error)) from error
            raise checkpoint_error(
                f"{path} would run code when loaded; refused",
                hint="use a file of plain tensors, best the safetensors release of the model",
            ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(_is_plain(*item) for item in state.items()):
        raise checkpoint_error(f"{path} holds no state_dict of tensors", hint=_NO_SANA)
    return state


def _reason(error: Exception) -> str:
    """Return what torch says of a file, without its advice to developers."""
    text = str(error)
    return (text.partition("WeightsUnpickler error: ")[2] or text).partition("  (Could this")[0]


def _is_sane_zip(path: Path) -> bool:
    """Return whether a file is a zip archive, as torch writes since 1.6; others cannot be mapped.

    Raises SanaError for one that grows when unpacked: torch stores without compression, so
    unpacking would hold it all in memory.
    """
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            return False
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        size = os.fstat(file.fileno()).st_size
    grows = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if grows or sum(member.file_size for member in members) > size:
        raise checkpoint_error(
            f"{path} is a compressed archive, which torch.save does not write",
            hint="unpack it, and pack it again without compression (zip -0)",
        )
    pickles = (member.file_size for member in members if member.filename.endswith("data.pkl"))
    if max(pickles, default=0) > _LONGEST_PICKLE:
        raise checkpoint_error(
            f"{path} describes its tensors in more bytes than any model", hint=_NO_SANA
        )
    return True


def _is_plain(name: object, value: object) -> bool:
    """A named tensor whose values lie in the file, as the published ones do."""
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
        # Not an expanded view: a file of a few bytes must not expand to gigabytes.
        and value.untyped_storage().nbytes() >= value.numel() * value.itemsize
    )


def _convert(name: str, tensor: Tensor, path: Path) -> dict[str, Tensor]:
    if names := published_names(name):
        return dict(zip(names, tensor.chunk(len(names)), strict=True))
    hint = (
        _DIFFUSERS if re.match(r"transformer_blocks\.|caption_|patch_embed\.", name) else _NO_SANA
    )
    raise checkpoint_error(f"{path}: unexpected tensor {name}", hint=hint)


def _infer_config(
    tensors: dict[str, Tensor], native: dict[str, Tensor], path: Path
) -> TransformerConfig:
    try:
        D, in_channels = tensors["patch_embed.proj.weight"].shape[:2]
        caption_channels = tensors["caption_projection.linear_1.weight"].shape[1]
        point = tensors["transformer_blocks.0.ff.conv_point.weight"]
    except KeyError as error:
        raise checkpoint_error(f"{path}: missing tensor {error.args[0]}", hint=_NO_SANA) from error
    if D not in _CROSS_HEADS:
        raise checkpoint_error(
            f"{path}: no published Sana model is {D} wide",
            hint=f"known widths: {', '.join(map(str, _CROSS_HEADS))}",
        )
    layers = len({n.split(".")[1] for n in tensors if n.startswith("transformer_blocks.")})
    positions = native.get("pos_embed")
    sample_size = 32 if positions is None else round(positions.shape[1] ** 0.5)
    return TransformerConfig(
        in_channels=in_channels,
        out_channels=tensors["proj_out.weight"].shape[0] if "proj_out.weight" in tensors else 32,
        num_attention_heads=D // 32,
        num_layers=layers,
        num_cross_attention_heads=_CROSS_HEADS[D],
        cross_attention_head_dim=D // _CROSS_HEADS[D],
        cross_attention_dim=D,
        caption_channels=caption_channels,
        mlp_ratio=point.shape[1] / D,
        sample_size=sample_size,
        # Only the 2K and 4K models read positions; their published scales are 1 and 2.
        interpolation_scale={64: 1.0, 128: 2.0}.get(sample_size),
        guidance_embeds="time_embed.guidance_embedder.linear_1.weight" in tensors,
        qk_norm="rms_norm_across_heads"
        if "transformer_blocks.0.attn1.norm_q.weight" in tensors
        else None,
    )
