"""Random but lively Sana pipelines, built, saved and run with diffusers: what our own code is compared with.

Lively means that every norm, bias, gate and table is spread and that the picture uses most of its range, so that a
forgotten bias or a swapped gate shows. `tests/parity/test_reference.py` asserts that liveliness. Tests reach this file
through the fixtures of `conftest.py`; it is imported there, on first use.
"""

# B batch, C channels of the text encoder, D width of the transformer, H W picture, h w latents

import copy
import inspect
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaControlNetModel,
    SanaControlNetPipeline,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

CAPTION_CHANNELS = 64
LATENT_CHANNELS = 32
SCALING_FACTOR = 0.41407
INSTRUCTION: list[str] = (
    inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
)

PROMPT = "a red fox on a lighthouse rock at dawn"
OTHER_PROMPT = "blurry city street"
NEGATIVE = "low quality, blurry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What distinguishes one published family from another, at a tiny size."""

    sprint: bool = False
    qk_norm: bool = False
    interpolation_scale: float | None = None
    sample_size: int = 4  # 128 pixels
    scheduler: Literal["flow-dpm", "flow-euler", "scm"] = "flow-dpm"
    shift: float = 3.0
    layers: int = 3
    heads: int = 3  # of 32, self-attention
    cross_heads: int = 2
    weight_seed: int = 1


VARIANTS: dict[str, Variant] = {
    "plain": Variant(),
    "qk_norm": Variant(qk_norm=True, weight_seed=2),
    "pos_embed_1": Variant(interpolation_scale=1.0, weight_seed=3),
    "pos_embed_2": Variant(interpolation_scale=2.0, shift=6.0, weight_seed=4),
    "sprint": Variant(sprint=True, qk_norm=True, scheduler="scm", weight_seed=5),
    "flow_euler": Variant(scheduler="flow-euler", layers=2, weight_seed=6),
    "native_512": Variant(sample_size=16, layers=2, weight_seed=7),  # has a table of aspect ratios
}

# What the published checkpoints say (spec 2.1): name -> (transformer config, parameters).
_600M = {
    "num_layers": 28,
    "num_attention_heads": 36,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}
_1600M = {
    "num_layers": 20,
    "num_attention_heads": 70,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
}
_QK: dict[str, Any] = {"qk_norm": "rms_norm_across_heads"}
_SPRINT: dict[str, Any] = _QK | {"guidance_embeds": True, "guidance_embeds_scale": 0.1}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "sana-0.6b": (_600M, 591_747_872),
    "sana-1.6b": (_1600M, 1_604_462_752),
    "sana-1.6b-2k": (_1600M | {"sample_size": 64, "interpolation_scale": 1.0}, 1_604_462_752),
    "sana-1.6b-4k": (_1600M | {"sample_size": 128, "interpolation_scale": 2.0}, 1_604_462_752),
    "sana-1.5-1.6b": (_1600M | _QK, 1_604_641_952),
    "sana-1.5-4.8b": (_1600M | _QK | {"num_layers": 60}, 4_721_825_952),
    "sprint-0.6b": (_600M | _SPRINT, 593_501_216),
    "sprint-1.6b": (_1600M | _SPRINT, 1_610_237_472),
}

_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
_SCALES: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
VAE_PARAMETERS = {"all": 312_250_275, "decoder": 159_223_171, "encoder": 153_027_104}
VAE_PUBLISHED: dict[str, Any] = {
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": _BLOCKS,
    "decoder_block_types": _BLOCKS,
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": _SCALES,
    "decoder_qkv_multiscales": _SCALES,
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": SCALING_FACTOR,
}
VAE_TINY: dict[str, Any] = VAE_PUBLISHED | {
    "encoder_block_out_channels": (16, 32, 32, 32, 64, 64),
    "decoder_block_out_channels": (16, 32, 32, 32, 64, 128),
    "encoder_layers_per_block": (1, 1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 2, 1, 1),
}
# The shape of DC-AE-Lite: no blocks in the first stage, pixel shuffles, no shortcut into the latents.
VAE_LITE: dict[str, Any] = VAE_TINY | {
    "encoder_layers_per_block": (0, 1, 1, 1, 1, 1),
    "decoder_layers_per_block": (0, 1, 1, 1, 1, 1),
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle",
    "decoder_act_fns": ("relu", "silu", "silu", "silu", "silu", "silu"),
    "encoder_out_shortcut": False,
    "decoder_in_shortcut": False,
    "decoder_conv_act_fn": "silu",
}


