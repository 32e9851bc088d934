"""Write safetensors tensor by tensor, so that a file of any size needs the memory of one tensor."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch
from torch import Tensor

from quant.dtypes import STORED_NAMES
from quant.manifest import FORMAT, FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Dtype and shape of a tensor that will be written."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(slots=True)
class StreamWriter:
    """Writes one safetensors file tensor by tensor, in the order of its specs."""

    file: BinaryIO
    specs: Mapping[str, TensorSpec]
    _digest: Any = field(default_factory=hashlib.sha256)
    _pending: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Write the header. All shapes are known before the first tensor is read."""
        header: dict[str, Any] = {
            "__metadata__": {"format": "pt", FORMAT: str(FORMAT_VERSION)},
        }
        offset = 0
        for name, spec in self.specs.items():
            header[name] = {
                "dtype": STORED_NAMES[str(spec.dtype).removeprefix("torch.")],
                "shape": list(spec.shape),
                "data_offsets": [offset, offset + spec.bytes],
            }
            offset += spec.bytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # tensors start aligned
        self._write(len(text).to_bytes(8, "little") + text)
        self._pending = list(self.specs)

    def add(self, name: str, tensor: Tensor) -> None:
        """Append the next tensor; it must be the one that its turn is, as announced."""
        expected = self._pending.pop(0)
        spec = self.specs[expected]
        if (name, tensor.dtype, tuple(tensor.shape)) != (expected, spec.dtype, spec.shape):
            raise ValueError(
                f"expected {expected} {spec}, not {name} {tensor.dtype} {tuple(tensor.shape)}"
            )
        self._write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)

    def finish(self) -> str:
        """SHA-256 of the file, once every tensor is there."""
        if self._pending:
            raise ValueError(f"tensors were not written: {self._pending[:3]}")
        return str(self._digest.hexdigest())

    def _write(self, data: Any) -> None:
        self.file.write(data)
        self._digest.update(data)
