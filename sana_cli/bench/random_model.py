"""Write a model folder of a published configuration with random weights, for measurements without a download.

Shapes, dtypes and layout are the published ones: fp16 or bf16 transformer, fp32 DC-AE, bf16 Gemma-2-2b. Weights are
drawn tensor by tensor, so that the largest tensor is all the memory that it takes. Values are lively: activations
neither vanish nor blow up.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quant.stream_writer import StreamWriter, TensorSpec
from sana_cli.bench.flops import GEMMA_2_2B
from sana_cli.checkpoints.file_selection import STEMS, TOKENIZER
from sana_cli.checkpoints.published_outline import write_configuration
from sana_cli.config.networks import DCAEConfig, Gemma2Config, TinyDecoderConfig, TransformerConfig
from sana_cli.config.published import complex_human_instruction
from sana_cli.config.variants import VARIANTS, Variant
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.gemma2 import Gemma2
from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.models.tiny_decoder import TinyDecoder

# The decoder of mit-han-lab/dc-ae-lite-f32c32-sana-1.1-diffusers.
LITE = replace(
    DCAEConfig(), decoder_block_types="ResBlock", decoder_layers_per_block=(0, 3, 5, 4, 4, 4),
    decoder_qkv_multiscales=((),) * 6, decoder_conv_act_fn="silu", upsample_block_type="pixel_shuffle",
)  # fmt: skip
# Words of prompts, in addition to those of the instruction.
WORDS = (
    "a", "an", "the", "red", "green", "blue", "small", "large", "fox", "cat", "dog", "tree", "house", "on", "in",
    "under", "sky", "sea", "night", "day",
)  # fmt: skip


def _shapes(
    variant: Variant, *, medium: bool
) -> tuple[TransformerConfig, DCAEConfig, dict[str, Any]]:
    """Published shapes, or narrower and shallower ones of the same kind: 1/30 of the weights."""
    structure = TransformerConfig(**asdict(variant.structure))
    if not medium:
        return structure, DCAEConfig(), GEMMA_2_2B
    narrow: dict[str, Any] = {
        "num_attention_heads": 16, "num_layers": 8, "num_cross_attention_heads": 8,
        "cross_attention_head_dim": 64, "cross_attention_dim": 512, "caption_channels": 512,
    }  # fmt: skip
    widths = (64, 128, 256, 256, 512, 512)
    gemma = GEMMA_2_2B | {
        "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128,
    }  # fmt: skip
    vae = replace(
        DCAEConfig(), encoder_block_out_channels=widths, decoder_block_out_channels=widths
    )
    return replace(structure, **narrow), vae, gemma


def write_model(alias: str, folder: Path, *, seed: int = 0, medium: bool = False) -> None:
    """Write the folder. ValueError for an unknown alias; FileExistsError if it is there."""
    if alias not in VARIANTS:
        raise ValueError(f"unknown variant {alias!r}; known: {', '.join(VARIANTS)}")
    folder.mkdir(parents=True)
    variant, generator = VARIANTS[alias], torch.Generator().manual_seed(seed)
    structure, vae, gemma = _shapes(variant, medium=medium)
    half = torch.float16 if variant.precision == "fp16" else torch.bfloat16
    with torch.device("meta"):
        parts: tuple[tuple[str, nn.Module, torch.dtype], ...] = (
            ("transformer", SanaTransformer2D(structure), half),
            ("vae", AutoencoderDC(vae), torch.float32),
            ("text_encoder", Gemma2(Gemma2Config.from_dict(gemma)), torch.bfloat16),
        )
    write_configuration(folder, variant, structure, vae, gemma)
    for name, module, dtype in parts:
        _write_weights(folder / name / f"{STEMS[name]}.safetensors", module, dtype, generator)
    _write_tokenizer(folder)


def write_decoder(name: Literal["lite", "tiny"], folder: Path, *, seed: int = 0) -> None:
    """Write a folder for `--decoder`: DC-AE-Lite's or TAESANA's shapes, fp32. FileExistsError if it is there."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    config = LITE if name == "lite" else TinyDecoderConfig()
    with torch.device("meta"):
        module = AutoencoderDC(LITE) if name == "lite" else TinyDecoder(TinyDecoderConfig())
    said = {"_class_name": type(module).__name__, **asdict(config)}
    (folder / "config.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
    _write_weights(folder / f"{STEMS['vae']}.safetensors", module, torch.float32, generator)


def _write_weights(path: Path, module: nn.Module, dtype: torch.dtype, generator: Any) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in sorted(module.state_dict().items())}
    with path.open("wb") as file:
        writer = StreamWriter(file, {n: TensorSpec(dtype, shape) for n, shape in shapes.items()})
        writer.start()
        for name, shape in shapes.items():
            writer.add(name, _values(name, shape, generator).to(dtype))
        writer.finish()


def _values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Matrices keep the size of what passes through them; norms are near one (Gemma's add one)."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) > 1 and "table" not in name:
        return noise * (0.7 / math.sqrt(math.prod(shape[1:])))
    if name.endswith("weight") and "norm" in name:
        return (0.0 if "layernorm" in name or name == "norm.weight" else 1.0) + 0.1 * noise
    return 0.1 * noise


def _write_tokenizer(folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    _tokenizer().save(str(folder / TOKENIZER))
    special = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right"}
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(special | kind, indent=1))


def _tokenizer() -> Any:
    """Letters and words of the instruction, which takes about as many tokens as Gemma's own makes of it.

    The published one is not ours to ship, and prompts only need ids.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words = list(dict.fromkeys([*WORDS, *re.findall(r"[a-zA-Z]+", complex_human_instruction())]))
    pieces = [*special, *map(chr, range(33, 127)), "\n", "▁", *(f"▁{word}" for word in words)]
    merges = list(_merges(words))
    vocabulary = {
        piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *(a + b for a, b in merges)]))
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _merges(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield merges that build each word letter by letter after its space."""
    seen = set()
    for word in words:
        left = "▁"
        for letter in word:
            if (left, letter) not in seen:
                seen.add((left, letter))
                yield left, letter
            left += letter
