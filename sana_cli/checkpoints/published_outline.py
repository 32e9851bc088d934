"""A published model by its configuration alone, for planning without the hub: what its files would say. No torch."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from quant.dtypes import STORED_PRECISIONS
from sana_cli.checkpoints.file_selection import TOKENIZER
from sana_cli.checkpoints.shapes import (
    Headers,
    autoencoder_shapes,
    text_encoder_shapes,
    transformer_shapes,
)
from sana_cli.config.networks import DCAEConfig, Gemma2Config, TransformerConfig
from sana_cli.config.variants import Variant
from sana_cli.files import temporary_folder


class PublishedOutline:
    """A counterpart of `hub_outline.Outline`, filled from the table of published models."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.folder = temporary_folder(self)
        self.headers: Callable[[str], Headers] = cache(self._headers)
        gemma = {"model_type": "gemma2", **asdict(Gemma2Config())}
        write_configuration(self.folder, variant, self._transformer, DCAEConfig(), gemma)
        (self.folder / "tokenizer").mkdir()
        with (self.folder / TOKENIZER).open("wb") as file:
            file.truncate(variant.download_bytes["tokenizer"])

    @property
    def _transformer(self) -> TransformerConfig:
        return TransformerConfig(**asdict(self.variant.structure))

    def _headers(self, component: str) -> Headers:
        if component == "transformer":
            dtype, shapes = (
                STORED_PRECISIONS[self.variant.precision],
                transformer_shapes(self._transformer),
            )
        elif component == "vae":
            dtype, shapes = "F32", autoencoder_shapes(DCAEConfig())
        else:
            dtype, shapes = "BF16", text_encoder_shapes(Gemma2Config())
        return {name: (dtype, shape) for name, shape in shapes.items()}


def write_configuration(
    folder: Path,
    variant: Variant,
    transformer: TransformerConfig,
    vae: DCAEConfig,
    gemma: Mapping[str, Any],
) -> None:
    """Write every JSON file of a published layout but those of the tokenizer."""
    flow_dpm = {
        "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++",
        "flow_shift": variant.flow_shift, "prediction_type": "flow_prediction", "solver_order": 2,
        "use_flow_sigmas": True,
    }  # fmt: skip
    scm = {"_class_name": "SCMScheduler", "prediction_type": "trigflow", "sigma_data": 0.5}
    scheduler = scm if variant.sprint else flow_dpm
    index = {
        "_class_name": "SanaSprintPipeline" if variant.sprint else "SanaPipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"],
    }
    for name, values in {
        "model_index.json": index,
        "scheduler/scheduler_config.json": scheduler,
        "transformer/config.json": {
            "_class_name": "SanaTransformer2DModel",
            **asdict(transformer),
        },
        "vae/config.json": {"_class_name": "AutoencoderDC", **asdict(vae)},
        "text_encoder/config.json": dict(gemma),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(values, indent=1), encoding="utf-8")
