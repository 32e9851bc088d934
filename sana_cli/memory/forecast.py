"""Predict the memory of a run, stage by stage, from shapes alone: headers of files, no weights, no
torch.

Per stage: weights that stay, activations at the widest point, workspace (a weight that is being
read or unpacked), and the host (interpreter, libraries). Factors that are no plain counts were
fitted to `benchmarks/memory.py`, which compares every prediction with a measured peak.
"""

# B batch, N image tokens, L text tokens, D width, F width of the feed-forward, H W pixels

from dataclasses import dataclass, replace
from typing import NamedTuple

from quant.dtypes import ITEMSIZE
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.file_selection import TOKENIZER
from sana_cli.config.networks import DCAEConfig, TinyDecoderConfig
from sana_cli.errors import checkpoint_error
from sana_cli.memory.component_sizes import Weights, takes_8_bits, weights_of
from sana_cli.memory.decoder_sizes import (
    RETURNED,
    decode_activations,
    encode_activations,
    hed_bytes,
    resize_activations,
)
from sana_cli.memory.plans import DecodePlan, Plan, encode_plan
from sana_cli.memory.text_sizes import text_activations, text_tokens
from sana_cli.request.params import GenerationParams
from sana_cli.system.precision import Device, DtypePlan

MIB = 2**20

# Host memory on Linux with a CPU build of torch; others differ by some tens of MiB.
_TORCH = 238 * MIB  # interpreter, torch and our modules
_CACHES = 50 * MIB  # compiled kernels, their tables, threads' stacks
_OPENCV = 25 * MIB  # stays once it has found lines
_TOKENIZER_FACTOR = 12  # resident bytes per byte of tokenizer.json

# Maps of D channels that live at once in a Linear-DiT block, on top of those of its feed-forward.
_BLOCK_MAPS = 3
_FEED_FORWARD_MAPS = 8.5  # of F channels
_INT8_FEED_FORWARD_MAPS = (5.3, 9)  # inputs become integers and sums floats
_CUDA_INT8_FEED_FORWARD_MAPS = (
    13.7  # the first velocity is compared with the slow one's, whose sums are floats
)
_CAPTURED_TOKENS = 16384  # at most, of all branches: as the CUDA engine captures
_CACHED_MAPS = 4  # of D channels: two residuals from before, and the two that will replace them
_CONTROL_MAPS = 3  # of D channels: tokens of a ControlNet, of its picture, and a residual
# Of the second drawing of an upscale, on a CPU: its maps find the heap in pieces that the first one and the encoder left.
_HOLES, _MOST_HOLES = 0.4, 256 * MIB  # maps over 32 MiB are not in the heap
_PASTED_BYTES = 8  # per pixel: the original and its mask, while they are fitted and kept


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
    decoder: DCAEConfig | TinyDecoderConfig
    height: int
    width: int
    size: tuple[int, int]  # width and height that the drawn picture is resized to at the end
    decode_itemsize: int
    several: bool  # pictures
    warm: bool  # with texts that follow one another
    hosts: tuple[int, int]  # host memory while the text is encoded, and afterwards
    perturbed: int = 0  # branches of perturbed attention, which run with the conditional one
    encoder: Weights | None = None  # of a picture to begin with; None: there is none
    encoded: DCAEConfig | None = None  # its configuration
    encode_reading: int = 0  # of the file of the picture that is encoded
    lines: int = 0  # of a control picture, while they are found
    before: "Job | None" = None  # a first drawing, which is enlarged; parts and plan are the same
    upscales: bool = (
        False  # one of two drawings: parts that stay from picture to picture stay between them, too
    )
    reading: int = (
        0  # of files that are read again while and after the transformer runs: with a mask
    )
    pasted: int = 0  # what stays of the original until the picture is saved


def predict(job: Job, plan: Plan) -> list[StagePeak]:
    """The peak of every stage under a plan; those of a first drawing are called so."""
    if job.before is None:
        return _stages(job, plan)
    first = [
        stage if stage.stage == "text" else replace(stage, stage=f"first {stage.stage}")
        for stage in _stages(job.before, plan)
    ]
    return first + _stages(job, plan)


