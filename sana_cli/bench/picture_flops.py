"""The work of one picture with all that its settings add: pictures to encode, a ControlNet, perturbed attention. No torch."""

from collections.abc import Sequence
from dataclasses import replace

from sana_cli.bench import flops
from sana_cli.bench.flops import FP32, Precisions, Work
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.networks import HED_BLOCKS, DCAEConfig
from sana_cli.request.params import GenerationParams


def encode(config: DCAEConfig, *, height: int, width: int, kind: Precisions = FP32) -> Work:
    """Count DC-AE's encoder. Sizes in pixels."""
    channels, layers = config.encoder_block_out_channels, config.encoder_layers_per_block
    last = len(channels) - 1

    def rows(stage: int) -> int:
        return (height >> stage) * (width >> stage)

    def halving(stage: int, k: int, n: int) -> Work:
        if config.downsample_block_type == "pixel_unshuffle":
            return flops.convolution(rows(stage), k, n // 4, kind)
        return flops.convolution(rows(stage + 1), k, n, kind)

    if layers[0]:
        total = flops.convolution(rows(0), config.in_channels, channels[0], kind)
    else:
        total = halving(0, config.in_channels, channels[1])
    for stage, C in enumerate(channels):
        if config.encoder_stage_types[stage] == "ResBlock":
            block = flops.convolution(rows(stage), C, C, kind) * 2
        else:
            scales = config.encoder_qkv_multiscales[stage]
            block = flops.efficient_vit(config.attention_head_dim, scales, C, rows(stage), kind)
        total += block * layers[stage]
        if stage < last and layers[stage]:
            total += halving(stage, C, channels[stage + 1])
    return total + flops.convolution(rows(last), channels[last], config.latent_channels, kind)


def find_edges(*, height: int, width: int, kind: Precisions = FP32) -> Work:
    """Count HED. Sizes in pixels."""
    total, before = Work(), 3
    for stage, (channels, count) in enumerate(HED_BLOCKS):
        rows = (height >> stage) * (width >> stage)
        for _ in range(count):
            total += flops.convolution(rows, before, channels, kind)
            before = channels
        total += flops.convolution(rows, channels, 1, kind, taps=1)
    return total


def encodings(checkpoint: Checkpoint, drawing: GenerationParams) -> Work:
    """Count what is encoded before a drawing begins: its original, and the lines that it follows."""
    height, width = drawing.drawn_height, drawing.drawn_width
    total, one = Work(), encode(checkpoint.vae, height=height, width=width)
    if drawing.init_image is not None and drawing.init_image.is_encoded:
        total += one
    if drawing.control is not None:
        total += one
        if drawing.control.hed is not None:
            total += find_edges(height=height, width=width)
    return total


def added_to_a_step(
    checkpoint: Checkpoint, drawing: GenerationParams, text_tokens: Sequence[int]
) -> Work:
    """Count what a ControlNet and perturbed attention add to a step whose branches read `text_tokens`, the last conditional."""
    total, height, width = Work(), drawing.drawn_height, drawing.drawn_width
    base, positions = checkpoint.transformer, height // 32 * (width // 32)
    if drawing.pag is not None:  # the conditional branch once more, from the perturbed block on
        late = replace(base, num_layers=base.num_layers - drawing.pag.layer)
        total += flops.denoise_step(late, height=height, width=width, text_tokens=text_tokens[-1:])
        total += (
            flops.linear_attention(base, positions, FP32) * -1
        )  # its tokens attend to themselves
    if drawing.control is not None and checkpoint.controlnet is not None:
        blocks = checkpoint.controlnet.blocks
        D = blocks.inner_dim
        total += flops.denoise_step(blocks, height=height, width=width, text_tokens=text_tokens)
        residual = flops.product(len(text_tokens) * positions, D, D, FP32)
        total += residual * blocks.num_layers
    return total
