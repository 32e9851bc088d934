"""Predict the memory of a run, stage by stage, from shapes alone: headers of files, no weights, no
torch.

Per stage: weights that stay, activations at the widest point, workspace (a weight that is being
read or unpacked), and the host (interpreter, libraries). Factors that are no plain counts were
fitted to `benchmarks/memory.py`, which compares every prediction with a measured peak.
"""

# B batch, N image tokens, L text tokens, D width, F width of the feed-forward, H W pixels

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from quant.config import QuantConfig
from quant.dtypes import FLOATS, ITEMSIZE, stored_bytes
from sana_cli.checkpoints.checkpoint import Checkpoint, weight_headers
from sana_cli.checkpoints.model_files import read_config
from sana_cli.config.networks import DCAEConfig, Gemma2Config
from sana_cli.config.published import complex_human_instruction
from sana_cli.errors import SanaError, checkpoint_error
from sana_cli.memory.plans import DecodePlan, Plan
from sana_cli.models.tokenizer import Tokenizer
from sana_cli.request.params import Settings
from sana_cli.system.precision import Device, DtypePlan

MIB = 2**20

# Host memory on Linux with a CPU build of torch; others differ by some tens of MiB.
_TORCH = 238 * MIB  # interpreter, torch and our modules
_CACHES = 50 * MIB  # compiled kernels, their tables, threads' stacks
_TOKENIZER_FACTOR = 12  # resident bytes per byte of tokenizer.json
_READABLE_TOKENIZER = 4 * MIB  # larger ones take longer to load than a prediction may

_FACTORS = ("scale", "smooth", "act_scale")  # of quantized layers: they keep their type
_BLOCK = re.compile(r"^(?:transformer_blocks|layers)\.(\d+)\.")
# Layers that run once per prompt or step keep their weights as stored (`SeldomLinear`).
_AS_STORED = re.compile(r"\.attn2\.to_[kv]\.|^caption_projection\.linear|^time_embed\.linear\.")

# Where two numbers of maps are given, the second is for maps so small that the C library keeps what was freed, and the
# next one does not fit into it.
_RETURNED = 32 * MIB  # glibc gives larger blocks back at once
# Maps of D channels that live at once in a Linear-DiT block, on top of those of its feed-forward.
_BLOCK_MAPS = 3
_FEED_FORWARD_MAPS = 8.5  # of F channels
_INT8_FEED_FORWARD_MAPS = (5.3, 9)  # inputs become integers and sums floats
_CUDA_INT8_FEED_FORWARD_MAPS = (
    13.7  # the first velocity is compared with the slow one's, whose sums are floats
)
_CAPTURED_TOKENS = 16384  # at most, of all branches: as the CUDA engine captures
_CACHED_MAPS = 4  # of D channels: two residuals from before, and the two that will replace them
_TEXT_MAPS = 4  # of the hidden width
_TEXT_MLP_MAPS = 3
_TEXT_SCORE_MAPS = 4  # of heads x L x L