def _stages(job: Job, plan: Plan) -> list[StagePeak]:
    stages = []
    text_host, host = job.hosts
    host = text_host if plan.keeps_text else host
    together = plan.together and job.several
    transformer = _resident(job.transformer, streamed=plan.streams_blocks)
    text = 0
    if job.encoder is not None and job.encoded is not None:
        stages.append(_encode_peak(job, job.encoder, job.encoded, plan, host))
    if job.text is not None:
        text = _resident(job.text, streamed=plan.streams_text)
    if job.text is not None and job.before is None:
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
    at_once = (1 if plan.branches_apart else job.branches) + job.perturbed
    activations = max(job.branch * at_once + job.context + job.cached, job.reading)
    if job.before is not None and host:
        activations += min(round(_HOLES * activations), _MOST_HOLES)
    stages.append(
        StagePeak(
            stage="denoise",
            weights=transformer + kept + (job.vae.total if together else 0),
            activations=activations,
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


def _encode_peak(
    job: Job, encoder: Weights, config: DCAEConfig, plan: Plan, host: int
) -> StagePeak:
    how = encode_plan(plan.decode, job.height, job.width)
    activations = encode_activations(config, how, job.height, job.width, job.decode_itemsize)
    known = job.context if job.before else 0  # of the texts, for the first drawing
    return StagePeak(
        stage="encode",
        weights=encoder.total + (kept_bytes(job, plan) if job.upscales else 0),
        activations=max(activations, job.lines) + job.encode_reading + known,
        workspace=max(encoder.largest, encoder.unpacked),
        host=host,
    )


def kept_bytes(job: Job, plan: Plan) -> int:
    """Bytes that stay in memory between pictures: weights of kept parts, and a step's graph."""
    text = 0
    if job.text and plan.keeps_text:
        tables = job.hosts[0] - job.hosts[1]  # of its tokenizer
        text = _resident(job.text, streamed=plan.streams_text) + tables
    if not (plan.together and job.several):
        return text
    return (
        text + _resident(job.transformer, streamed=plan.streams_blocks) + job.vae.total + job.graph
    )


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
    vae = weights_of(checkpoint, "vae", precision)
    host = _TORCH + _CACHES if device.type == "cpu" else 0
    size = size or (width, height)
    decoder = checkpoint.decoder
    config = decoder.config if decoder else checkpoint.vae
    return _decode_peak(vae, config, plan, height, width, size, ITEMSIZE[precision], host)


def _decode_peak(
    vae: Weights,
    config: DCAEConfig | TinyDecoderConfig,
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
        activations=max(activations, resize_activations(height, width, size)),
        workspace=max(vae.largest, vae.unpacked),
        host=host,
    )


def peak(stages: list[StagePeak]) -> StagePeak:
    """The stage that decides."""
    return max(stages, key=lambda stage: stage.total)


class _InitImage(NamedTuple):
    """Bytes for the picture to begin with."""

    encoder: Weights | None = None
    encoded: DCAEConfig | None = None
    encode_reading: int = 0
    lines: int = 0
    reading: int = 0
    pasted: int = 0


class _Denoise(NamedTuple):
    """Bytes of activations while the transformer runs."""

    context: int
    branch: int
    graph: int
    cached: int


def describe(
    checkpoint: Checkpoint,
    settings: GenerationParams,
    dtypes: DtypePlan,
    device: Device,
    *,
    several: bool = False,
    text_is_cached: bool = False,
    warm: bool = False,
    reserved: int = 0,
) -> Job:
    """Collect the sizes of one request on one model, from headers and configuration.

    `reserved`: bytes of the host that the process holds for other work.
    """
    jobs = [
        _describe(
            checkpoint, drawing, dtypes, device,
            several=several, text_is_cached=text_is_cached, warm=warm, reserved=reserved,
        )
        for drawing in settings.passes
    ]  # fmt: skip
    if len(jobs) == 1:
        return jobs[0]
    return replace(jobs[1], upscales=True, before=replace(jobs[0], upscales=True))


def _describe(
    checkpoint: Checkpoint,
    settings: GenerationParams,
    dtypes: DtypePlan,
    device: Device,
    *,
    several: bool,
    text_is_cached: bool,
    warm: bool,
    reserved: int,
) -> Job:
    text, text_bytes = None, 0
    if not text_is_cached:
        text = weights_of(checkpoint, "text_encoder", dtypes.text_encoder)
        text_bytes = text_activations(checkpoint, settings, dtypes)
    init_image = _init_image(checkpoint, settings, dtypes, device)
    decoder = settings.decoder
    denoise = _denoise(checkpoint, settings, dtypes, device)
    return Job(
        text=text,
        transformer=_transformer(checkpoint, settings, dtypes),
        vae=weights_of(replace(checkpoint, decoder=decoder), "vae", dtypes.vae),
        text_activations=text_bytes,
        context=denoise.context,
        branch=denoise.branch,
        graph=denoise.graph,
        cached=denoise.cached,
        branches=_branches(settings),
        perturbed=int(settings.pag is not None),
        decoder=decoder.config if decoder else checkpoint.vae,
        height=settings.drawn_height,
        width=settings.drawn_width,
        size=(settings.width, settings.height),
        decode_itemsize=ITEMSIZE[dtypes.vae],
        several=several,
        warm=warm,
        hosts=_hosts(
            checkpoint, settings, device, text_is_cached=text_is_cached, reserved=reserved
        ),
        encoder=init_image.encoder,
        encoded=init_image.encoded,
        encode_reading=init_image.encode_reading,
        lines=init_image.lines,
        reading=init_image.reading,
        pasted=init_image.pasted,
    )


def _branches(settings: GenerationParams) -> int:
    return 2 if settings.uses_two_branches else 1


def _transformer(checkpoint: Checkpoint, settings: GenerationParams, dtypes: DtypePlan) -> Weights:
    weights = weights_of(checkpoint, "transformer", dtypes.transformer)
    # Held together with quantized layers, and while float weights are read, of which they become a part.
    loras = sum(lora.file.bytes for lora in settings.loras)
    weights = replace(weights, total=weights.total + loras, rest=weights.rest + loras)
    if settings.control is None:
        return weights
    branch = weights_of(checkpoint, "controlnet", dtypes.transformer)
    return Weights(
        total=weights.total + branch.total,
        block=weights.block + branch.block,  # each of the two lists streams its own
        rest=weights.rest + branch.rest,
        largest=max(weights.largest, branch.largest),
        unpacked=max(weights.unpacked, branch.unpacked),
    )


def _denoise(
    checkpoint: Checkpoint, settings: GenerationParams, dtypes: DtypePlan, device: Device
) -> _Denoise:
    config, branches = checkpoint.transformer, _branches(settings)
    tokens = settings.drawn_height * settings.drawn_width // checkpoint.vae.downscale**2
    itemsize, length = ITEMSIZE[dtypes.transformer], text_tokens(checkpoint, settings)[1]
    states = tokens * config.inner_dim * itemsize * branches
    maps: float = _FEED_FORWARD_MAPS
    if takes_8_bits(checkpoint, "transformer"):
        maps = _INT8_FEED_FORWARD_MAPS[0 if states >= RETURNED else 1]
        if device.type == "cuda":
            maps = _CUDA_INT8_FEED_FORWARD_MAPS
    branch = int(tokens * itemsize * (_BLOCK_MAPS * config.inner_dim + maps * config.ff_dim))
    layers = config.num_layers
    if settings.control is not None and checkpoint.controlnet is not None:
        layers += checkpoint.controlnet.blocks.num_layers
        branch += _CONTROL_MAPS * tokens * config.inner_dim * itemsize
    is_captured = device.type == "cuda" and tokens * branches <= _CAPTURED_TOKENS
    return _Denoise(
        context=2 * length * config.inner_dim * layers * branches * itemsize,
        branch=branch,
        graph=_branches_of_graphs(settings, branches) * branch if is_captured else 0,
        cached=_CACHED_MAPS * states if settings.cache else 0,
    )


def _branches_of_graphs(settings: GenerationParams, branches: int) -> int:
    """Return how many branches the CUDA graphs of a picture have, all together: each keeps a block's maps for each.

    Steps outside of a guidance interval have a graph of one branch. With a cache the first block and the others are graphs
    of their own, and where one branch alone is computed, so are its blocks.
    """
    apart = 1 if branches > 1 and settings.guidance_interval != (0, 1) else 0
    if settings.cache:
        return 2 * branches + (branches if branches > 1 else 0) + 2 * apart
    return branches + int(settings.pag is not None) + apart


def _init_image(
    checkpoint: Checkpoint, settings: GenerationParams, dtypes: DtypePlan, device: Device
) -> _InitImage:
    init = settings.init_image if settings.init_image and settings.init_image.is_encoded else None
    control = settings.control
    if init is None and control is None:
        return _InitImage()
    # It finds lines on the CPU, before anything is encoded.
    lines = 0
    if control is not None and control.hed is not None and device.type == "cpu":
        lines = hed_bytes(settings.drawn_height, settings.drawn_width)
    files = [control.image] if control is not None else []
    files += [file for file in (init.image, init.mask) if file is not None] if init else []
    largest = max(file.reading_bytes for file in files)
    # A mask is read again at the end; on another device than the CPU in another memory than the plan's.
    on_host = init is not None and init.mask is not None and device.type == "cpu"
    return _InitImage(
        encoder=weights_of(checkpoint, "vae", dtypes.vae, without="decoder."),
        encoded=checkpoint.vae,
        encode_reading=largest,
        lines=lines,
        reading=largest if on_host else 0,
        pasted=_PASTED_BYTES * settings.width * settings.height if on_host else 0,
    )


def _hosts(
    checkpoint: Checkpoint, settings: GenerationParams, device: Device, *, text_is_cached: bool,
    reserved: int,
) -> tuple[int, int]:  # fmt: skip
    """Return host memory while the text is encoded, and afterwards; on other devices it is not the plan's."""
    table = 0
    if not text_is_cached:
        tokenizer = checkpoint.folder / TOKENIZER
        if not tokenizer.is_file():
            raise checkpoint_error(f"missing file {tokenizer}")
        table = _TOKENIZER_FACTOR * tokenizer.stat().st_size
    opencv = _OPENCV if settings.control is not None and settings.control.uses_opencv else 0
    host = _TORCH + _CACHES + opencv + reserved
    return (host + table, host) if device.type == "cpu" else (0, 0)


def _resident(weights: Weights, *, streamed: bool) -> int:
    """Return the bytes of all weights, or of those outside blocks and two blocks: one runs, one is read."""
    return min(weights.total, weights.rest + 2 * weights.block) if streamed else weights.total