# --- lively weights ---------------------------------------------------------------------------------------------------


def enliven(module: nn.Module, seed: int) -> nn.Module:
    """Spread every parameter of a diffusers model: no zero bias, no unit norm, no closed gate.

    Matrices and convolutions get variance 1/fan-in, so activations stay of the order of one.
    """
    generator = torch.Generator().manual_seed(seed)
    for path, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if path.endswith("scale_shift_table"):
            value = 0.5 * noise
        elif "norm" in path and path.endswith("weight"):
            value = 1 + 0.5 * noise
        elif parameter.ndim == 1:
            value = 0.5 * noise
        else:
            value = noise / math.sqrt(parameter[0].numel())
        parameter.data = value
    return module.eval().requires_grad_(False)


_BRANCH_KEYS = (
    "in_channels", "out_channels", "num_attention_heads", "attention_head_dim", "num_cross_attention_heads",
    "cross_attention_head_dim", "cross_attention_dim", "caption_channels", "mlp_ratio", "attention_bias",
    "sample_size", "patch_size", "norm_elementwise_affine", "norm_eps", "interpolation_scale",
)  # fmt: skip


def transformer_config(variant: Variant) -> dict[str, Any]:
    width = 32 * variant.heads
    return {
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "num_layers": variant.layers,
        "num_attention_heads": variant.heads,
        "attention_head_dim": 32,
        "num_cross_attention_heads": variant.cross_heads,
        "cross_attention_head_dim": width // variant.cross_heads,
        "cross_attention_dim": width,
        "caption_channels": CAPTION_CHANNELS,
        "mlp_ratio": 2.5,
        "sample_size": variant.sample_size,
        "interpolation_scale": variant.interpolation_scale,
        "guidance_embeds": variant.sprint,
        "qk_norm": "rms_norm_across_heads" if variant.qk_norm else None,
    }


def lively_transformer(config: dict[str, Any], seed: int) -> SanaTransformer2DModel:
    """A diffusers transformer whose velocity has a spread of about one."""
    model = enliven(SanaTransformer2DModel(**config), seed)
    with torch.no_grad():
        # The embedded time modulates all blocks: strong enough to matter, not so strong that it drowns the tables.
        model.time_embed.linear.weight *= 0.7
        model.proj_out.weight *= 1.5 if config.get("guidance_embeds") else 0.6
        if config.get("guidance_embeds"):  # else a picture hardly depends on the embedded guidance
            model.time_embed.guidance_embedder.linear_1.weight *= 3
        generator = torch.Generator().manual_seed(seed + 1)
        model.patch_embed.proj.weight *= 4  # tokens differ, and stay different
        for block in model.transformer_blocks:  # attention averages: make it heard, and sharp
            block.attn1.to_out[0].weight *= 2
            block.attn2.to_out[0].weight *= 2
            block.ff.conv_point.weight *= 6
            block.attn2.to_q.weight *= 0.5  # its input is the growing residual stream
            block.attn2.to_q.bias *= 4
            block.attn2.to_k.bias *= 4
            if block.attn2.norm_q is not None:
                block.attn2.norm_q.weight *= 2
            for linear, norm in (
                (block.attn1.to_q, block.attn1.norm_q),
                (block.attn1.to_k, block.attn1.norm_k),
            ):
                sharp = norm.weight if norm is not None else linear.weight
                spread = torch.randn(len(sharp), generator=generator).exp()
                sharp.mul_(spread if sharp.ndim == 1 else spread[:, None])
    return model


def lively_vae(config: dict[str, Any], seed: int) -> AutoencoderDC:
    """A diffusers DC-AE whose blocks stand out against the residual stream of large latents."""
    model = enliven(AutoencoderDC(**config), seed)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "_blocks" in path and parameter.ndim == 1:
                parameter *= 6 if path.endswith("conv1.bias") else 3
    return model


def lively_text_encoder(seed: int, vocabulary: int) -> Gemma2Model:
    """A tiny Gemma 2 whose attention is sharp enough for its soft cap to matter."""
    config = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=CAPTION_CHANNELS,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=4.0,
        max_position_embeddings=1024,
        sliding_window=1024,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        attn_implementation="eager",
    )
    model = enliven(Gemma2Model(config), seed)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "norm" in path:  # Gemma multiplies by 1 + weight
                parameter -= 1
    return model


