"""List every launch of a picture on the CUDA engine, with its operations and bytes, without a device.

The engine itself runs on tensors of the meta device, which have shapes and no values. A kernel of `quant.kernels` counts as one
launch, and so does each of torch's operations that computes. `gpu_model.py` turns the list into times.
"""

# M rows (tokens), N output channels, K input channels, L text tokens

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from benchmarks.launches import LaunchCounter
from quant.backends import cuda
from quant.convert import quantize_, resolve, swap_empty_
from quant.kernels import tiles
from quant.kernels.relu_linear_attention.kernel import span_of
from quant.layers import QuantConv2d, QuantLinear
from sana_cli.accelerate.cuda.decoder import _replace_methods
from sana_cli.accelerate.cuda.kernels import NAMES, REFERENCE, Kernels
from sana_cli.accelerate.cuda.text_encoder import FusedTrunk, fuse_norms_with
from sana_cli.accelerate.cuda.text_graph import padded_length
from sana_cli.accelerate.cuda.transformer import EngineTransformer, StepInputs
from sana_cli.bench.flops import GEMMA_2_2B
from sana_cli.config.networks import DCAEConfig, Gemma2Config, TransformerConfig
from sana_cli.config.recipes import component_recipe
from sana_cli.config.variants import VARIANTS
from sana_cli.loading.load import TOKEN_CONVS
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.gemma2 import Gemma2
from sana_cli.models.sana_transformer import SanaTransformer2D

