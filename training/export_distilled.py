"""Write what was trained on top of the built-in model: packed parts into the package, a tiny decoder as a folder."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sana_cli.checkpoints.builtin_packed import CONTROL, SPRINT
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.packed_weights import PACKED_WEIGHTS, SCALE
from sana_cli.checkpoints.shapes import tiny_decoder_names
from sana_cli.loading.load import load_transformer
from training.control import load_control
from training.distil_decoder import CONFIG, load_tiny_decoder
from training.distil_steps import FILE, load_student, student_config
from training.export import vocabulary_settings

_SMALLEST = 4096  # elements; smaller tensors stay fp16
_STEPS = 2
_CONTROL_LEVELS = 31  # 6 bits


def export_sprint(run_folder: Path, target: Path, *, file: str = FILE) -> None:
    """Write the student's averaged weights in 8-bit rows, and the small files of its model, into `target`."""
    teacher = open_checkpoint("builtin")
    student = load_student(run_folder, teacher.transformer, file=file)
    target.mkdir(parents=True, exist_ok=True)
    packed: dict[str, Tensor] = {}
    for name, tensor in student.state_dict().items():
        packed |= packed_rows(name, tensor)
    save_file(packed, target / SPRINT.weights, metadata={"format": "pt"})
    config = asdict(student_config(teacher.transformer))
    config.update(dropout=0.0, norm_elementwise_affine=False)
    index = {
        "_class_name": "SanaSprintPipeline",
        "scheduler": ["diffusers", "SCMScheduler"],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"],
    }
    scheduler = {
        "_class_name": "SCMScheduler", "num_train_timesteps": 1000,
        "prediction_type": "trigflow", "sigma_data": 0.5,
    }  # fmt: skip
    settings = vocabulary_settings() | {"name": SPRINT.name, "steps": _STEPS}
    for name, value in (
        ("transformer_config.json", {"_class_name": "SanaTransformer2DModel", **config}),
        ("scheduler_config.json", scheduler), ("model_index.json", index), ("sana.json", settings),
    ):  # fmt: skip
        (target / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def packed_rows(name: str, tensor: Tensor, *, levels: int = 127) -> dict[str, Tensor]:
    """A large matrix as int8 with a scale for each row, rounded to nearest; anything else in fp16.

    `levels` on each side of zero; fewer take the same room in the file, and less in a wheel, which is compressed.
    """
    if tensor.ndim < 2 or tensor.numel() < _SMALLEST:
        return {name: tensor.half().contiguous()}
    rows = tensor.float().flatten(1)
    scale = (rows.abs().amax(dim=1) / levels).clamp_min(1e-7).half()
    values = (rows / scale.float()[:, None]).round().clamp(-levels, levels)
    return {name: values.to(torch.int8).view(tensor.shape).contiguous(), name + SCALE: scale}


def export_control(run_folder: Path, target: Path) -> None:
    """Write a ControlNet's averaged weights in rows of 6 bits, and the small files of its model, into `target`."""
    base = open_checkpoint("builtin")
    transformer = load_transformer(base, dtype="fp32", device=torch.device("cpu"))
    net = load_control(run_folder, transformer)
    packed: dict[str, Tensor] = {}
    for name, tensor in net.state_dict().items():
        if not name.startswith(CONTROL.borrowed):
            packed |= packed_rows(name, tensor, levels=_CONTROL_LEVELS)
    target.mkdir(parents=True, exist_ok=True)
    save_file(packed, target / CONTROL.weights, metadata={"format": "pt"})
    config = {"_class_name": "SanaControlNetModel", **asdict(net.config.blocks)}
    index = json.loads((base.folder / "model_index.json").read_text(encoding="utf-8"))
    index |= {
        "_class_name": "SanaControlNetPipeline",
        "controlnet": ["diffusers", "SanaControlNetModel"],
    }
    settings = json.loads((base.folder / "sana.json").read_text(encoding="utf-8"))
    for name, value in (
        ("controlnet_config.json", config | {"control_order": net.config.order.value}),
        ("model_index.json", index), ("sana.json", settings | {"name": CONTROL.name}),
    ):  # fmt: skip
        (target / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def export_tiny_decoder(run_folder: Path, target: Path) -> None:
    """Write the averaged tiny decoder in 8-bit rows, as a folder of `decoders/` in a model's folder.

    Its last stage and convolution stay in fp16: their 8-bit rows alone would take 0.05 dB of a picture.
    """
    decoder = load_tiny_decoder(run_folder, torch.device("cpu"))
    names = tiny_decoder_names(CONFIG)
    target.mkdir(parents=True, exist_ok=True)
    last = ("conv_out.", f"stages.{len(CONFIG.widths) - 1}.")
    packed: dict[str, Tensor] = {}
    for name, tensor in decoder.state_dict().items():
        if name.startswith(last):
            packed[names[name]] = tensor.half().contiguous()
        else:
            packed |= packed_rows(names[name], tensor)
    save_file(packed, target / PACKED_WEIGHTS, metadata={"format": "pt"})
    text = json.dumps({"_class_name": "TinyDecoder", **asdict(CONFIG)}, indent=2)
    (target / "config.json").write_text(text + "\n", encoding="utf-8")
