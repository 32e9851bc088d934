"""Read tensors, or rows of them, from safetensors files without mapping them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quant.dtypes import TORCH_NAMES, torch_dtype
from sana_cli.checkpoints.model_files import CORRUPT, unreadable
from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.errors import checkpoint_error


def read_tensor(files: WeightFiles, name: str) -> Tensor:
    """Read one tensor with its stored dtype and shape."""
    dtype, shape = _stored_type(files, name), files.headers[name][1]
    size = math.prod(shape) * dtype.itemsize
    return _read(files, name, [(0, size)], size).view(dtype).view(shape)


def read_rows(files: WeightFiles, name: str, rows: Sequence[int]) -> Tensor:
    """Read some rows of a tensor, with its stored dtype: (len(rows), ...). The rest stays in the file."""
    dtype, shape = _stored_type(files, name), files.headers[name][1]
    size = math.prod(shape[1:]) * dtype.itemsize
    found = _read(files, name, [(row * size, size) for row in rows], size * len(rows))
    return found.view(dtype).view(len(rows), *shape[1:])


def stored_shape(files: WeightFiles, name: str) -> Tensor:
    """Return a tensor without values (on the meta device) that has the type and shape of a stored one."""
    return torch.empty(files.headers[name][1], dtype=_stored_type(files, name), device="meta")


def _stored_type(files: WeightFiles, name: str) -> torch.dtype:
    stored = files.headers[name][0]
    if stored not in TORCH_NAMES:
        raise checkpoint_error(
            f"cannot read {name} from {files.file_of(name)}: type {stored}",
            hint="use a release in fp32, bf16 or fp16, or a folder made by `sana quantize`",
        )
    return torch_dtype(stored)


def _read(files: WeightFiles, name: str, spans: Sequence[tuple[int, int]], total: int) -> Tensor:
    """Bytes `start, size` of a tensor's data, one after the other."""
    path, first = files.file_of(name), files.start_of(name)
    out = torch.empty(total, dtype=torch.uint8)
    view, filled = out.numpy().data, 0
    try:
        with path.open("rb", buffering=0) as file:
            for start, size in spans:
                file.seek(first + start)
                stop = filled + size
                while filled < stop:  # a system call reads two gigabytes at most
                    count = file.readinto(view[filled:stop])
                    if not count:
                        raise OSError("the file ends too early")
                    filled += count
    except OSError as error:
        if error.errno is not None:
            raise unreadable(path, CORRUPT, error) from error
        raise checkpoint_error(f"cannot read {name} from {path}: {error}") from error
    return out
