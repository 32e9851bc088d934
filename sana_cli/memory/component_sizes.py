"""Add up what a component's weights take once loaded, from headers alone: as stored or converted, by blocks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from quant.config import QuantConfig
from quant.dtypes import FLOATS, ITEMSIZE, stored_bytes
from quant.schemes import STORED_TENSORS
from sana_cli.checkpoints.checkpoint import Checkpoint, weight_headers

_BLOCK = re.compile(r"^(?:transformer_blocks|layers)\.(\d+)\.")
# Layers that run once per prompt or step keep their weights as stored (`SeldomLinear`).
_AS_STORED = re.compile(r"\.attn2\.to_[kv]\.|^caption_projection\.linear|^time_embed\.linear\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The size of a component's loaded weights, in bytes."""

    total: int
    block: int  # the largest repeated block
    rest: int  # all that is in no block
    largest: int  # one tensor while it is read: as stored, and converted
    unpacked: int  # one quantized layer while it multiplies


def weights_of(
    checkpoint: Checkpoint, component: str, dtype: str, *, without: str = "encoder."
) -> Weights:
    """Size a component as loaded in `dtype`; `without` is the half of the autoencoder that is not loaded."""
    headers = weight_headers(checkpoint, component)
    blocks: dict[str, int] = {}
    rest = largest = 0
    for name, (stored, shape) in headers.items():
        if name.startswith(("embed_tokens.", without)):
            continue  # rows are read as they are needed
        size = prod(shape)
        as_stored = size * stored_bytes(stored)
        kept = stored not in FLOATS or name.rpartition(".")[2] in STORED_TENSORS
        kept = kept or (
            component in ("transformer", "controlnet") and _AS_STORED.search(name) is not None
        )
        loaded = as_stored if kept else size * ITEMSIZE[dtype]
        largest = max(largest, as_stored)
        block = _BLOCK.match(name)
        if block:
            blocks[block[1]] = blocks.get(block[1], 0) + loaded
        else:
            rest += loaded
    return Weights(
        total=rest + sum(blocks.values()),
        block=max(blocks.values(), default=0),
        rest=rest,
        largest=largest,
        unpacked=_unpacked(checkpoint, component, headers, ITEMSIZE[dtype], without),
    )


def _unpacked(
    checkpoint: Checkpoint,
    component: str,
    headers: Mapping[str, tuple[str, tuple[int, ...]]],
    itemsize: int,
    without: str,
) -> int:
    """The largest quantized layer as floats, and what making them takes."""
    largest = 0
    for path, config in _layers(checkpoint, component).items():
        shape = headers.get(f"{path}.qweight", ("", ()))[1]
        skipped = path.startswith(("embed_tokens", without))
        if config is None or not config.scheme.weight_only or skipped:
            continue
        values = prod(shape) * config.scheme.values_per_item
        largest = max(largest, values * (itemsize + 1))
    return largest


def _layers(checkpoint: Checkpoint, component: str) -> Mapping[str, QuantConfig | None]:
    if checkpoint.manifest is None or (component == "vae" and checkpoint.decoder is not None):
        return {}
    return checkpoint.manifest.components[component].layers


def takes_8_bits(checkpoint: Checkpoint, component: str) -> bool:
    """Return whether a layer of the component multiplies 8-bit inputs."""
    return any(
        config and config.scheme.inputs != "float"
        for config in _layers(checkpoint, component).values()
    )
