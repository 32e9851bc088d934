"""The tensors that a model's parts have by their configuration: names and shapes. No torch.

The modules in `models/` define them; a test compares every name and shape. Two things need them before torch is
imported or a byte of weights is here: judging whether files fit, and planning memory for a model that is not here.
"""

# D width, F half of the Mix-FFN's hidden width, C channels, N outputs and K inputs of a layer

import re
from collections.abc import Iterator, Mapping

from quant.config import QuantConfig
from quant.dtypes import FLOATS
from quant.schemes import LayerKind
from sana_cli.checkpoints.native_names import PREFIXES, published_names
from sana_cli.config.networks import (
    ControlNetConfig,
    DCAEConfig,
    Gemma2Config,
    TinyDecoderConfig,
    TransformerConfig,
)
from sana_cli.errors import SanaError, checkpoint_error

Shape = tuple[int, ...]
Headers = Mapping[str, tuple[str, Shape]]  # tensor -> type in safetensors' words, and shape

_SINUSOID_WIDTH = 256  # of a timestep
# 1x1 convolutions on tokens: quantized, they are stored as matrices.
_POINTWISE = ("patch_embed.proj", ".conv_inverted", ".conv_point")
_GROUPED = re.compile(r"\.conv_depth$|\.to_qkv_multiscale\.")  # convolutions that stay in floats


