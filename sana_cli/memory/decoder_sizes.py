"""Add up what the autoencoder takes at its widest point, in maps of channels: encoding, decoding, resizing.

Factors that are no plain counts were fitted to `benchmarks/memory.py`.
"""

from math import prod

from quant.dtypes import ITEMSIZE
from sana_cli.config.networks import DCAEConfig, TinyDecoderConfig
from sana_cli.images.control_lines import hed_size
from sana_cli.memory.plans import DecodePlan

# Where two numbers of maps are given, the second is for maps so small that the C library keeps what was freed,
# and the next one does not fit into it.
RETURNED = 32 * 2**20  # glibc gives larger blocks back at once

# Maps that live at the same time at the widest point of a decoder block, in maps of its input.
_RES_BLOCK_MAPS = (3.7, 4.5)
_RES_TILE_MAPS = (3.9, 8.0)
_EFFICIENT_VIT_MAPS = (21, 37)
# Where tiles follow, layers run one by one, and freed memory goes back after each.
_STEPWISE_VIT_MAPS = (15.5, 27)
_STRIP_MAPS = (22, 47)
_TINY_MAPS = (3.3, 4.1)  # of a block of convolutions alone
_TINY_TILE_MAPS = (4.0, 5.3)
_TINY_REACH = 24  # pixels that a tile of its last stages reads beyond its sides, both together
RGB = 3  # channels of a picture
_ENCODE_MAPS = (3.2, 4.5)  # of a ResBlock of the encoder, which keeps no other map than its input
_ENCODE_STRIP_MAPS = (22, 60)
_ENCODE_TILE_MAPS = (4.0, 6.2)
_ENCODE_REACH = 64  # pixels that a tile of a picture reads beyond its sides, both together
_TILE_REACH = 14  # pixels that a tile reads beyond its sides, both together
_STRIP_REACH = 4  # rows of a map that a strip reads beyond its own
_HED_MAPS = 3.3  # of HED's first block, whose maps are the largest
_HED_CHANNELS = 64
_HED_WEIGHTS = 14_700_000  # in fp32, and once more in 16 bits while they are read
_READ_MAPS = 3  # the picture to begin with, in fp32, and copies in which it is converted
_PICTURE_MAPS = 4.8  # the picture, and copies while it is checked, converted and compressed


def encode_activations(
    config: DCAEConfig, plan: DecodePlan, height: int, width: int, itemsize: int
) -> int:
    """Return the bytes that encoding a picture takes on top of the weights: the widest point of its stages.

    In tiles, phases follow each other as in `decode_activations`: tiles next to the first map that is attended to,
    then the stages that attend, whole or in strips.
    """
    channels, kinds = config.encoder_block_out_channels, config.encoder_stage_types
    stages = [i for i, count in enumerate(config.encoder_layers_per_block) if count]
    attends = [i for i in stages if kinds[i] != "ResBlock"]
    convolves = [i for i in stages if i < min(attends, default=len(channels))]
    picture = height * width
    held = config.in_channels * ITEMSIZE["fp32"] * picture
    read = _READ_MAPS * held
    if plan.mode == "whole":
        widest = [
            _with_leftovers(channels[i] * picture * itemsize / 4**i, _ENCODE_MAPS)
            if kinds[i] == "ResBlock"
            else _attention(channels[i] * picture * itemsize / 4**i, _EFFICIENT_VIT_MAPS)
            for i in stages
        ]
        converted = config.in_channels * itemsize * picture if itemsize != ITEMSIZE["fp32"] else 0
        return int(max(read, max(widest) + held + converted))
    sides = (min(plan.tile + _ENCODE_REACH, side) for side in (height, width))
    tiled = prod(sides) * itemsize
    res = max(
        (_with_leftovers(channels[i] * tiled / 4**i, _ENCODE_TILE_MAPS) for i in convolves),
        default=0.0,
    )
    kept = max((channels[i] * picture * itemsize / 4**i for i in attends[:1]), default=0.0)
    maps = [
        2 * kept + _strip(channels[i], i, plan.strip, width, itemsize, _ENCODE_STRIP_MAPS)
        if plan.strip
        else _attention(channels[i] * picture * itemsize / 4**i, _STEPWISE_VIT_MAPS)
        for i in attends
    ]
    return int(max(read, held + max([res + kept, *maps])))


def hed_bytes(height: int, width: int) -> int:
    """Return the bytes for finding the lines of a picture by HED: its weights, and its widest point."""
    w, h = hed_size(width, height)
    weights = _HED_WEIGHTS * (ITEMSIZE["fp32"] + ITEMSIZE["fp16"])
    return int(weights + _HED_MAPS * _HED_CHANNELS * w * h * ITEMSIZE["fp32"])