def make_tokenizer(*, merging: bool = False) -> GemmaTokenizer:
    """A small vocabulary handled as Gemma's: spaces as "▁", BOS, no EOS, right padding, bytes for the unknown.

    As in the real one, the instruction's lone last space merges with the prompt's first word. With `merging`, a prompt
    that starts with "a" also swallows the token before that space, so that no cached prefix fits.
    """
    corpus = ["\n".join(INSTRUCTION), *INSTRUCTION, PROMPT, OTHER_PROMPT, NEGATIVE]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", behavior="merged_with_next"),
            pre_tokenizers.Split("\n", behavior="isolated"),
        ]
    )
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=720,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus + [text.lower() for text in corpus], trainer)
    vocabulary = tokenizer.get_vocab()
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    if merging:
        merges.append(("▁Prompt:", "▁a"))
        vocabulary["▁Prompt:▁a"] = len(vocabulary)
    return GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, padding_side="right")


def make_scheduler(name: str, shift: float) -> Any:
    """The scheduler with the settings that the published repositories carry."""
    if name == "scm":
        return SCMScheduler(prediction_type="trigflow", sigma_data=0.5)
    if name == "flow-euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return DPMSolverMultistepScheduler(
        solver_order=2,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        lower_order_final=True,
        final_sigmas_type="zero",
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        flow_shift=shift,
        timestep_spacing="linspace",
        num_train_timesteps=1000,
    )


def build_pipeline(
    variant: Variant, *, merging_tokenizer: bool = False
) -> SanaPipeline | SanaSprintPipeline:
    """A whole lively pipeline in memory, fp32 on the CPU, its pictures calibrated to the 0..1 range."""
    tokenizer = make_tokenizer(merging=merging_tokenizer)
    cls = SanaSprintPipeline if variant.sprint else SanaPipeline
    pipeline = cls(
        tokenizer=tokenizer,
        text_encoder=lively_text_encoder(variant.weight_seed + 100, len(tokenizer)),
        vae=lively_vae(VAE_TINY, variant.weight_seed + 200),
        transformer=lively_transformer(transformer_config(variant), variant.weight_seed + 300),
        scheduler=make_scheduler(variant.scheduler, variant.shift),
    )
    pipeline.set_progress_bar_config(disable=True)
    _calibrate(pipeline)
    return pipeline


@torch.no_grad()
def _calibrate(pipeline: Any) -> None:
    """Scale the decoder's last convolution so that pictures have mean one half and spread a quarter, per channel."""
    conv = pipeline.vae.decoder.conv_out
    images = [
        draw(pipeline, prompt=prompt, seed=seed, width=128, height=128, raw=True)
        for prompt, seed in ((PROMPT, 7), (OTHER_PROMPT, 8))
    ]
    image = torch.cat(images)  # (B, 3, H, W), in -1..1 if it were right
    mean, std = image.mean((0, 2, 3)), image.std((0, 2, 3))
    conv.bias.copy_((conv.bias - mean) * 0.5 / std)
    conv.weight.mul_((0.5 / std)[:, None, None, None])


def lively_controlnet(transformer: Any, layers: int, seed: int) -> SanaControlNetModel:
    """A diffusers ControlNet for this transformer, whose residuals are heard."""
    config = {k: v for k, v in transformer.config.items() if k in _BRANCH_KEYS}
    net = enliven(SanaControlNetModel(**config | {"num_layers": layers}), seed)
    with torch.no_grad():
        net.patch_embed.proj.weight *= 4
    return net


def with_controlnet(pipeline: Any) -> SanaControlNetPipeline:
    """The same parts with a ControlNet of one block less than the transformer."""
    transformer = pipeline.transformer
    net = lively_controlnet(transformer, len(transformer.transformer_blocks) - 1, 77)
    result = SanaControlNetPipeline(**pipeline.components, controlnet=net)
    result.set_progress_bar_config(disable=True)
    return result


