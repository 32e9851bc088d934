"""DC-AE, the deep-compression autoencoder (arXiv 2410.10733): 32x32 pixels per latent position.

Tensors are (B, C, H, W) with channels-last memory, so norms and 1x1 convolutions see channels as
the last axis without a copy. `encode` and `decode` leave `config.scaling_factor` to the caller.
"""

# B batch, C channels, H height, W width, N = H*W, E head width

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.layers import QuantConv2d
from sana_cli.config.networks import DCAEConfig
from sana_cli.models.layers import DepthwiseGLU, RMSNorm, relu_linear_attention, silu_
from sana_cli.system.resident import give_back

_SHORTCUT_VALUES = 2**20  # of a map that are averaged at a time

# Positions of a map from which on adding up the weights of an up-sampling takes less time than it saves.
_WORTH_FOLDING = 512

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
}


def activate(act: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Apply an activation to a map that nobody else holds: in place where autograd allows it."""
    if act is F.silu:
        return silu_(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    if torch.is_grad_enabled() or act is F.gelu:
        return act(x)
    return act(x, inplace=True)


class ChannelRMSNorm(RMSNorm):
    """RMSNorm over the channels of each pixel of a (B, C, H, W) tensor."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, bias=True)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, *, inplace: bool = False
    ) -> Tensor:
        last = None if residual is None else residual.permute(0, 2, 3, 1)
        return super().forward(x.permute(0, 2, 3, 1), last, inplace=inplace).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Two 3x3 convolutions and a norm around a residual."""

    def __init__(self, channels: int, act: str) -> None:
        super().__init__()
        self.act = _ACTIVATIONS[act]
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = ChannelRMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv2(activate(self.act, self.conv1(x))), x, inplace=True)


class MultiscaleProjection(nn.Module):
    """A depthwise k x k and a grouped 1x1 convolution over the joined q, k, v channels."""

    def __init__(self, channels: int, groups: int, kernel_size: int) -> None:
        super().__init__()
        pad = kernel_size // 2
        self.proj_in = nn.Conv2d(
            channels, channels, kernel_size, padding=pad, groups=channels, bias=False
        )
        self.proj_out = nn.Conv2d(channels, channels, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.proj_in(x))


class MultiscaleLinearAttention(nn.Module):
    """EfficientViT's LiteMLA: ReLU linear attention over several scales.

    The published names mislead: `to_q`, `to_k`, `to_v` are thirds of one 3C-channel projection, and
    heads are cut from consecutive channels as (q | k | v) of width E each.
    """

    def __init__(self, channels: int, head_dim: int, kernel_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_qkv: nn.Module | None = None  # all three in one, where `fusing` has joined them
        groups = 3 * (channels // head_dim)
        self.to_qkv_multiscale = nn.ModuleList(
            [MultiscaleProjection(3 * channels, groups, k) for k in kernel_sizes]
        )
        self.to_out = nn.Linear(channels * (1 + len(kernel_sizes)), channels, bias=False)
        self.norm_out = ChannelRMSNorm(channels)
        self.reach = max((size // 2 for size in kernel_sizes), default=0)  # of the scales, in rows

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        q, k, v = (t.flatten(1, 2) for t in self.project(x))  # (B, N, heads, E) each
        attend = relu_linear_attention if self.is_linear(H * W) else relu_quadratic_attention
        return self.finish(x, attend(q, k, v).unflatten(1, (H, W)))

    def is_linear(self, positions: int) -> bool:
        """Return whether attention runs in its linear form for so many positions, as the reference
        picks.

        Both forms differ by rounding alone.
        """
        return positions > self.head_dim

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of every scale, (B, H, W, heads, E) each."""
        qkv = self.qkv(x.permute(0, 2, 3, 1))
        image = qkv.permute(0, 3, 1, 2)
        scales = [qkv, *(scale(image).permute(0, 2, 3, 1) for scale in self.to_qkv_multiscale)]
        heads = torch.cat(scales, dim=-1).unflatten(-1, (-1, 3 * self.head_dim))
        return heads.chunk(3, dim=-1)

    def qkv(self, tokens: Tensor) -> Tensor:
        """Queries, keys and values of the first scale, (B, H, W, 3C), of tokens (B, H, W, C)."""
        if self.to_qkv is not None:
            return self.to_qkv(tokens)
        return torch.cat([self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)], dim=-1)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Project what was attended to, (B, H, W, heads, E), and add it to the block's input."""
        out = self.to_out(attended.flatten(-2))
        return self.norm_out(out.permute(0, 3, 1, 2), x, inplace=True)