def decode_activations(
    config: DCAEConfig | TinyDecoderConfig, plan: DecodePlan, height: int, width: int, itemsize: int
) -> int:
    """Return the bytes that decoding takes on top of the weights and one unpacked layer.

    Its phases follow each other: the first stages (whole or in strips), the tiles, the finished
    picture.
    """
    if isinstance(config, TinyDecoderConfig):
        return _tiny_activations(config, plan, height, width, itemsize)
    channels, layers = config.decoder_block_out_channels, config.decoder_layers_per_block
    stages = [i for i, count in enumerate(layers) if count]
    attends = [i for i in stages if config.decoder_stage_types[i] != "ResBlock"]
    split = min(attends, default=len(channels))  # stages below are tiled
    picture = height * width * itemsize
    finishing = _PICTURE_MAPS * config.in_channels * height * width * ITEMSIZE["fp32"]
    in_tiles = plan.mode == "exact-tiles"
    reach = _TILE_REACH if in_tiles else 0
    tile = plan.tile or max(height, width)
    tiled = min(tile + reach, height) * min(tile + reach, width) * itemsize
    res = max(
        (
            _with_leftovers(
                channels[i] * tiled / 4**i, _RES_TILE_MAPS if in_tiles else _RES_BLOCK_MAPS
            )
            for i in stages
            if i < split
        ),
        default=0.0,
    )
    up = max(  # enlarged before the convolution where no layer follows
        (channels[i + 1] * tiled / 4**i for i in range(len(channels) - 1) if not layers[i]),
        default=0.0,
    )
    first = picture if in_tiles else tiled
    maps = _STEPWISE_VIT_MAPS if in_tiles else _EFFICIENT_VIT_MAPS
    vit = max((_attention(channels[i] * first / 4**i, maps) for i in attends), default=0.0)
    if plan.mode == "whole" or split == len(channels):
        phases = [vit, res, up, finishing]
    elif plan.mode == "blended-tiles":
        phases = [max(vit, res, up) + config.in_channels * picture, finishing]
    else:
        kept = channels[split] * picture / 4**split  # the last map of the first stages
        if plan.strip:
            vit = 2 * kept + max(
                _strip(channels[i], i, plan.strip, width, itemsize) for i in attends
            )
        phases = [vit, max(res, up) + kept + config.in_channels * picture, finishing]
    return int(max(phases))


def _tiny_activations(
    config: TinyDecoderConfig, plan: DecodePlan, height: int, width: int, itemsize: int
) -> int:
    """Return the bytes of a decoder of convolutions alone: the widest of its stages, whole or in a tile."""
    in_tiles = plan.mode == "exact-tiles"
    reach, maps = (_TINY_REACH, _TINY_TILE_MAPS) if in_tiles else (0, _TINY_MAPS)
    tile = plan.tile or max(height, width)
    positions = min(tile + reach, height) * min(tile + reach, width)
    stages = len(config.widths)
    widest = max(
        _with_leftovers(channels * positions * itemsize / scale**2, maps)
        for i, channels in enumerate(config.widths)
        for scale in [config.patch_size * 2 ** (stages - 1 - i)]
    )
    kept = 0 if plan.mode == "whole" else RGB * height * width * itemsize
    finishing = _PICTURE_MAPS * RGB * height * width * ITEMSIZE["fp32"]
    return int(max(widest + kept, finishing))


def resize_activations(height: int, width: int, size: tuple[int, int]) -> int:
    """Return the bytes for resizing a picture to `size` (width, height) and saving it; 0 if it has
    that size.

    The picture fills the size first and is cut afterwards (`images.tensors.resize_and_crop`).
    """
    if size == (width, height):
        return 0
    ratio = max(size[0] / width, size[1] / height)
    resized = int(height * ratio) * int(width * ratio)
    return int(_PICTURE_MAPS * RGB * resized * ITEMSIZE["fp32"])


def _strip(
    channels: int, stage: int, rows: int, width: int, itemsize: int,
    maps: tuple[float, float] = _STRIP_MAPS,
) -> float:  # fmt: skip
    """Return the bytes that attention takes for a strip of `rows` rows of pixels."""
    own = max(1, rows // 2**stage)
    size = channels * (own + _STRIP_REACH) * width / 2**stage * itemsize
    return _attention(size, maps)


def _attention(size: float, maps: tuple[float, float]) -> float:
    """Return the bytes of `maps[0]` maps, or `maps[1]` small ones; queries, keys and values are one
    map of three.
    """
    return size * (maps[0] if 3 * size >= RETURNED else maps[1])


def _with_leftovers(size: float, maps: tuple[float, float]) -> float:
    """Return the bytes of `maps[0]` maps of `size` bytes, or of `maps[1]` small ones."""
    return size * (maps[0] if size > RETURNED else maps[1])
