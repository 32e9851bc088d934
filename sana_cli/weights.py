"""Read safetensors strictly: every expected tensor, nothing else, right shapes, finite values.

Tensors are views of the mapped file until they are converted or moved, so reading a checkpoint
never holds a second copy. Problems name the file and the tensor.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sana_cli.errors import ExitCode, SanaError
from sana_cli.weight_files import select_weights

_DTYPE_NAMES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp32"}


class WeightFiles:
    """The safetensors files of one component: which file holds which tensor, and their headers."""

    def __init__(self, folder: Path, *, stem: str, weight_variant: str | None = None) -> None:
        """`stem` is `diffusion_pytorch_model` or `model`; raises SanaError when files are unfit."""
        self.folder = folder
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        chosen = select_weights(names, stem=stem, weight_variant=weight_variant)
        if chosen is None:
            raise checkpoint_error(f"no weights in {folder}: expected {stem}.safetensors")
        files = _shards(folder / chosen) if chosen.endswith(".json") else [folder / chosen]
        self.headers: dict[str, tuple[str, tuple[int, ...]]] = {}  # name -> (dtype, shape)
        self._file_of: dict[str, Path] = {}
        for path in files:
            for name, (dtype, shape) in read_header(path).items():
                self.headers[name] = (dtype, shape)
                self._file_of[name] = path

    @property
    def dtype(self) -> str:
        """The dtype most elements are stored in: fp32, fp16, bf16, or the header's own word."""
        elements: dict[str, int] = {}
        for dtype, shape in self.headers.values():
            elements[dtype] = elements.get(dtype, 0) + torch.Size(shape).numel()
        most = max(elements, key=elements.__getitem__)
        return _DTYPE_NAMES.get(most, most)

    @property
    def total_bytes(self) -> int:
        return sum(path.stat().st_size for path in set(self._file_of.values()))

    def file_of(self, name: str) -> Path:
        return self._file_of[name]

    def read(self, name: str) -> Tensor:
        """One tensor as a view of its mapped file; the mapping goes with the last reference."""
        path = self._file_of[name]
        try:
            with safe_open(path, framework="pt") as handle:
                return handle.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise checkpoint_error(f"cannot read {name} from {path}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)


def _shards(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise checkpoint_error(f"{index} is not a readable weight index: {error}") from error
    for name in names:
        if not (index.parent / name).is_file():
            raise checkpoint_error(f"missing weight file {index.parent / name}")
    return [index.parent / name for name in names]


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> (safetensors dtype, shape), without reading data; checks the file's length."""
    try:
        with safe_open(path, framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {
                name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise checkpoint_error(f"{path} is truncated or corrupt: {error}") from error


def checkpoint_error(message: str, *, hint: str = "") -> SanaError:
    """An error about a model's files, with the remedy that fits most of them."""
    hint = hint or "download the file again, or delete it and let sana fetch it"
    return SanaError(message, hint=hint, code=ExitCode.CHECKPOINT)


def assign_weights(
    module: nn.Module,
    names: Mapping[str, str],
    read: Callable[[str], Tensor],
    *,
    component: str,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Fill a module built on the meta device.

    `names` maps every tensor of the checkpoint, under the module's own names, to the name that
    `read` understands. Raises SanaError naming missing, extra, misshapen and non-finite tensors.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    require_same_names(set(expected), set(names), component)
    state = {}
    for name, shape in expected.items():
        tensor = read(names[name])
        if tuple(tensor.shape) != shape:
            raise checkpoint_error(
                f"{component}: {name} has shape {list(tensor.shape)}, expected {list(shape)}",
                hint="config.json and the weights do not belong together",
            )
        _require_finite(tensor, name, component)
        state[name] = tensor.to(device=device, dtype=dtype)
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False)


def require_same_names(expected: set[str], found: set[str], component: str) -> None:
    """Raise SanaError naming tensors that a checkpoint lacks or should not have."""
    for problem, names in (("missing", expected - found), ("unexpected", found - expected)):
        if names:
            listed = ", ".join(sorted(names)[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise checkpoint_error(
                f"{component}: {problem} tensor {listed}{more}",
                hint="config.json and the weights do not belong together, or a file is incomplete",
            )


def _require_finite(tensor: Tensor, name: str, component: str) -> None:
    # One fast sum finds almost every bad tensor; a large finite one may overflow it, so look twice.
    if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
        raise checkpoint_error(f"{component}: {name} holds NaN or infinite values")
