"""The safetensors files of a component, by their headers: names, dtypes, shapes. No torch."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from quant.files import open_regular, read_small_text
from sana_cli.errors import checkpoint_error
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
        self.headers: dict[str, tuple[str, tuple[int, ...]]] = {}  # name -> (dtype, shape)
        self._file_of: dict[str, Path] = {}
        self._starts: dict[Path, dict[str, int]] = {}
        if chosen.endswith(".json"):
            weight_map = _read_weight_map(folder / chosen)
            files = sorted(set(weight_map.values()))
        else:
            weight_map, files = None, [folder / chosen]
        for path in files:
            for name, header in read_header(path).items():
                if weight_map is not None and weight_map.get(name) != path:
                    raise checkpoint_error(
                        f"{path} holds {name}, which {chosen} does not expect there"
                    )
                self.headers[name] = header
                self._file_of[name] = path
        lost = set(weight_map or ()) - set(self.headers)
        if lost:
            raise checkpoint_error(f"missing tensor {min(lost)}, which {chosen} lists")
        if not self.headers:
            raise checkpoint_error(f"{folder / chosen} holds no tensors")

    @property
    def dtype(self) -> str:
        """The dtype most elements are stored in: fp32, fp16, bf16, or the header's own word."""
        elements: dict[str, int] = {}
        for dtype, shape in self.headers.values():
            elements[dtype] = elements.get(dtype, 0) + math.prod(shape)
        most = max(elements, key=elements.__getitem__)
        return _DTYPE_NAMES.get(most, most)

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(shape) for _, shape in self.headers.values())

    @property
    def paths(self) -> set[Path]:
        return set(self._file_of.values())

    @property
    def total_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    def file_of(self, name: str) -> Path:
        return self._file_of[name]

    def start_of(self, name: str) -> int:
        """The byte of its file at which a tensor begins."""
        path = self._file_of[name]
        if path not in self._starts:
            self._starts[path] = _read_starts(path)
        return self._starts[path][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)


def _read_weight_map(index: Path) -> dict[str, Path]:
    """Tensor -> shard, all of them beside the index."""
    try:
        weight_map = json.loads(read_small_text(index))["weight_map"]
        names = {str(tensor): str(file) for tensor, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise checkpoint_error(f"{index} is not a readable weight index") from error
    for file in set(names.values()):
        if Path(file).name != file or len(file) > 255:
            raise checkpoint_error(f"{index} names a file outside its folder: {file[:80]}")
        if not (index.parent / file).is_file():
            raise checkpoint_error(f"missing weight file {index.parent / file}")
    return {tensor: index.parent / file for tensor, file in names.items()}


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> (safetensors dtype, shape), without reading data; checks the file's length."""
    from safetensors import SafetensorError, safe_open  # brings numpy

    if not path.is_file():
        raise checkpoint_error(f"{path} is not a file")
    try:
        with safe_open(path, framework="np") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {
                name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise checkpoint_error(f"{path} is truncated or corrupt: {error}") from error


def _read_starts(path: Path) -> dict[str, int]:
    """Tensor name -> its first byte in a file that `read_header` has checked."""
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        return {n: 8 + length + h["data_offsets"][0] for n, h in header.items() if n[:2] != "__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise checkpoint_error(f"{path} is truncated or corrupt: {error}") from error
