"""Write a run's averaged weights as an ordinary diffusers-layout checkpoint folder, with `sana.json` and a model card.

The transformer and the autoencoder are stored in fp16 (their values are small, and a bf16 autoencoder loses contrast in
flat areas), the text encoder in bf16; the loader computes in fp32 on a CPU. The folder is written apart and moved file
by file, so a reader never finds half a file.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.dc_ae import CONFIG, load_autoencoder
from training.model_card import write_card
from training.runs import load_checkpoint
from training.text import save_text_side
from training.transformer import FLOW_SHIFT, load_networks
from training.vocabulary import (
    BACKGROUND_COLOURS,
    COUNTS,
    OBJECTS,
    OTHER_WORDS,
    RELATIONS,
    SHAPE_COLOURS,
    SHAPES,
    SIZE_SYNONYMS,
    SIZES,
    STYLES,
    groups,
)

STAGES = (
    ("autoencoder", "dc_ae.pt"),
    ("text encoder and transformer", "transformer.pt"),
    ("decoder alone", "decoder.pt"),
)
MAX_BYTES = 19_900_000
DEFAULT_STEPS = 20
DEFAULT_GUIDANCE = 4.0
DESCRIPTION = (
    f"shapes in colours and {len(OBJECTS)} things (animals, food, vehicles, plants, weather, things), "
    "one, two or three at a time, on plain backgrounds"
)


def vocabulary() -> dict[str, list[str]]:
    """The words that the model knows, by group, for people and for warnings."""
    synonyms = sorted(s for _, _, names in OBJECTS.values() for s in names)
    return {
        **groups(),
        "other names": synonyms,
        "shapes": list(SHAPES),
        "colours of shapes": list(SHAPE_COLOURS),
        "backgrounds": list(BACKGROUND_COLOURS),
        "sizes": [*SIZES, *(w for words in SIZE_SYNONYMS.values() for w in words)],
        "styles": list(STYLES),
        "relations": [phrase for phrases in RELATIONS.values() for phrase in phrases],
        "counts": list(COUNTS.values()),
        "other words": list(OTHER_WORDS),
    }


def export(run_folder: Path, target: Path, *, command: str) -> dict[str, str]:
    """Write the checkpoint; returns the SHA-256 of every weight file."""
    device = torch.device("cpu")
    vae, scaling_factor = load_autoencoder(run_folder, device)
    networks, tokenizer = load_networks(run_folder, device)
    with tempfile.TemporaryDirectory(dir=run_folder) as temporary:
        folder = Path(temporary)
        _save(folder / "vae/diffusion_pytorch_model.safetensors", vae.state_dict(), torch.float16)
        _save(
            folder / "transformer/diffusion_pytorch_model.safetensors",
            networks.transformer.state_dict(),
            torch.float16,
        )
        _save(
            folder / "text_encoder/model.safetensors",
            networks.text_encoder.state_dict(),
            torch.bfloat16,
        )
        save_text_side(folder, tokenizer)
        vae_config = replace(CONFIG, scaling_factor=round(scaling_factor, 6))
        _write_json(
            folder / "vae/config.json", {"_class_name": "AutoencoderDC", **asdict(vae_config)}
        )
        transformer_config = asdict(networks.transformer.config)
        transformer_config.update(dropout=0.0, norm_elementwise_affine=False)
        _write_json(
            folder / "transformer/config.json",
            {"_class_name": "SanaTransformer2DModel", **transformer_config},
        )
        text_config = {
            **networks.text_encoder.config.to_dict(),
            "architectures": ["Gemma2Model"],
            "torch_dtype": "bfloat16",
        }
        _write_json(folder / "text_encoder/config.json", text_config)
        _write_json(folder / "scheduler/scheduler_config.json", _scheduler_config())
        _write_json(folder / "model_index.json", _model_index())
        _write_json(folder / "sana.json", vocabulary_settings())
        hashes = {
            str(p.relative_to(folder)): _sha256(p) for p in sorted(folder.rglob("*.safetensors"))
        }
        notes = run_folder / "notes.md"
        write_card(
            folder / "README.md",
            run_folder / "evaluation" / "evaluation.json",
            notes=notes.read_text(encoding="utf-8") if notes.is_file() else "",
            hashes=hashes,
            budgets=_budgets(run_folder),
            command=command,
            vocabulary=vocabulary(),
        )
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            raise ValueError(f"the export has {size:,} bytes, more than {MAX_BYTES:,}")
        _move_files(folder, target)
    return hashes


def _budgets(run_folder: Path) -> dict[str, tuple[int, float]]:
    """Steps and minutes of every stage, from its checkpoint."""
    result = {}
    for stage, name in STAGES:
        state = load_checkpoint(run_folder / name, torch.device("cpu"))
        if state is not None:
            result[stage] = (state["step"], state["used_s"] / 60)
    return result


def _save(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    if not all(tensor.isfinite().all() for tensor in half.values()):
        raise ValueError(f"{path.parent.name}: a weight does not fit {dtype}")
    save_file(half, path, metadata={"format": "pt"})


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _scheduler_config() -> dict[str, object]:
    return {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "final_sigmas_type": "zero",
        "flow_shift": FLOW_SHIFT,
        "lower_order_final": True,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "solver_order": 2,
        "solver_type": "midpoint",
        "timestep_spacing": "linspace",
        "use_flow_sigmas": True,
    }


def _model_index() -> dict[str, object]:
    return {
        "_class_name": "SanaPipeline",
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"],
    }


def vocabulary_settings() -> dict[str, object]:
    return {
        "name": "builtin",
        "native_size": 256,
        "steps": DEFAULT_STEPS,
        "guidance": DEFAULT_GUIDANCE,
        "enhance": False,
        "precision": "fp32",  # it was trained so; half precision is for the file's size
        "description": DESCRIPTION,
        "vocabulary": vocabulary(),
        "colours": "colours of shapes",
        "uncoloured": [*groups(), "other names"],
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _move_files(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        destination = target / path.relative_to(source)
        if path.is_dir():
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = destination.with_name(destination.name + ".partial")
        shutil.copyfile(path, partial)
        os.replace(partial, destination)
