"""A `Checkpoint` -> ready modules.

Modules are built on the meta device and given their weights tensor by tensor, so nothing is held
twice.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from quant.backends.attempt import first_line
from quant.backends.dispatch import Backend, accelerate_, measure_ahead
from quant.backends.verdicts import remembered
from quant.convert import RecipeError, swap_empty_
from quant.layers import QuantEmbedding
from quant.native import rows as native
from quant.primitives import dequantize_per_channel
from sana_cli.accelerate.cpu_fused_qkv import fuse_projections_
from sana_cli.accelerate.cpu_packed_linear import is_worth_packing, pack_linears_
from sana_cli.accelerate.cpu_winograd_conv import is_worth_it, replaceable, use_winograd_
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.component_weights import (
    ComponentWeights,
    component_weights,
    stored_weights,
)
from sana_cli.checkpoints.decoder_files import joined_config
from sana_cli.checkpoints.lora_file import Lora
from sana_cli.checkpoints.model_files import read_config
from sana_cli.checkpoints.safetensors_data import read_rows
from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.config.networks import Gemma2Config, TinyDecoderConfig
from sana_cli.config.places import cache_folder
from sana_cli.errors import DEVICE_STOPPED, ExitCode, SanaError, checkpoint_error
from sana_cli.loading.assign import (
    DTYPES,
    assign_weights,
    require_finite,
    require_fit,
    require_same_names,
)
from sana_cli.loading.lora import Adapters
from sana_cli.loading.streaming import StreamedBlocks
from sana_cli.loading.without_values import WithoutValues
from sana_cli.models.controlnet import SanaControlNet
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.gemma2 import Gemma2
from sana_cli.models.layers import PointwiseConv2d
from sana_cli.models.sana_transformer import SanaBlock, SanaTransformer2D
from sana_cli.models.text_encoder import FileEmbedding, PromptEncoder
from sana_cli.models.tiny_decoder import TinyAutoencoder
from sana_cli.models.tokenizer import load_tokenizer
from sana_cli.system.resident import give_back
from sana_cli.text import note

Prepare = Callable[[torch.nn.Module], object]  # what a block goes through once it has its weights

TOKEN_CONVS = (PointwiseConv2d,)  # 1x1 convolutions that take channels-last tokens


def load_transformer(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: torch.device,
    stream: Prepare | None = None,
) -> SanaTransformer2D:
    """Load the Linear-DiT with its weights, in eval mode.

    With `stream` its blocks are read whenever they run, and each is given to that function first.
    """
    model = empty_module(checkpoint, "transformer")
    adapters = Adapters(checkpoint.loras, model)
    weights = adapters.merge(component_weights(checkpoint, "transformer"))
    attach = partial(adapters.attach_, dtype=DTYPES[dtype], device=device)
    if stream is not None:
        weights = _stream(
            model, "transformer_blocks", weights, "transformer", dtype, device, stream, attach
        )
    _fill(model, weights, "transformer", dtype=dtype, device=device)
    attach(model, "")
    assert isinstance(model, SanaTransformer2D)
    return model.eval()


def load_controlnet(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: torch.device,
    stream: Prepare | None = None,
) -> SanaControlNet:
    """Load the ControlNet of a model that has one, in eval mode; `stream` as for `load_transformer`."""
    model = empty_module(checkpoint, "controlnet")
    weights = component_weights(checkpoint, "controlnet")
    if stream is not None:
        weights = _stream(model, "transformer_blocks", weights, "controlnet", dtype, device, stream)
    _fill(model, weights, "controlnet", dtype=dtype, device=device)
    assert isinstance(model, SanaControlNet)
    return model.eval()


def check_loras(checkpoint: Checkpoint, loras: Sequence[Lora]) -> None:
    """SanaError for a LoRA that does not fit the transformer, or whose alphas are no numbers; reads no weights."""
    if loras:
        Adapters(loras, empty_module(checkpoint, "transformer"))


def load_vae(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: torch.device,
    halves: tuple[Literal["encoder", "decoder"], ...] = ("decoder",),
) -> AutoencoderDC:
    """DC-AE in eval mode; only `halves` of it have weights."""
    model = _filled_vae(checkpoint, dtype, device, halves)
    assert isinstance(model, AutoencoderDC)
    return model


def load_decoder(
    checkpoint: Checkpoint, *, dtype: str, device: torch.device
) -> AutoencoderDC | TinyAutoencoder:
    """The autoencoder in eval mode with the weights of its decoder, which may be a tiny one."""
    model = _filled_vae(checkpoint, dtype, device, ("decoder",))
    assert isinstance(model, AutoencoderDC | TinyAutoencoder)
    return model


def _filled_vae(
    checkpoint: Checkpoint, dtype: str, device: torch.device, halves: tuple[str, ...]
) -> torch.nn.Module:
    model: torch.nn.Module = empty_module(checkpoint, "vae")
    weights = component_weights(checkpoint, "vae")
    _fill(model, weights, "vae", dtype=dtype, device=device, parts=halves)
    return model.eval()


def load_prompt_encoder(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: torch.device,
    stream: Prepare | None = None,
) -> PromptEncoder:
    """Tokenizer and Gemma-2 decoder trunk; `stream` as for `load_transformer`, for its layers."""
    return _with_tokenizer(
        empty_module(checkpoint, "text_encoder"),
        component_weights(checkpoint, "text_encoder"),
        checkpoint.folder / "tokenizer",
        dtype=dtype,
        device=device,
        stream=stream,
    )


def load_language_model(
    folder: Path, *, dtype: str, device: torch.device, streamed: bool
) -> PromptEncoder:
    """Load a Gemma-2 trunk and its tokenizer from the folder of a language model, without a Sana model."""
    return _with_tokenizer(
        _empty_gemma(folder / "config.json"),
        stored_weights(WeightFiles(folder, stem="model"), "text_encoder"),
        folder,
        dtype=dtype,
        device=device,
        stream=(lambda block: block) if streamed else None,
    )


def _with_tokenizer(
    model: torch.nn.Module,
    weights: ComponentWeights,
    tokenizer: Path,
    *,
    dtype: str,
    device: torch.device,
    stream: Prepare | None,
) -> PromptEncoder:
    """Fill an empty Gemma-2; `tokenizer` is the folder of its tokenizer."""
    weights = _leave_table_in_file(model, weights, DTYPES[dtype])
    if stream is not None:
        weights = _stream(model, "layers", weights, "text_encoder", dtype, device, stream)
    _fill(model, weights, "text_encoder", dtype=dtype, device=device)
    assert isinstance(model, Gemma2)
    return PromptEncoder(load_tokenizer(tokenizer), model.eval())


def _leave_table_in_file(
    model: Any, weights: ComponentWeights, dtype: torch.dtype
) -> ComponentWeights:
    """Give Gemma a word embedding that reads the rows it needs; returns the weights without the table.

    The table is a third of a quantized Gemma, and a prompt needs a few hundred of its 256000 rows.
    """
    require_same_names(set(model.state_dict()), set(weights.names), "text_encoder")
    table, files = model.embed_tokens, weights.files
    assert files is not None
    stored = {}
    for name, expected in table.state_dict().items():
        path = f"embed_tokens.{name}"
        stored[name] = weights.names[path]
        require_fit(weights.shape_of(stored[name]), expected, path, "text_encoder")

    def rows_of(ids: list[int]) -> Tensor:
        if isinstance(table, QuantEmbedding):
            q, scale = (read_rows(files, stored[name], ids) for name in ("qweight", "scale"))
            return dequantize_per_channel(q, scale, dtype) * table.multiplier
        rows = read_rows(files, stored["weight"], ids).to(dtype)
        require_finite(rows, "embed_tokens.weight", "text_encoder")
        return rows * torch.tensor(table.multiplier).to(dtype)

    model.embed_tokens = FileEmbedding(rows_of)
    rest = {n: s for n, s in weights.names.items() if not n.startswith("embed_tokens.")}
    return replace(weights, names=rest)


def _stream(
    model: torch.nn.Module,
    path: str,
    weights: ComponentWeights,
    component: str,
    dtype: str,
    device: torch.device,
    prepare: Prepare,
    attach: Callable[[torch.nn.Module, str], None] = lambda block, prefix: None,
) -> ComponentWeights:
    """Replace a list of blocks by one that reads them when they run; return the weights of the
    rest.

    `attach` may change a filled block, given with its prefix, before `prepare` gets it.
    """
    require_same_names(set(model.state_dict()), set(weights.names), component)
    empty = model.get_submodule(path)
    assert isinstance(empty, torch.nn.ModuleList)

    def load(i: int) -> torch.nn.Module:
        prefix = f"{path}.{i}."
        give_back()  # of the block before the last: left in the heap, blocks add up to several hundred MiB
        block = copy.deepcopy(empty[i])
        assign_weights(
            block,
            {n.removeprefix(prefix): s for n, s in weights.names.items() if n.startswith(prefix)},
            weights.read,
            component=f"{component} {prefix[:-1]}",
            dtype=DTYPES[dtype],
            device=device,
        )
        attach(block, prefix)
        prepare(block.eval())
        return block

    setattr(model, path, StreamedBlocks(len(empty), load))
    rest = {n: s for n, s in weights.names.items() if not n.startswith(f"{path}.")}
    return replace(weights, names=rest)


def choose_kernels(
    checkpoint: Checkpoint,
    device: torch.device,
    backend: Backend,
    *,
    components: Sequence[str] | None = None,
    notice: Callable[[str], None] = note,
) -> None:
    """Find out which kernels run a quantized model here, while nothing else is in memory: that takes some, once.

    `components` are all of its parts unless some are named.
    """
    if checkpoint.manifest is None or device.type != "cpu":
        return
    if backend != "reference":
        _use_compiled()
    for component in components or checkpoint.parts:
        measure_ahead(
            empty_module(checkpoint, component), device, backend=backend,
            allow_int8_activations=component in ("transformer", "controlnet"), verdicts=_verdicts(),
            before_measuring=partial(_say_measuring, notice),
        )  # fmt: skip
    if backend != "reference":
        _float_kernel("linear", device, _verdicts(), notice)
    give_back()


@lru_cache(maxsize=1)
def _say_measuring(notice: Callable[[str], None]) -> None:
    """Send the notice once, though parts and kinds of layers come one by one."""
    notice("measuring which kernels are the fastest here, once: a few seconds")


def _use_compiled() -> None:
    """Use our own C code from now on, where a compiler is there and it is faster."""
    native.use(native_folder(), _verdicts())


def native_folder() -> Path:
    """Folder of compiled code."""
    return cache_folder() / "native"


def _verdicts() -> Path:
    return cache_folder() / "kernels.json"


def accelerate(
    model: torch.nn.Module,
    device: torch.device,
    backend: Backend,
    *,
    calls: int | None = None,
    notice: Callable[[str], None] = note,
) -> dict[str, str]:
    """Give quantized layers their kernels, and on a CUDA device transformer and decoder their fused
    ones.

    Returns the kernels by kind of layer. Afterwards the model can only run: packed layers drop the
    stored form of their weights. `calls` is how often each layer will run, None: many times.
    `notice` receives one line on what cannot be used on this device, and what takes seconds.
    """
    try:
        return _accelerate(model, device, backend, calls, notice)
    except torch.AcceleratorError as error:  # every later call of this process would fail, too
        raise SanaError(
            f"the device stopped while kernels were tried ({first_line(error)})",
            hint=DEVICE_STOPPED,
            code=ExitCode.ENVIRONMENT,
        ) from error


def _accelerate(
    model: torch.nn.Module,
    device: torch.device,
    backend: Backend,
    calls: int | None,
    notice: Callable[[str], None],
) -> dict[str, str]:
    fused = backend in ("auto", "native") and has_engine(device)
    # The engine has its own way of joining products, and reads the weights as they were stored.
    for_cpu = device.type == "cpu" and backend != "reference" and not fused
    # Layer by layer: new layers would find no room in what the ones before leave, and all be there twice.
    if for_cpu:
        _use_compiled()
        fuse_projections_(model, give_back)
    # Inputs of the text encoder have outliers that 8 bits would drown the rest for.
    allow_int8_activations = isinstance(model, SanaTransformer2D | SanaBlock | SanaControlNet)
    verdicts = _verdicts()
    if fused and allow_int8_activations:
        backend = "native"  # a library's kernels would pack what the engine multiplies itself, a second time
    chosen = accelerate_(
        model, device, backend=backend, calls=calls, verdicts=verdicts, after_packing=give_back,
        allow_int8_activations=allow_int8_activations,
        before_measuring=partial(_say_measuring, notice),
    )  # fmt: skip
    if fused:
        chosen |= _fuse(model, notice, verdicts)
    if for_cpu:
        chosen |= _pack_floats(model, device, verdicts, notice)
    return chosen


def _fuse(model: torch.nn.Module, notice: Callable[[str], None], verdicts: Path) -> dict[str, str]:
    """Give a part its fused kernels, by modules that no CPU needs; their name by what they run."""
    from sana_cli.accelerate.cuda.decoder import fuse_decoder
    from sana_cli.accelerate.cuda.engine import Engine
    from sana_cli.accelerate.cuda.text_encoder import fuse_norms
    from sana_cli.accelerate.cuda.text_graph import replay_texts

    if isinstance(model, SanaTransformer2D) and _stays(model):
        model.engine = Engine(model, notice=notice, verdicts=verdicts)
        return {"transformer": model.engine.summary}
    if isinstance(model, AutoencoderDC) and fuse_decoder(model, notice=notice, verdicts=verdicts):
        return {"decoder": "native fused"}
    replay_texts(model, notice=notice, verdicts=verdicts)
    if fuse_norms(model, notice=notice, verdicts=verdicts):
        return {"text encoder": "native norms"}
    return {}


def has_engine(device: torch.device) -> bool:
    """Return whether the engine supports this device, and Triton is there to compile its kernels."""
    if device.type != "cuda":
        return False
    from quant.backends.cuda import triton_runs

    return triton_runs()


def _stays(model: SanaTransformer2D) -> bool:
    """Return whether all blocks stay in memory."""
    blocks: object = model.transformer_blocks
    return isinstance(blocks, torch.nn.ModuleList)


def _pack_floats(
    model: torch.nn.Module, device: torch.device, verdicts: Path, notice: Callable[[str], None]
) -> dict[str, str]:
    """Give fp32 linear layers and convolutions the way to run that is the faster one here."""
    chosen = {}
    packs = _float_kernel("linear", device, verdicts, notice) == "onednn"
    if packs and pack_linears_(model, give_back):
        chosen["linear fp32"] = "native onednn"
    # Asked only where there is something to decide: it takes a third of a second, once.
    has_convs = any(True for _ in replaceable(model))
    if has_convs and _float_kernel("conv 3x3", device, verdicts, notice) == "winograd":
        use_winograd_(model)
        chosen["conv 3x3 fp32"] = "native winograd"
    return chosen


# By kind of fp32 layer: the kernel, and whether it is right and faster here.
_FLOAT_KERNELS: dict[str, tuple[str, Callable[[], bool]]] = {
    "linear": ("onednn", is_worth_packing),
    "conv 3x3": ("winograd", is_worth_it),
}


def _float_kernel(
    kind: str, device: torch.device, verdicts: Path, notice: Callable[[str], None]
) -> str:
    """Return the kernel for fp32 layers of a kind: one of ours, or "torch"."""
    name, is_faster = _FLOAT_KERNELS[kind]

    def decide() -> str:
        return name if is_faster() else "torch"

    def unmeasured() -> str:
        notice(
            f"which kernels are the fastest here cannot be kept in {verdicts}, so the usual ones are used; "
            "set SANA_CACHE to a folder that can be written"
        )
        return "torch"

    return remembered(f"{kind} fp32", device, decide, verdicts=verdicts, unmeasured=unmeasured)


def empty_module(checkpoint: Checkpoint, component: str) -> Any:
    """Build a component on the meta device, with quantized layers where the manifest has them."""
    config = checkpoint.folder / component / "config.json"
    if component == "text_encoder":
        model: torch.nn.Module = _empty_gemma(config)
    elif component == "transformer":
        model = _empty(config, lambda: SanaTransformer2D(checkpoint.transformer))
    elif component == "controlnet":
        described = checkpoint.controlnet
        assert described is not None, "asked for a part that the model does not have"
        model = _empty(config, lambda: SanaControlNet(described))
    else:
        model = _empty(config, lambda: _autoencoder(checkpoint))
    if checkpoint.manifest is not None:
        layers = checkpoint.manifest.components[component].layers
        if component == "vae" and checkpoint.decoder is not None:  # only the encoder is quantized
            layers = {path: how for path, how in layers.items() if path.startswith("encoder.")}
            layers = {} if checkpoint.decoder.is_tiny else layers
        try:
            with torch.device("meta"), WithoutValues():
                swap_empty_(model, layers, token_convs=TOKEN_CONVS)
        except (KeyError, RecipeError) as error:
            raise checkpoint_error(
                f"{component}: the manifest names {error}, which does not fit this model",
                hint="copy the whole folder again, or quantize the model again",
            ) from error
    return model


def _autoencoder(checkpoint: Checkpoint) -> AutoencoderDC | TinyAutoencoder:
    other = checkpoint.decoder
    if other is None:
        return AutoencoderDC(checkpoint.vae)
    if isinstance(other.config, TinyDecoderConfig):
        return TinyAutoencoder(other.config)
    return AutoencoderDC(joined_config(checkpoint.vae, other.config))


def _empty_gemma(config: Path) -> torch.nn.Module:
    return _empty(config, lambda: Gemma2(read_config(config, Gemma2Config.from_dict)))


def _empty(config: Path, build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A module on the meta device; SanaError where the values of its configuration, `config`, make none."""
    try:
        with torch.device("meta"), WithoutValues():
            return build()
    except (SanaError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # any kind: the values come from a file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise checkpoint_error(
            f"{config} does not describe a network: {reason}",
            hint="use the file that was published with the weights",
        ) from error


def _fill(
    model: torch.nn.Module,
    weights: ComponentWeights,
    component: str,
    *,
    dtype: str,
    device: torch.device,
    parts: tuple[str, ...] = ("",),
) -> None:
    """Assign weights to a module's `parts` (submodules; "" is all of it), strictly."""
    require_same_names(set(model.state_dict()), set(weights.names), component)
    for part in parts:
        prefix = f"{part}." if part else ""
        assign_weights(
            model.get_submodule(part),
            {n.removeprefix(prefix): s for n, s in weights.names.items() if n.startswith(prefix)},
            weights.read,
            component=f"{component} {part}".strip(),
            dtype=DTYPES[dtype],
            device=device,
        )