def relu_quadratic_attention(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15) -> Tensor:
    """The quadratic form of `relu_linear_attention`, cheaper for few positions. (B, N, H, E)."""
    q, k, values = (t.float().transpose(1, 2) for t in (F.relu(q), F.relu(k), v))  # (B, H, N, E)
    scores = q @ k.transpose(-1, -2)  # (B, H, N, N)
    scores = scores / (scores.sum(dim=-1, keepdim=True) + eps)
    return (scores @ values).transpose(1, 2).to(v.dtype)


class NormedGLU(DepthwiseGLU):
    """The Mix-FFN with expansion 4, RMSNorm and a residual, as DC-AE uses it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 4 * channels)
        self.norm = RMSNorm(channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        return self.norm(super().forward(last), last, inplace=True).permute(0, 3, 1, 2)


class EfficientViTBlock(nn.Module):
    """Global linear attention, then the convolutional feed-forward."""

    def __init__(self, channels: int, head_dim: int, kernel_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.attn = MultiscaleLinearAttention(channels, head_dim, kernel_sizes)
        self.conv_out = NormedGLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.attn(x))


class DownBlock(nn.Module):
    """Halve the resolution: a 3x3 convolution plus a parameter-free averaging shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, *, unshuffle: bool, shortcut: bool = True
    ) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        self.group = in_channels * 4 // out_channels if shortcut else 0
        width = out_channels // 4 if unshuffle else out_channels
        stride = 1 if unshuffle else 2
        self.conv = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        if self.unshuffle:
            out = F.pixel_unshuffle(out, 2)
        if self.group and not torch.is_grad_enabled() and x.device.type == "cpu":
            # A few rows at a time: a mean of 16-bit values makes four maps of copies in fp32.
            rows = max(1, _SHORTCUT_VALUES // (x.shape[1] * 2 * x.shape[3]))
            for i in range(0, out.shape[2], rows):
                out[:, :, i : i + rows] += self._shortcut(x[:, :, 2 * i : 2 * (i + rows)])
        elif self.group:
            out = out + self._shortcut(x)
        return out

    def _shortcut(self, x: Tensor) -> Tensor:
        """Average channels of the halved map in groups, (B, C, H, W) -> (B, N, H/2, W/2)."""
        return F.pixel_unshuffle(x, 2).unflatten(1, (-1, self.group)).mean(dim=2)


class UpBlock(nn.Module):
    """Double the resolution: nearest then 3x3 (or 3x3 then shuffle), plus a repeating shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        interpolate: bool,
        shortcut: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.interpolate = interpolate
        self.repeats = out_channels * 4 // in_channels if shortcut else 0
        width = out_channels if interpolate else 4 * out_channels
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=bias)
        self.upsampled = upsampled_conv  # the way to fold, where it is folded

    def forward(self, x: Tensor) -> Tensor:
        weight = self._weight_to_fold(x) if self.interpolate else None
        if weight is not None:
            return self.upsampled(x, weight, self.conv.bias, repeats=self.repeats)
        if self.interpolate:
            out = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        else:
            out = F.pixel_shuffle(self.conv(x), 2)
        if self.repeats:
            out = out + F.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1), 2)
        return out

    def _weight_to_fold(self, x: Tensor) -> Tensor | None:
        """Return the weight for `upsampled_conv` where folding is faster: on CPUs, and for
        inference only.

        Layers with 8-bit inputs keep their own arithmetic, and observers see what the layer reads.
        """
        conv = self.conv
        large = x.shape[-2] * x.shape[-1] >= _WORTH_FOLDING
        observed = conv._forward_pre_hooks or conv._forward_hooks
        if not large or observed or x.device.type != "cpu" or torch.is_grad_enabled():
            return None
        if isinstance(conv, QuantConv2d):
            return conv.dequantize(torch.float32) if conv.config.scheme.weight_only else None
        return conv.weight if type(conv) is nn.Conv2d else None


def empty_map(like: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """An uninitialized (B, C, H, W) map, channels last."""
    channels_last = torch.channels_last
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=channels_last)


def upsampled_conv(x: Tensor, weight: Tensor, bias: Tensor | None, *, repeats: int = 0) -> Tensor:
    """Nearest x2, then a 3x3 convolution with padding 1, as four 2x2 ones: (B, K, H, W) -> (B, N, 2H, 2W).

    Two of three neighbouring pixels are copies, so their weights add up: 16 products for 36, and no map of
    doubled size in between. With `repeats` the shortcut of an `UpBlock` is added where a phase is written. Differs
    by rounding alone.
    """
    B, _, H, W = x.shape
    N = weight.shape[0]
    out = empty_map(x, (B, N, 2 * H, 2 * W))
    bias = None if bias is None else bias.to(x.dtype)
    # Padded here: with padding of their own, kernels of 2x2 add up in an order that depends on the map's size.
    padded = F.pad(x, (1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
    # Added up in fp32, so that they are rounded once.
    first, middle, last = weight.float().unbind(2)  # rows of the kernel, (N, K, 3) each
    # An even row sees the one before and its own, which is there twice; an odd row the other way round.
    for i, rows in enumerate(((first, middle + last), (first + middle, last))):
        left, centre, right = torch.stack(rows, dim=2).unbind(3)  # columns, (N, K, 2) each
        for j, columns in enumerate(((left, centre + right), (left + centre, right))):
            kernel = torch.stack(columns, dim=3).to(x.dtype)  # (N, K, 2, 2)
            phase = F.conv2d(padded, kernel, bias)  # (B, N, H+1, W+1)
            phase = phase[:, :, i : i + H, j : j + W]
            target = out[:, :, i::2, j::2]
            if repeats:
                torch.add(phase, shortcut_phase(x, repeats, 2 * i + j), out=target)
            else:
                target.copy_(phase)
    return out


def shortcut_phase(x: Tensor, repeats: int, phase: int) -> Tensor:
    """Return every second pixel of the shortcut, pixel_shuffle(x.repeat_interleave(repeats, 1), 2):
    (B, N, H, W).

    Its channel c comes from channel (4c + phase) // repeats of x.
    """
    if 4 % repeats == 0:
        return x[:, phase // repeats :: 4 // repeats]
    channels = torch.arange(phase, x.shape[1] * repeats, 4, device=x.device) // repeats
    return x[:, channels]


def _block(kind: str, channels: int, head_dim: int, act: str, scales: tuple[int, ...]) -> nn.Module:
    if kind == "ResBlock":
        return ResBlock(channels, act)
    return EfficientViTBlock(channels, head_dim, scales)


class Encoder(nn.Module):
    """Image (B, 3, H, W) in -1..1 -> latents (B, 32, H/32, W/32), unscaled."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        channels, layers = config.encoder_block_out_channels, config.encoder_layers_per_block
        unshuffle = config.downsample_block_type == "pixel_unshuffle"
        self.conv_in: nn.Module
        if layers[0] > 0:
            self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        else:  # nothing runs at full resolution: the first layer already halves it
            self.conv_in = DownBlock(
                config.in_channels, channels[1], unshuffle=unshuffle, shortcut=False
            )
        stages = []
        for i, width in enumerate(channels):
            stage: list[nn.Module] = [
                _block(
                    config.encoder_stage_types[i], width, config.attention_head_dim, "silu",
                    config.encoder_qkv_multiscales[i],
                )
                for _ in range(layers[i])
            ]  # fmt: skip
            if i < len(channels) - 1 and layers[i] > 0:
                stage.append(DownBlock(width, channels[i + 1], unshuffle=unshuffle))
            stages.append(nn.Sequential(*stage))
        self.down_blocks = nn.ModuleList(stages)
        self.conv_out = nn.Conv2d(channels[-1], config.latent_channels, 3, padding=1)
        self.group = channels[-1] // config.latent_channels if config.encoder_out_shortcut else 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.blocks():  # a stage as a whole would keep the map that it began with
            x = block(x)
            if isinstance(block, DownBlock) and x.device.type == "cpu":
                give_back()  # the next stage's maps are smaller, and would keep the larger blocks from going back
        return self.to_latents(x)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield every block in the order in which they run."""
        for stage in self.down_blocks:
            assert isinstance(stage, nn.Sequential)
            yield from stage

    def to_latents(self, x: Tensor) -> Tensor:
        """The last convolution and its shortcut."""
        out = self.conv_out(x)
        return out + x.unflatten(1, (-1, self.group)).mean(dim=2) if self.group else out


class Decoder(nn.Module):
    """Unscaled latents (B, 32, h, w) -> image (B, 3, 32h, 32w), nominally in -1..1, not clamped."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        channels, layers = config.decoder_block_out_channels, config.decoder_layers_per_block
        interpolate = config.upsample_block_type == "interpolate"
        self.conv_in = nn.Conv2d(config.latent_channels, channels[-1], 3, padding=1)
        self.repeats = channels[-1] // config.latent_channels if config.decoder_in_shortcut else 0
        stages = []
        for i, width in enumerate(channels):
            stage: list[nn.Module] = []
            if i < len(channels) - 1 and layers[i] > 0:
                stage.append(UpBlock(channels[i + 1], width, interpolate=interpolate))
            stage += [
                _block(
                    config.decoder_stage_types[i], width, config.attention_head_dim,
                    config.decoder_stage_acts[i], config.decoder_qkv_multiscales[i],
                )
                for _ in range(layers[i])
            ]  # fmt: skip
            stages.append(nn.Sequential(*stage))
        self.up_blocks = nn.ModuleList(stages)  # indexed by stage, run from the last to the first
        width = channels[0] if layers[0] > 0 else channels[1]
        self.norm_out = ChannelRMSNorm(width)
        self.act = _ACTIVATIONS[config.decoder_conv_act_fn]
        self.conv_out: nn.Module
        if layers[0] > 0:
            self.conv_out = nn.Conv2d(width, config.in_channels, 3, padding=1)
        else:
            self.conv_out = UpBlock(
                width, config.in_channels, interpolate=interpolate, shortcut=False
            )

    def forward(self, z: Tensor) -> Tensor:
        x = self.embed(z)
        for stage in reversed(self.up_blocks):
            x = stage(x)
            if x.device.type == "cpu":
                give_back()  # the next stage's maps are larger and would find no room in what this one leaves
        return self.conv_out(self.normalize(x))

    def embed(self, z: Tensor) -> Tensor:
        """The first convolution and its shortcut."""
        x = self.conv_in(z)
        return x + z.repeat_interleave(self.repeats, dim=1) if self.repeats else x

    def blocks(self) -> Iterator[nn.Module]:
        """Yield every block in the order in which they run."""
        for stage in reversed(self.up_blocks):
            assert isinstance(stage, nn.Sequential)
            yield from stage

    def normalize(self, x: Tensor) -> Tensor:
        """Apply the norm and activation between the last block and `conv_out`."""
        return activate(self.act, self.norm_out(x))


class AutoencoderDC(nn.Module):
    """DC-AE with the parameter names of diffusers' `AutoencoderDC` files."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, 32, H/32, W/32), before `scaling_factor`."""
        return self.encoder(image.contiguous(memory_format=torch.channels_last))

    def unscale(self, latents: Tensor) -> Tensor:
        """The decoder's input for latents of unit variance, which the transformer makes."""
        return latents / self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 32, h, w), already divided by `scaling_factor` -> (B, 3, 32h, 32w)."""
        return self.decoder(latents.contiguous(memory_format=torch.channels_last))
