"""A `Checkpoint` -> ready modules.

Modules are built on the meta device and given their weights tensor by tensor, so nothing is held
twice.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sana_cli.checkpoint import Checkpoint, read_config, read_json
from sana_cli.errors import checkpoint_error
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.models.text_encoder import PromptEncoder
from sana_cli.precision import DTYPES
from sana_cli.pth import read_pth
from sana_cli.weight_headers import WeightFiles
from sana_cli.weights import assign_weights, read_tensor, require_same_names


def load_transformer(
    checkpoint: Checkpoint, *, dtype: str, device: torch.device
) -> SanaTransformer2D:
    """The Linear-DiT with its weights, in eval mode."""
    with torch.device("meta"):
        model = SanaTransformer2D(checkpoint.transformer)
    if checkpoint.pth is not None:
        _, tensors = read_pth(checkpoint.pth)
        names, read = {name: name for name in tensors}, tensors.__getitem__
    else:
        names, read = _component(checkpoint, "transformer", "diffusion_pytorch_model")
    assign_weights(model, names, read, component="transformer", dtype=DTYPES[dtype], device=device)
    return model.eval()


def load_vae(
    checkpoint: Checkpoint, *, dtype: str, device: torch.device, encoder: bool = False
) -> AutoencoderDC:
    """DC-AE with its weights, in eval mode. Without `encoder` only the decoder has any."""
    with torch.device("meta"):
        model = AutoencoderDC(checkpoint.vae)
    names, read = _component(checkpoint, "vae", "diffusion_pytorch_model")
    require_same_names(set(model.state_dict()), set(names), "vae")
    for half in ("encoder", "decoder") if encoder else ("decoder",):
        prefix = f"{half}."
        assign_weights(
            model.get_submodule(half),
            {name.removeprefix(prefix): name for name in names if name.startswith(prefix)},
            read,
            component=f"vae {half}",
            dtype=DTYPES[dtype],
            device=device,
        )
    return model.eval()


def load_prompt_encoder(
    checkpoint: Checkpoint, *, dtype: str, device: torch.device
) -> PromptEncoder:
    """Tokenizer and Gemma-2 decoder trunk. Attention is eager: others ignore its soft-capping."""
    _mute_import_warnings()
    from transformers.models.gemma2.configuration_gemma2 import Gemma2Config
    from transformers.models.gemma2.modeling_gemma2 import Gemma2Model, Gemma2RotaryEmbedding

    values = read_json(checkpoint.folder / "text_encoder/config.json")
    if values.get("model_type") != "gemma2":
        raise checkpoint_error(
            f"text encoder of type {values.get('model_type')!r}; Sana's is gemma2",
            hint="use the text_encoder/ folder of a published Sana model",
        )
    config = read_config(
        checkpoint.folder / "text_encoder/config.json",
        lambda found: Gemma2Config(**{**found, "attn_implementation": "eager"}),
    )
    with torch.device("meta"):
        model = Gemma2Model(config)
    # Values that are computed, not stored, must not stay on the meta device.
    model.rotary_emb = Gemma2RotaryEmbedding(config).to(device)
    model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5, device=device)
    names, read = _component(checkpoint, "text_encoder", "model")
    names = {  # files saved with a language-model head have a prefix and maybe the head
        name.removeprefix("model."): stored
        for name, stored in names.items()
        if name != "lm_head.weight"
    }
    assign_weights(model, names, read, component="text_encoder", dtype=DTYPES[dtype], device=device)
    return PromptEncoder(_load_tokenizer(checkpoint.folder / "tokenizer"), model.eval())


def _mute_import_warnings() -> None:
    """Importing transformers loads torchao, which reports GPU extensions that do not load here."""
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _component(
    checkpoint: Checkpoint, folder: str, stem: str
) -> tuple[dict[str, str], Callable[[str], torch.Tensor]]:
    # The variant is the transformer's; the other parts are the same in all their files.
    weight_variant = checkpoint.weight_variant if folder == "transformer" else None
    files = WeightFiles(checkpoint.folder / folder, stem=stem, weight_variant=weight_variant)
    return {name: name for name in files}, lambda name: read_tensor(files, name)


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise checkpoint_error(f"missing file {folder / 'tokenizer.json'}")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise checkpoint_error(f"cannot read the tokenizer in {folder}: {reason}") from error