def transformer_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Return the published tensor names and shapes of the Linear-DiT."""
    D, F = config.inner_dim, config.ff_dim
    shapes: dict[str, Shape] = {"scale_shift_table": (2, D), "caption_norm.weight": (D,)}
    shapes |= _layer("patch_embed.proj", (D, config.in_channels, 1, 1))
    shapes |= _layer("proj_out", (config.out_channels, D))
    shapes |= _layer("caption_projection.linear_1", (D, config.caption_channels))
    shapes |= _layer("caption_projection.linear_2", (D, D))
    shapes |= _layer("time_embed.linear", (6 * D, D))
    embedders = ["time_embed.emb.timestep_embedder"]
    if config.guidance_embeds:
        embedders = ["time_embed.timestep_embedder", "time_embed.guidance_embedder"]
    for path in embedders:
        shapes |= _layer(f"{path}.linear_1", (D, _SINUSOID_WIDTH))
        shapes |= _layer(f"{path}.linear_2", (D, D))
    for i in range(config.num_layers):
        block = f"transformer_blocks.{i}"
        shapes[f"{block}.scale_shift_table"] = (6, D)
        for attention, bias in (("attn1", config.attention_bias), ("attn2", True)):
            for part in ("to_q", "to_k", "to_v"):
                shapes |= _layer(f"{block}.{attention}.{part}", (D, D), bias=bias)
            shapes |= _layer(f"{block}.{attention}.to_out.0", (D, D))
            if config.qk_norm:
                shapes |= {f"{block}.{attention}.norm_{x}.weight": (D,) for x in "qk"}
        shapes |= _mix_ffn(f"{block}.ff", D, F)
    return shapes


def controlnet_shapes(config: ControlNetConfig) -> dict[str, Shape]:
    """Return the tensor names and shapes of a ControlNet's branch: its base's without the last layer, and projections."""
    D = config.blocks.inner_dim
    shapes = {
        name: shape
        for name, shape in transformer_shapes(config.blocks).items()
        if not name.startswith("proj_out.") and name != "scale_shift_table"
    }
    shapes |= _layer("input_block", (D, D))
    for i in range(config.blocks.num_layers):
        shapes |= _layer(f"controlnet_blocks.{i}", (D, D))
    return shapes


def autoencoder_shapes(config: DCAEConfig) -> dict[str, Shape]:
    """Return the published tensor names and shapes of both halves of DC-AE."""
    return {**dict(_encoder(config)), **dict(_decoder(config))}


def tiny_decoder_names(config: TinyDecoderConfig) -> dict[str, str]:
    """Map every tensor of a tiny decoder to its name in the published file.

    Those are positions in a sequence that counts layers without weights, too.
    """
    names = {f"conv_in.{kind}": f"1.{kind}" for kind in ("weight", "bias")}
    place = 3  # after the squeezing of latents, the first convolution and its ReLU
    for i, count in enumerate(config.blocks):
        if i:
            names[f"stages.{i}.0.conv.weight"] = f"{place + 1}.weight"
            place += 2
        for j in range(count):
            for k in range(3):
                for kind in ("weight", "bias"):
                    path = f"stages.{i}.{j + min(i, 1)}.convs.{k}.{kind}"
                    names[path] = f"{place}.conv.{2 * k}.{kind}"
            place += 1
    return names | {f"conv_out.{kind}": f"{place}.{kind}" for kind in ("weight", "bias")}


def tiny_decoder_shapes(config: TinyDecoderConfig) -> dict[str, Shape]:
    """Return the tensor names and shapes of a decoder of convolutions alone."""
    widths = config.widths
    shapes = _layer("conv_in", (widths[0], config.latent_channels, 3, 3))
    for i, (width, count) in enumerate(zip(widths, config.blocks, strict=True)):
        if i:
            shapes |= _layer(f"stages.{i}.0.conv", (width, widths[i - 1], 3, 3), bias=False)
        for j in range(count):
            for k in range(3):
                path = f"stages.{i}.{j + min(i, 1)}.convs.{k}"
                shapes |= _layer(path, (width, width, 3, 3))
    return shapes | _layer("conv_out", (3 * config.patch_size**2, widths[-1], 3, 3))


def text_encoder_shapes(config: Gemma2Config) -> dict[str, Shape]:
    """Return the tensor names and shapes of Gemma-2's trunk, without a language-model head's prefix."""
    C, M, E = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * E, config.num_key_value_heads * E
    shapes: dict[str, Shape] = {"embed_tokens.weight": (config.vocab_size, C), "norm.weight": (C,)}
    for i in range(config.num_hidden_layers):
        layer, bias = f"layers.{i}", config.attention_bias
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            shapes[f"{layer}.{norm}_layernorm.weight"] = (C,)
        shapes |= _layer(f"{layer}.self_attn.q_proj", (queries, C), bias=bias)
        shapes |= _layer(f"{layer}.self_attn.k_proj", (keys, C), bias=bias)
        shapes |= _layer(f"{layer}.self_attn.v_proj", (keys, C), bias=bias)
        shapes |= _layer(f"{layer}.self_attn.o_proj", (C, queries), bias=bias)
        shapes |= _layer(f"{layer}.mlp.gate_proj", (M, C), bias=False)
        shapes |= _layer(f"{layer}.mlp.up_proj", (M, C), bias=False)
        shapes |= _layer(f"{layer}.mlp.down_proj", (C, M), bias=False)
    return shapes


def quantized_shapes(
    shapes: Mapping[str, Shape], layers: Mapping[str, QuantConfig | None]
) -> dict[str, Shape]:
    """Return what a quantized folder stores for a part; raise SanaError for a missing or unsuitable layer."""
    stored = dict(shapes)
    for path, config in layers.items():
        weight = shapes.get(f"{path}.weight", ())
        if len(weight) < 2:
            raise _unfit_manifest(repr(path))
        if config is not None:
            _require_suitable(path, weight, config)
            del stored[f"{path}.weight"]
            stored |= _quantized(path, weight, config)
    return stored


def require_shapes(expected: Mapping[str, Shape], found: Headers, component: str) -> None:
    """SanaError naming a tensor of a file that is missing, unexpected, misshapen or of no usable type."""
    if expected.keys() - found.keys():
        _refuse_other_names(expected, found, component)
    for problem, names in (
        ("missing", expected.keys() - found.keys()),
        ("unexpected", found.keys() - expected.keys()),
    ):
        if names:
            listed = ", ".join(sorted(names)[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise checkpoint_error(
                f"{component}: {problem} tensor {listed}{more}",
                hint="config.json and the weights do not belong together, or a file is incomplete",
            )
    for name, shape in expected.items():
        stored, actual = found[name]
        if tuple(actual) != shape:
            raise checkpoint_error(
                f"{component}: {name} has shape {list(actual)}, expected {list(shape)}",
                hint="config.json and the weights do not belong together",
            )
        if stored not in FLOATS and not name.endswith(".qweight"):
            raise checkpoint_error(
                f"{component}: {name} is stored as {stored.lower()}",
                hint="use a release in fp32, bf16 or fp16, or a folder made by `sana quantize`",
            )


def _refuse_other_names(expected: Mapping[str, Shape], found: Headers, component: str) -> None:
    """SanaError where the tensors are there, under the names of another program."""
    for name in found:
        for prefix in PREFIXES:
            bare = name.removeprefix(prefix)
            if bare != name and (bare in expected or published_names(bare)):
                raise checkpoint_error(
                    f"{component}: its tensors begin with {prefix!r}, as ComfyUI and trainers save them",
                    hint="use the model's release for diffusers, or save the tensors again without that "
                    "beginning",
                )
    if sum(bool(published_names(name)) for name in found) > len(found) // 2:
        raise checkpoint_error(
            f"{component}: its tensors have the names of NVIDIA's original files ({min(found)})",
            hint="use the model's release for diffusers, or name the .pth file: --model FILE.pth",
        )


def _layer(path: str, weight: Shape, *, bias: bool = True) -> dict[str, Shape]:
    shapes = {f"{path}.weight": weight}
    return {**shapes, f"{path}.bias": weight[:1]} if bias else shapes


def _mix_ffn(path: str, channels: int, hidden: int) -> dict[str, Shape]:
    return {
        **_layer(f"{path}.conv_inverted", (2 * hidden, channels, 1, 1)),
        **_layer(f"{path}.conv_depth", (2 * hidden, 1, 3, 3)),
        **_layer(f"{path}.conv_point", (channels, hidden, 1, 1), bias=False),
    }


def _encoder(config: DCAEConfig) -> Iterator[tuple[str, Shape]]:
    channels, layers = config.encoder_block_out_channels, config.encoder_layers_per_block
    shuffled = config.downsample_block_type == "pixel_unshuffle"
    last = len(channels) - 1

    def down(path: str, inputs: int, outputs: int) -> dict[str, Shape]:
        return _layer(f"{path}.conv", (outputs // 4 if shuffled else outputs, inputs, 3, 3))

    if layers[0] > 0:
        first = _layer("encoder.conv_in", (channels[0], config.in_channels, 3, 3))
    else:
        first = down("encoder.conv_in", config.in_channels, channels[1])
    yield from first.items()
    for i, width in enumerate(channels):
        kind, scales = config.encoder_stage_types[i], config.encoder_qkv_multiscales[i]
        for j in range(layers[i]):
            yield from _block(f"encoder.down_blocks.{i}.{j}", kind, width, config, scales)
        if i < last and layers[i] > 0:
            path = f"encoder.down_blocks.{i}.{layers[i]}"
            yield from down(path, width, channels[i + 1]).items()
    yield from _layer("encoder.conv_out", (config.latent_channels, channels[-1], 3, 3)).items()


def _decoder(config: DCAEConfig) -> Iterator[tuple[str, Shape]]:
    channels, layers = config.decoder_block_out_channels, config.decoder_layers_per_block
    shuffled = config.upsample_block_type != "interpolate"
    last = len(channels) - 1

    def up(path: str, inputs: int, outputs: int) -> dict[str, Shape]:
        return _layer(f"{path}.conv", (4 * outputs if shuffled else outputs, inputs, 3, 3))

    yield from _layer("decoder.conv_in", (channels[-1], config.latent_channels, 3, 3)).items()
    for i, width in enumerate(channels):
        kind, scales = config.decoder_stage_types[i], config.decoder_qkv_multiscales[i]
        enlarges = int(i < last and layers[i] > 0)
        if enlarges:
            yield from up(f"decoder.up_blocks.{i}.0", channels[i + 1], width).items()
        for j in range(layers[i]):
            yield from _block(f"decoder.up_blocks.{i}.{j + enlarges}", kind, width, config, scales)
    width = channels[0] if layers[0] > 0 else channels[1]
    yield from {"decoder.norm_out.weight": (width,), "decoder.norm_out.bias": (width,)}.items()
    if layers[0] > 0:
        yield from _layer("decoder.conv_out", (config.in_channels, width, 3, 3)).items()
    else:
        yield from up("decoder.conv_out", width, config.in_channels).items()


def _block(
    path: str, kind: str, C: int, config: DCAEConfig, scales: tuple[int, ...]
) -> Iterator[tuple[str, Shape]]:
    """Yield the tensors of a DC-AE block; `scales` are the kernels of its attention's further scales."""
    if kind == "ResBlock":
        yield from _layer(f"{path}.conv1", (C, C, 3, 3)).items()
        yield from _layer(f"{path}.conv2", (C, C, 3, 3), bias=False).items()
        yield from _layer(f"{path}.norm", (C,)).items()
        return
    E = config.attention_head_dim
    groups = 3 * (C // E)
    for part in ("to_q", "to_k", "to_v"):
        yield f"{path}.attn.{part}.weight", (C, C)
    for s, kernel in enumerate(scales):
        scale = f"{path}.attn.to_qkv_multiscale.{s}"
        yield f"{scale}.proj_in.weight", (3 * C, 1, kernel, kernel)
        yield f"{scale}.proj_out.weight", (3 * C, 3 * C // max(groups, 1), 1, 1)
    yield f"{path}.attn.to_out.weight", (C, C * (1 + len(scales)))
    yield from _layer(f"{path}.attn.norm_out", (C,)).items()
    yield from _mix_ffn(f"{path}.conv_out", C, 4 * C).items()
    yield from _layer(f"{path}.conv_out.norm", (C,)).items()


def _require_suitable(path: str, weight: Shape, config: QuantConfig) -> None:
    """SanaError for a scheme that `quant.layers` has no such layer for."""
    kernel = len(weight) > 2 and not path.endswith(_POINTWISE)
    table = path == "embed_tokens"
    kind: LayerKind = "embedding" if table else "conv" if kernel else "linear"
    unfit = kind not in config.scheme.layers or (kernel and _GROUPED.search(path))
    unfit = unfit or (config.smooth and kind != "linear") or (config.static_act and kind != "conv")
    if unfit:
        raise _unfit_manifest(f"{path} as {config}")


def _unfit_manifest(what: str) -> SanaError:
    return checkpoint_error(
        f"the manifest names {what}, which does not fit this model",
        hint="copy the folder again, or quantize the model again",
    )


def _quantized(path: str, weight: Shape, config: QuantConfig) -> dict[str, Shape]:
    """Return the stored tensors of a layer in a quantized folder: the shapes of `quant.layers`."""
    plain = weight[:2] if path.endswith(_POINTWISE) else weight  # those multiply tokens
    qweight, scale = config.scheme.shapes(plain, config.group_size)
    stored: dict[str, Shape] = {f"{path}.qweight": qweight, f"{path}.scale": scale}
    if config.static_act:
        stored[f"{path}.act_scale"] = ()
    if config.smooth:
        stored[f"{path}.smooth"] = (weight[1],)
    return stored
