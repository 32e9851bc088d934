"""The safetensors files of a component, by their headers: names, dtypes, shapes. No torch."""

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from quant.dtypes import precision_stored_as
from quant.files import open_regular
from sana_cli.checkpoints.file_selection import select_weights
from sana_cli.checkpoints.model_files import edited, read_json, reading
from sana_cli.checkpoints.shapes import Headers
from sana_cli.errors import SanaError, checkpoint_error

_LONGEST_HEADER = 32 * 2**20  # bytes; published ones have less than one million
_OTHER_FORMATS = (".bin", ".pth", ".pt", ".ckpt", ".gguf", ".onnx", ".msgpack", ".h5", ".pkl")


class WeightFiles:
    """The safetensors files of one component: which file holds which tensor, and their headers."""

    def __init__(self, folder: Path, *, stem: str, weight_variant: str | None = None) -> None:
        """`stem` is `diffusion_pytorch_model` or `model`; raises SanaError when files are unfit."""
        self.folder = folder
        with reading(folder):
            names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        chosen = select_weights(names, stem=stem, weight_variant=weight_variant)
        if chosen is None:
            raise _no_weights(folder, names, f"{stem}.safetensors")
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
        """The dtype most elements are stored in, as by `main_dtype`."""
        return main_dtype(self.headers)

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


def main_dtype(headers: Headers) -> str:
    """The dtype most elements are stored in: fp32, fp16, bf16, or the header's own word."""
    elements: dict[str, int] = {}
    for dtype, shape in headers.values():
        elements[dtype] = elements.get(dtype, 0) + math.prod(shape)
    most = max(elements, key=elements.__getitem__)
    return precision_stored_as(most)


def _read_weight_map(index: Path) -> dict[str, Path]:
    """Map each tensor to its shard, which lies next to the index."""
    problem = "is not a readable weight index"
    weight_map = read_json(index, problem).get("weight_map")
    if not isinstance(weight_map, dict):
        raise checkpoint_error(f"{index} {problem}", hint=edited())
    names = {tensor: str(file) for tensor, file in weight_map.items()}
    for file in set(names.values()):
        if Path(file).name != file or len(file) > 255:
            raise checkpoint_error(
                f"{index} names a file outside its folder: {file[:80]}", hint=edited()
            )
        if not (index.parent / file).is_file():
            raise checkpoint_error(f"missing weight file {index.parent / file}")
    return {tensor: index.parent / file for tensor, file in names.items()}


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> (safetensors dtype, shape), without reading data; checks the file's length."""
    with reading(path):
        found = path.stat()
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return dict(_header_of(path, state))


@lru_cache(maxsize=64)  # a run asks for each a dozen times; a few hundred KB for the largest models
def _header_of(path: Path, state: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read a header; `state` is that of the file, so that a changed one is read again."""
    from safetensors import safe_open  # brings numpy

    _require_sane_length(path)
    with safe_open(path, framework="np") as handle:
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata strings of a safetensors file, checked as in `read_header`."""
    from safetensors import safe_open

    with reading(path):
        _require_sane_length(path)
        with safe_open(path, framework="np") as handle:
            return handle.metadata() or {}


def _require_sane_length(path: Path) -> None:
    """Parsing a header takes many times its length in memory. ValueError for one that no model has."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")


def _read_starts(path: Path) -> dict[str, int]:
    """Tensor name -> its first byte in a file that `read_header` has checked."""
    with reading(path), open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        entries = parse_header(file.read(length))
    return {name: 8 + length + entry.start for name, entry in entries.items()}


class Entry(NamedTuple):
    """A tensor in a header: its type and shape as for `read_header`, and its bytes in the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def parse_header(header: bytes) -> dict[str, Entry]:
    """Tensor name -> what a file's header says of it; ValueError for bytes that are no header.

    Whether the data is all there is for the caller to check: it may be on the hub.
    """
    try:
        found: dict[str, Any] = json.loads(header)
        found.pop("__metadata__", None)
        return {
            str(name): Entry(
                str(facts["dtype"]), tuple(int(n) for n in facts["shape"]),
                int(facts["data_offsets"][0]), int(facts["data_offsets"][1]),
            )
            for name, facts in found.items()
        }  # fmt: skip
    except (
        ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise ValueError(f"no header of safetensors: {error}") from error


def _no_weights(folder: Path, names: list[str], expected: str) -> SanaError:
    other = next((name for name in names if name.endswith(_OTHER_FORMATS)), None)
    what = f"no weights in {folder}: expected {expected}"
    if other is None:
        return checkpoint_error(what)
    return checkpoint_error(
        f"{what}, found {other}", hint="get the model's release in .safetensors"
    )