# --- saving ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a pipeline's files lie in its folder."""

    max_shard_size: str | None = None  # "100KB": transformer in shards with an index
    file_variant: str | None = None  # "fp16": part of the weight files' names
    transformer_dtype: torch.dtype = torch.float32
    text_encoder_dtype: torch.dtype = torch.float32  # the VAE is fp32 in every published repository


LAYOUTS: dict[str, Layout] = {
    "single": Layout(),
    "sharded": Layout(max_shard_size="200KB"),
    "fp16": Layout(
        file_variant="fp16",
        transformer_dtype=torch.float16,
        text_encoder_dtype=torch.bfloat16,
    ),
    "bf16": Layout(
        file_variant="bf16",
        transformer_dtype=torch.bfloat16,
        text_encoder_dtype=torch.bfloat16,
    ),
    "bf16_unnamed": Layout(transformer_dtype=torch.bfloat16, text_encoder_dtype=torch.bfloat16),
}


def save_pipeline(pipeline: Any, folder: Path, layout: Layout) -> Path:
    """Write the pipeline as `save_pretrained` does; `pipeline` keeps its own precision."""
    components = dict(pipeline.components)
    for name, dtype in (
        ("transformer", layout.transformer_dtype),
        ("text_encoder", layout.text_encoder_dtype),
    ):
        if dtype is not torch.float32:
            components[name] = copy.deepcopy(components[name]).to(dtype)
    extra = {} if layout.max_shard_size is None else {"max_shard_size": layout.max_shard_size}
    type(pipeline)(**components).save_pretrained(folder, variant=layout.file_variant, **extra)
    return folder


# --- drawing ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def draw(
    pipeline: Any,
    *,
    prompt: str = PROMPT,
    negative: str = "",
    width: int = 128,
    height: int = 96,
    steps: int | None = None,
    guidance: float = 4.5,
    seed: int = 7,
    enhance: bool = True,
    raw: bool = False,
    latents: Tensor | None = None,
) -> Any:
    """diffusers' own picture: (H, W, 3) uint8, or with `raw` the decoder's (1, 3, H, W) output."""
    sprint = isinstance(pipeline, SanaSprintPipeline)
    if steps is None:
        steps = 2 if sprint else 4
    arguments: dict[str, Any] = {
        "prompt": prompt,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "use_resolution_binning": False,
        "latents": latents,
        "output_type": "latent" if raw else "np",
    }
    if not enhance:
        arguments["complex_human_instruction"] = None
    if sprint:
        if steps != 2:  # diffusers refuses its own default here
            arguments["intermediate_timesteps"] = None
    else:
        arguments["negative_prompt"] = negative
    result = pipeline(**arguments).images
    if raw:
        return pipeline.vae.decode(result / pipeline.vae.config.scaling_factor).sample
    return np.round(result[0] * 255).astype(np.uint8)  # what numpy_to_pil does


@dataclass(slots=True)
class Pipelines:
    """All reference pipelines of a test session: built and saved once, on demand."""

    root: Path
    _built: dict[str, Any] = field(default_factory=dict)
    _saved: dict[tuple[str, str], Path] = field(default_factory=dict)
    _drawn: dict[tuple[Any, ...], np.ndarray] = field(default_factory=dict)

    def pipeline(self, name: str) -> Any:
        """The diffusers pipeline in memory (fp32). "merging" is plain with the tokenizer that defeats a prefix cache,
        "controlnet" is plain with a ControlNet.
        """
        if name == "controlnet" and name not in self._built:
            self._built[name] = with_controlnet(self.pipeline("plain"))
        if name not in self._built:
            merging = name == "merging"
            variant = VARIANTS["plain" if merging else name]
            self._built[name] = build_pipeline(variant, merging_tokenizer=merging)
        return self._built[name]

    def folder(self, name: str = "plain", layout: str = "single") -> Path:
        """A folder in the diffusers layout; tests that damage files work on a copy of it."""
        key = (name, layout)
        if key not in self._saved:
            folder = self.root / f"{name}-{layout}"
            self._saved[key] = save_pipeline(self.pipeline(name), folder, LAYOUTS[layout])
        return self._saved[key]

    def draw(self, name: str = "plain", **settings: Any) -> np.ndarray:
        """diffusers' picture, remembered."""
        key = (name, *sorted(settings.items()))
        if key not in self._drawn:
            self._drawn[key] = draw(self.pipeline(name), **settings)
        return self._drawn[key]