# Maps that live at the same time at the widest point of a decoder block, in maps of its input.
_RES_BLOCK_MAPS = (3.7, 4.5)
_RES_TILE_MAPS = (3.9, 8.0)
_EFFICIENT_VIT_MAPS = (27, 37)
# Where tiles follow, layers run one by one, and freed memory goes back after each.
_STEPWISE_VIT_MAPS = (15.5, 27)
_STRIP_MAPS = (22, 47)
_TILE_REACH = 14  # pixels that a tile reads beyond its sides, both together
_STRIP_REACH = 4  # rows of a map that a strip reads beyond its own
_READ_MAPS = 3  # the picture to begin with, in fp32, and copies in which it is converted
_PASTED_BYTES = 8  # per pixel: the original and its mask, while they are fitted and kept
_PICTURE_MAPS = 4.8  # the picture, and copies while it is checked, converted and compressed


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePeak:
    """Bytes at the worst moment of one stage."""

    stage: str
    weights: int
    activations: int
    workspace: int
    host: int

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.workspace + self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The size of a component's loaded weights, in bytes."""

    total: int
    block: int  # the largest repeated block
    rest: int  # all that is in no block
    largest: int  # one tensor while it is read: as stored, and converted
    unpacked: int  # one quantized layer while it multiplies


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run to predict: the model's sizes, the request's, and the device."""

    text: Weights | None  # None: the embeddings are there already
    transformer: Weights
    vae: Weights
    text_activations: int
    context: int  # keys and values of the text, all blocks and branches
    branch: int  # activations of the transformer for one branch
    graph: int  # what a CUDA graph keeps of a step while the transformer stays, all branches
    cached: int  # residuals that `--cache` keeps and compares, all branches
    branches: int
    decoder: DCAEConfig
    height: int
    width: int
    size: tuple[int, int]  # width and height that the drawn picture is resized to at the end
    decode_itemsize: int
    several: bool  # pictures
    warm: bool  # with texts that follow one another
    hosts: tuple[int, int]  # host memory while the text is encoded, and afterwards
    encoder: Weights | None = None  # of a picture to begin with; None: there is none
    encode_activations: int = 0
    reading: int = (
        0  # of files that are read again while and after the transformer runs: with a mask
    )
    pasted: int = 0  # what stays of the original until the picture is saved


def predict(job: Job, plan: Plan) -> list[StagePeak]:
    """The peak of every stage under a plan."""
    stages = []
    text_host, host = job.hosts
    host = text_host if plan.keeps_text else host
    together = plan.together and job.several
    transformer = _resident(job.transformer, streamed=plan.streams_blocks)
    text = 0
    if job.encoder is not None:
        stages.append(
            StagePeak(
                stage="encode",
                weights=job.encoder.total,
                activations=job.encode_activations,
                workspace=max(job.encoder.largest, job.encoder.unpacked),
                host=host,
            )
        )
    if job.text is not None:
        text = _resident(job.text, streamed=plan.streams_text)
        beside = transformer + job.vae.total if plan.keeps_text else 0
        stages.append(
            StagePeak(
                stage="text",
                weights=text + beside,
                activations=job.text_activations,
                workspace=max(job.text.largest, job.text.unpacked),
                host=text_host,
            )
        )
    kept = text if plan.keeps_text else 0
    at_once = 1 if plan.branches_apart else job.branches
    stages.append(
        StagePeak(
            stage="denoise",
            weights=transformer + kept + (job.vae.total if together else 0),
            activations=max(job.branch * at_once + job.context + job.cached, job.reading),
            workspace=max(job.transformer.largest, job.transformer.unpacked),
            host=host,
        )
    )
    decode = _decode_peak(
        job.vae,
        job.decoder,
        plan.decode,
        job.height,
        job.width,
        job.size,
        job.decode_itemsize,
        host,
    )
    others = transformer + kept + job.graph if together else 0
    stages.append(
        replace(
            decode,
            weights=decode.weights + others,
            activations=max(decode.activations + job.context + job.pasted, job.reading),
        )
    )
    return stages


def predict_decode(
    checkpoint: Checkpoint,
    plan: DecodePlan,
    height: int,
    width: int,
    precision: str,
    device: Device,
    *,
    size: tuple[int, int] | None = None,
) -> StagePeak:
    """The peak of decoding alone, by `sana decode`, to a picture of `size` (width, height), else as it was drawn."""
    vae = _weights(checkpoint, "vae", precision)
    host = _TORCH + _CACHES if device.type == "cpu" else 0
    size = size or (width, height)
    return _decode_peak(vae, checkpoint.vae, plan, height, width, size, ITEMSIZE[precision], host)


def _decode_peak(
    vae: Weights,
    config: DCAEConfig,
    plan: DecodePlan,
    height: int,
    width: int,
    size: tuple[int, int],
    itemsize: int,
    host: int,
) -> StagePeak:
    activations = decode_activations(config, plan, height, width, itemsize)
    return StagePeak(
        stage="decode",
        weights=vae.total,
        activations=max(activations, resize_activations(config, height, width, size)),
        workspace=max(vae.largest, vae.unpacked),
        host=host,
    )


def peak(stages: list[StagePeak]) -> StagePeak:
    """The stage that decides."""
    return max(stages, key=lambda stage: stage.total)


def describe(
    checkpoint: Checkpoint,
    settings: Settings,
    dtypes: DtypePlan,
    device: Device,
    *,
    several: bool = False,
    text_is_cached: bool = False,
    warm: bool = False,
) -> Job:
    """The sizes of one request on one model, read from headers and configuration."""
    config = checkpoint.transformer
    transformer = _weights(checkpoint, "transformer", dtypes.transformer)
    # Held together with quantized layers, and while float weights are read, of which they become a part.
    loras = sum(lora.file.bytes for lora in settings.loras)
    transformer = replace(
        transformer, total=transformer.total + loras, rest=transformer.rest + loras
    )
    branches = 2 if settings.uses_two_branches else 1
    tokens = settings.drawn_height * settings.drawn_width // checkpoint.vae.downscale**2
    itemsize = ITEMSIZE[dtypes.transformer]
    takes_int8 = _takes_int8(checkpoint, "transformer")
    states = tokens * config.inner_dim * itemsize * branches
    maps: float = _FEED_FORWARD_MAPS
    if takes_int8:
        maps = _INT8_FEED_FORWARD_MAPS[0 if states >= _RETURNED else 1]
        if device.type == "cuda":
            maps = _CUDA_INT8_FEED_FORWARD_MAPS
    text, text_activations, length = None, 0, text_tokens(checkpoint, settings)[1]
    if not text_is_cached:
        text = _weights(checkpoint, "text_encoder", dtypes.text_encoder)
        text_activations = _text(checkpoint, settings, dtypes)
    source, encoder, encode, reading, pasted = settings.source, None, 0, 0, 0
    if source is not None and source.is_encoded:
        encoder = _weights(checkpoint, "vae", dtypes.vae, without="decoder.")
        encode = encode_activations(
            checkpoint.vae, settings.drawn_height, settings.drawn_width, ITEMSIZE[dtypes.vae]
        )
        files = [source.image] if source.mask is None else [source.image, source.mask]
        largest = max(file.reading_bytes for file in files)
        encode += largest
        if (
            source.mask is not None and device.type == "cpu"
        ):  # else in another memory than the plan's
            reading, pasted = largest, _PASTED_BYTES * settings.width * settings.height
    cpu = device.type == "cpu"
    host = _TORCH + _CACHES
    tokenizer = checkpoint.folder / "tokenizer/tokenizer.json"
    table = 0
    if not text_is_cached:
        if not tokenizer.is_file():
            raise checkpoint_error(f"missing file {tokenizer}")
        table = _TOKENIZER_FACTOR * tokenizer.stat().st_size
    branch = int(tokens * itemsize * (_BLOCK_MAPS * config.inner_dim + maps * config.ff_dim))
    is_captured = device.type == "cuda" and tokens * branches <= _CAPTURED_TOKENS
    return Job(
        text=text,
        transformer=transformer,
        vae=_weights(checkpoint, "vae", dtypes.vae),
        text_activations=text_activations,
        context=2 * length * config.inner_dim * config.num_layers * branches * itemsize,
        branch=branch,
        graph=branches * branch if is_captured else 0,
        cached=_CACHED_MAPS * tokens * config.inner_dim * branches * itemsize
        if settings.cache
        else 0,
        branches=branches,
        decoder=checkpoint.vae,
        height=settings.drawn_height,
        width=settings.drawn_width,
        size=(settings.width, settings.height),
        decode_itemsize=ITEMSIZE[dtypes.vae],
        several=several,
        warm=warm,
        hosts=(host + table, host) if cpu else (0, 0),
        encoder=encoder,
        encode_activations=encode,
        reading=reading,
        pasted=pasted,
    )


def _resident(weights: Weights, *, streamed: bool) -> int:
    """All of them, or what is outside of blocks and two blocks: one runs, one is read."""
    return min(weights.total, weights.rest + 2 * weights.block) if streamed else weights.total


# -- weights ---------------------------------------------------------------------------------------


def _weights(
    checkpoint: Checkpoint, component: str, dtype: str, *, without: str = "encoder."
) -> Weights:
    """`without` is the half of the autoencoder that is not loaded."""
    headers = weight_headers(checkpoint, component)
    blocks: dict[str, int] = {}
    rest = largest = 0
    for name, (stored, shape) in headers.items():
        if name.startswith(("embed_tokens.", without)):
            continue  # rows are read as they are needed
        size = prod(shape)
        as_stored = size * stored_bytes(stored)
        kept = stored not in FLOATS or name.rpartition(".")[2] in _FACTORS
        kept = kept or (component == "transformer" and _AS_STORED.search(name) is not None)
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
    return checkpoint.manifest.components[component].layers if checkpoint.manifest else {}


def _takes_int8(checkpoint: Checkpoint, component: str) -> bool:
    return any(
        config and config.scheme.inputs == "int8"
        for config in _layers(checkpoint, component).values()
    )


# -- text ------------------------------------------------------------------------------------------


def _text(checkpoint: Checkpoint, settings: Settings, dtypes: DtypePlan) -> int:
    """Activations of the text encoder, in bytes."""
    config = read_config(checkpoint.folder / "text_encoder/config.json", Gemma2Config.from_dict)
    prefix, length = text_tokens(checkpoint, settings)
    longest = max(prefix, length)
    kv = config.num_key_value_heads * config.head_dim
    cache = 2 * kv * config.num_hidden_layers * prefix
    states = _TEXT_MAPS * config.hidden_size * longest
    mlp = _TEXT_MLP_MAPS * config.intermediate_size * longest
    scores = _TEXT_SCORE_MAPS * config.num_attention_heads * longest**2
    return ITEMSIZE[dtypes.text_encoder] * (cache + states + max(mlp, scores))


def text_tokens(checkpoint: Checkpoint, settings: Settings) -> tuple[int, int]:
    """Tokens of the instruction (0: none) and of the prompt, as far as they are used."""
    instruction = complex_human_instruction() if settings.enhance else ""
    prefix = count_tokens(checkpoint.folder, instruction) if settings.enhance else 0
    return prefix, min(count_tokens(checkpoint.folder, settings.prompt.lower().strip()), 300)


def count_tokens(folder: Path, text: str) -> int:
    """Tokens of a text: counted where the tokenizer is small, else by the four letters of a usual one."""
    path = folder / "tokenizer/tokenizer.json"
    if not path.is_file() or path.stat().st_size > _READABLE_TOKENIZER:
        return len(text) // 4 + 1
    try:
        return len(Tokenizer(path, {}).encode(text))
    except SanaError:  # the run itself will say what is wrong
        return len(text) // 4 + 1


# -- encoder ---------------------------------------------------------------------------------------


def encode_activations(config: DCAEConfig, height: int, width: int, itemsize: int) -> int:
    """Return the bytes that encoding a picture takes on top of the weights: the widest point of its stages."""
    picture = height * width
    stages = zip(
        config.encoder_block_out_channels, config.encoder_layers_per_block,
        config.encoder_stage_types, strict=True,
    )  # fmt: skip
    widest = 0.0
    for i, (channels, layers, kind) in enumerate(stages):
        size = channels * picture * itemsize / 4**i
        if layers and kind == "ResBlock":
            widest = max(widest, _with_leftovers(size, _RES_BLOCK_MAPS))
        elif layers:
            widest = max(widest, _attention(size, _EFFICIENT_VIT_MAPS))
    return int(widest + _READ_MAPS * config.in_channels * 4 * picture)


# -- decoder ---------------------------------------------------------------------------------------


def decode_activations(
    config: DCAEConfig, plan: DecodePlan, height: int, width: int, itemsize: int
) -> int:
    """Return the bytes that decoding takes on top of the weights and one unpacked layer.

    Its phases follow each other: the first stages (whole or in strips), the tiles, the finished
    picture.
    """
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


def resize_activations(config: DCAEConfig, height: int, width: int, size: tuple[int, int]) -> int:
    """Return the bytes for resizing a picture to `size` (width, height) and saving it; 0 if it has
    that size.

    The picture fills the size first and is cut afterwards (`images.tensors.resize_and_crop`).
    """
    if size == (width, height):
        return 0
    ratio = max(size[0] / width, size[1] / height)
    resized = int(height * ratio) * int(width * ratio)
    return int(_PICTURE_MAPS * config.in_channels * resized * ITEMSIZE["fp32"])


def _strip(channels: int, stage: int, rows: int, width: int, itemsize: int) -> float:
    """Return the bytes that attention takes for a strip of `rows` rows of pixels."""
    own = max(1, rows // 2**stage)
    size = channels * (own + _STRIP_REACH) * width / 2**stage * itemsize
    return _attention(size, _STRIP_MAPS)


def _attention(size: float, maps: tuple[float, float]) -> float:
    """Return the bytes of `maps[0]` maps, or `maps[1]` small ones; queries, keys and values are one
    map of three.
    """
    return size * (maps[0] if 3 * size >= _RETURNED else maps[1])


def _with_leftovers(size: float, maps: tuple[float, float]) -> float:
    """Return the bytes of `maps[0]` maps of `size` bytes, or of `maps[1]` small ones."""
    return size * (maps[0] if size > _RETURNED else maps[1])