TEXT_TOKENS = 40  # of a prompt, as the transformer sees it
_NEW_TOKENS, _INSTRUCTION = (
    12,
    237,
)  # of a prompt, as the text encoder reads it after the instruction
_PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "linear")
# Kernels that may be launched while the one before ends (`quant.kernels.dependent`).
WAITING = (
    "layer_norm_modulate", "layer_norm_modulate_quantize", "quantize_per_token", "relu_linear_attention",
    "key_value_sums", "attend_to_sums", "depthwise3x3_glu", "rms_norm", "linear_w8a8", "linear_w8a8_on_load",
    "cross_attention", "cross_attention_w8a8", "linear_w4a16", "softcap_attention",
)  # fmt: skip
# One kernel on a device, though several operations on the meta device.
_ONE_KERNEL = (torch.rms_norm, F.rms_norm, F.scaled_dot_product_attention)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A launch, or several alike: `count` of them in a pass."""

    name: str
    kind: str  # tiles | library | conv | attention | text attention | pass
    shape: tuple[int, ...] = ()  # M, K, N of products; else of the largest tensor
    arithmetic: str = ""  # of products: int8, fp8, bf16
    ops: float = 0
    bytes: float = 0  # of inputs and outputs, each once
    tile: tuple[int, ...] = ()  # rows, columns, depth, warps, steps ahead
    programs: int = 0
    rounds: int = 0  # that follow each other in a program
    count: int = 1


class LaunchLog(LaunchCounter):
    """Keeps every launch in order."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self._joined = _Joined(self)

    def __enter__(self) -> "LaunchLog":
        super().__enter__()
        self._joined.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._joined.__exit__(*exception)
        super().__exit__(*exception)

    def hidden(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function whose operations are no launches of their own."""
        outer, self._inside = self._inside, True
        try:
            return function(*args, **kwargs)
        finally:
            self._inside = outer

    def kernels(self) -> Kernels:
        """The engine's functions, each of which is one launch or more (`_OURS`) and then its definition."""
        return Kernels(**{name: self._ours(name) for name in NAMES})

    def _ours(self, name: str) -> Callable[..., Any]:
        define = getattr(REFERENCE, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            out = self.hidden(define, args, kwargs)
            if isinstance(out, Tensor) and not out.is_contiguous():
                out = self.hidden(Tensor.contiguous, (out,), {})
            self.launches += _of_ours(name, args, kwargs, out)
            return out

        return run

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        before = self.counts.total()
        out = super().__torch_dispatch__(func, types, args, kwargs)
        # cuDNN keeps channels last, which the meta device does not.
        if "convolution" in func.__name__:
            out = out.contiguous(memory_format=torch.channels_last)
        if self.counts.total() > before:
            self.launches.append(_of_torch(func.overloadpacket.__name__, args, kwargs, out))
            if func.overloadpacket.__name__ == "convolution" and args[2] is not None:
                # torch adds it after cuDNN's product (ATen/native/Convolution.cpp).
                self.launches.append(
                    Launch(
                        name="bias of a convolution",
                        kind="pass",
                        shape=tuple(out.shape),
                        bytes=2 * _size(out),
                    )
                )
        return out


class _Joined(TorchFunctionMode):
    """Logs some functions of torch as one launch each."""

    def __init__(self, log: LaunchLog) -> None:
        super().__init__()
        self._log = log

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func not in _ONE_KERNEL or self._log._inside:
            return func(*args, **(kwargs or {}))
        out = self._log.hidden(func, args, kwargs or {})
        self._log.launches.append(_of_torch(func.__name__, args, kwargs, out))
        return out


def _size(*found: Any) -> int:
    """Bytes of all tensors in arguments and results."""
    return sum(t.numel() * t.element_size() for t in tree_leaves(found) if isinstance(t, Tensor))


def _of_torch(name: str, args: Any, kwargs: Any, out: Any) -> Launch:
    inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    written = [t for t in outputs if not any(t is x for x in inputs)]
    moved = _size(written if name in ("zeros", "new_zeros") else (inputs, written))
    shape = tuple(max((*inputs, *outputs), key=Tensor.numel).shape) if inputs or outputs else ()
    if name in _PRODUCTS:
        a, b = inputs[-2], inputs[-1]
        K, N = b.shape[-2:]
        M = a.numel() // K
        return Launch(
            name=name, kind="library", shape=(M, K, N), arithmetic=_arithmetic(a.dtype),
            ops=2 * M * K * N, bytes=moved,
        )  # fmt: skip
    if "convolution" in name:
        x, weight = inputs[:2]
        ops = 2 * outputs[0].numel() * weight[0].numel()
        deep = weight[0].numel() > 9 * 4  # a depthwise one is a pass over its map
        return Launch(
            name=f"convolution {weight.shape[-1]}x{weight.shape[-1]}",
            kind="conv" if deep else "pass",
            shape=(outputs[0].numel() // weight.shape[0], weight[0].numel(), weight.shape[0]),
            arithmetic=_arithmetic(x.dtype), ops=ops, bytes=moved,
        )  # fmt: skip
    if "attention" in name:
        q, k = inputs[:2]
        return Launch(
            name=name, kind="library", shape=(q.shape[-2], q.shape[-1], k.shape[-2]),
            arithmetic=_arithmetic(q.dtype), ops=4 * q.numel() * k.shape[-2], bytes=moved,
        )  # fmt: skip
    return Launch(name=name, kind="pass", shape=shape, bytes=moved)


def _arithmetic(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.int8: "int8"}.get(dtype, "bf16")


def _of_ours(name: str, args: Any, kwargs: dict[str, Any], out: Any) -> list[Launch]:
    outputs = kwargs.get("out") if kwargs.get("out") is not None else out
    moved = _size(args, {k: v for k, v in kwargs.items() if k != "out"}, outputs)
    if name in ("linear_w8a8", "linear_w8a8_on_load"):
        return [_tiled(name, args[0], args[2], moved)]
    if name == "linear_f8a8":
        (M, K), N = args[0].shape, args[2].shape[0]
        return [
            Launch(
                name=name, kind="library", shape=(M, K, N), arithmetic="fp8", ops=2 * M * K * N,
                bytes=moved,
            )
        ]  # fmt: skip
    if name in ("cross_attention", "cross_attention_w8a8"):
        return [_text_attention(name, args, kwargs, moved)]
    if name == "relu_linear_attention":
        return _linear_attention(args[0])
    if name == "softcap_attention":
        return [_softcap_attention(args, moved)]
    if name == "conv3x3_w8a8":
        q = args[0]
        M, N, K = out.numel() // out.shape[-1], out.shape[-1], q.shape[-1]
        tile = tiles.tile_for(tiles.CONV3X3_W8A8, M, N, K)
        if kwargs.get("upsampled"):
            name += " upsampled"
        return [_of_tile(name, (M, 9 * K, N), tile, moved)]
    if name == "quantize_map" and all(known is None for known in kwargs.values()):
        looked = Launch(
            name="largest_of_map", kind="pass", shape=tuple(args[0].shape), bytes=_size(args[0])
        )
        return [looked, Launch(name=name, kind="pass", shape=tuple(args[0].shape), bytes=moved)]
    if name == "bias_activation":
        moved = 2 * _size(args[0])
    if name == "join_phases":
        return [Launch(name=name, kind="pass", shape=tuple(out.shape), bytes=moved)]
    return [Launch(name=name, kind="pass", shape=tuple(args[0].shape), bytes=moved)]


def _linear_attention(q: Tensor) -> list[Launch]:
    """Count one launch, or one for the sums and one that attends to them."""
    B, N, H, E = q.shape
    span = span_of(N, B * H, 128)
    parts, steps = math.ceil(N / span), math.ceil(span / 128)
    ops, moved = 2 * q.numel() * E, 2 * _size(q)
    shape = (B, N, H, E)
    if parts == 1:
        return [
            Launch(
                name="relu_linear_attention", kind="attention", shape=shape, ops=2 * ops,
                bytes=2 * moved, programs=B * H, rounds=2 * steps,
            )
        ]  # fmt: skip
    return [
        Launch(
            name=name, kind="attention", shape=shape, ops=ops, bytes=moved, programs=B * H * parts,
            rounds=steps,
        )
        for name in ("key_value_sums", "attend_to_sums")
    ]  # fmt: skip


def _tiled(name: str, x: Tensor, weight: Tensor, moved: int) -> Launch:
    (M, K), N = x.shape, weight.shape[0]
    table = tiles.LINEAR_W8A8 if x.dtype == torch.int8 else tiles.LINEAR_W8A8_ON_LOAD
    return _of_tile(name, (M, K, N), tiles.tile_for(table, M, N, K), moved)


def _of_tile(name: str, shape: tuple[int, int, int], tile: tiles.Tile, moved: int) -> Launch:
    M, K, N = shape
    return Launch(
        name=name, kind="tiles", shape=shape, arithmetic="int8", ops=2 * M * K * N, bytes=moved,
        tile=(tile.m, tile.width, tile.k, tile.warps, tile.stages),
        programs=tile.programs(M, N), rounds=math.ceil(K / tile.k),
    )  # fmt: skip


def _text_attention(name: str, args: Any, kwargs: dict[str, Any], moved: int) -> Launch:
    x, keys = args[0], kwargs["keys"] if "keys" in kwargs else args[1]
    (M, K), (B, H, L, E) = x.shape, keys.shape
    product = 2 * M * K * H * E if name == "cross_attention_w8a8" else 0
    return Launch(
        name=name, kind="text attention", shape=(M, K, H * E), arithmetic="int8",
        ops=product + 4 * M * L * H * E, bytes=moved, programs=H * B * math.ceil(M / B / 64),
    )  # fmt: skip


def _softcap_attention(args: Any, moved: int) -> Launch:
    q, past = args[0], args[3]
    (L, width), (_, S, E) = q.shape, past.shape
    steps = math.ceil(S / 32) + math.ceil(L / 32)
    return Launch(
        name="softcap_attention", kind="attention", shape=(L, S, width), ops=4 * L * (S + L) * width,
        bytes=moved, programs=width // E * math.ceil(L / 16), rounds=steps,
    )  # fmt: skip


def grouped(launches: Sequence[Launch]) -> list[Launch]:
    """Launches that are alike as one, in the order of the first of each."""
    counts: dict[Launch, int] = {}
    for launch in launches:
        counts[launch] = counts.get(launch, 0) + launch.count
    return [replace(launch, count=count) for launch, count in counts.items()]


def step(variant: str, size: int, scheme: str | None) -> list[Launch]:
    """A guided step of a published model at size x size pixels; no negative prompt."""
    config = TransformerConfig(**asdict(VARIANTS[variant].structure))
    log = LaunchLog()
    with torch.device("meta"), torch.no_grad():
        model = SanaTransformer2D(config).bfloat16().eval().requires_grad_(False)
        if scheme is not None:
            quantize_(model, component_recipe("transformer", scheme), token_convs=TOKEN_CONVS)
        text = [torch.empty(1, L, config.caption_channels).bfloat16() for L in (1, TEXT_TOKENS)]
        contexts = [model.encode_text(states) for states in text]
        engine = EngineTransformer(model, log.kernels())
        condition, read = engine.condition(700.0, None), StepInputs(engine.text(contexts))
        latents = torch.empty(2, 32, size // 32, size // 32).bfloat16()
        positions = engine.positions(size // 32, size // 32)
        with log:
            engine.forward(latents, condition, read, positions)
    return grouped(log.launches)


def decode(size: int, scheme: str | None = None) -> list[Launch]:
    """A decode to size x size pixels by the published decoder, its floats in bf16."""
    log = LaunchLog()
    with torch.device("meta"), torch.no_grad():
        vae = AutoencoderDC(DCAEConfig()).bfloat16().eval().requires_grad_(False)
        if scheme is not None:
            quantize_(vae, component_recipe("vae", scheme), token_convs=TOKEN_CONVS)
        for layer in vae.modules():
            if isinstance(layer, QuantConv2d) and not layer.config.scheme.weight_only:
                layer.attach(
                    cuda._conv_run, layer.qweight.permute(0, 2, 3, 1).contiguous(), free=True
                )
        _replace_methods(vae, log.kernels(), torch.bfloat16, folds=True)
        latents = torch.empty(1, 32, size // 32, size // 32).bfloat16()
        with log:
            vae.decode(latents)
    return grouped(log.launches)


def text(scheme: str | None = None) -> list[Launch]:
    """A prompt of a few new tokens through Gemma-2-2b, the instruction's keys and values being there."""
    config = Gemma2Config.from_dict(GEMMA_2_2B)
    log = LaunchLog()

    def four_bits(x: Tensor, packed: None, layer: QuantLinear) -> Tensor:
        (N, _), M = layer.qweight.shape, x.numel() // x.shape[-1]
        K = layer.in_features
        log.launches.append(
            Launch(
                name="linear_w4a16", kind="library", shape=(M, K, N), arithmetic="bf16",
                ops=2 * M * K * N, bytes=_size(layer.qweight, layer.scale, x),
            )
        )  # fmt: skip
        return torch.empty(*x.shape[:-1], N, dtype=x.dtype)

    with torch.device("meta"), torch.no_grad():
        model = Gemma2(replace(config, vocab_size=8)).bfloat16().eval().requires_grad_(False)
        if scheme is not None:
            layers = resolve(model, component_recipe("text_encoder", scheme))
            swap_empty_(model, {layer.path: layer.config for layer in layers})
        for layer in model.modules():
            if isinstance(layer, QuantLinear):
                layer.attach(four_bits, None, free=False)
        fuse_norms_with(log.kernels(), model)
        heads = (1, config.num_key_value_heads, _INSTRUCTION, config.head_dim)
        past = [(torch.empty(heads).bfloat16(),) * 2 for _ in model.layers]
        with log:
            ids = torch.zeros(1, padded_length(_NEW_TOKENS) or _NEW_TOKENS, dtype=torch.long)
            FusedTrunk(model, log.kernels())(model.embed_tokens(ids), past)
    return grouped(log.launches)
