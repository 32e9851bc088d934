"""Run the float model part by part: texts, then the transformer, whose pictures are the decoder's inputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from calibration.collect import (
    StepInput,
    draw_latents,
    encode_texts,
    plan_drawings,
    record_steps,
)
from calibration.sensitivity import noise_share, swapped, to_db
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.loading.load import load_prompt_encoder, load_transformer
from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.models.text_encoder import PromptEncoder
from sana_cli.pipeline.text import EncodedPair
from sana_cli.progress import Reporter
from sana_cli.system.precision import plan_dtypes
from sana_cli.system.torch_memory import release_memory

_FIRST_SEED = 1_000_000  # calibration pictures have seeds of their own, which nobody types
_LATENT_CHECKS = 2  # pictures drawn in full with every layer quantized, to scale predictions by


class FloatModel:
    """Draws the calibration pictures with one part in memory at a time; keeps their texts and latents."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompts: Sequence[str],
        *,
        steps: int | None,
        seed: int,
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        """Plan one picture a prompt; `steps` of each, None for the model's own."""
        self.checkpoint, self.device, self.reporter = checkpoint, device, reporter
        self.seed = seed
        self.dtypes = plan_dtypes("auto", checkpoint.trained_precision, device)
        self.drawings = plan_drawings(
            checkpoint, prompts, first_seed=_FIRST_SEED + seed, steps=steps
        )
        self._texts: list[EncodedPair] = []
        self._latents: list[Tensor] = []

    def _load_encoder(self) -> PromptEncoder:
        with self.reporter.stage("load text encoder"):
            return load_prompt_encoder(
                self.checkpoint, dtype=self.dtypes.text_encoder, device=self.device
            )

    def encode(self, encoder: PromptEncoder) -> None:
        """Texts of all calibration pictures."""
        with self.reporter.stage("texts", len(self.drawings)) as advance:
            self._texts = encode_texts(encoder, self.drawings, advance=advance)

    def _load_transformer(self) -> SanaTransformer2D:
        if not self._texts:
            self.encode(self._load_encoder())
            release_memory(self.device)
        with self.reporter.stage("load transformer"):
            return load_transformer(
                self.checkpoint, dtype=self.dtypes.transformer, device=self.device
            )

    def record(self, transformer: SanaTransformer2D) -> list[StepInput]:
        """Draw the calibration pictures; keeps their latents and returns inputs of the sampled steps."""
        steps = sum(drawing.settings.steps for drawing in self.drawings)
        with self.reporter.stage("calibration pictures", steps) as advance:
            inputs, self._latents = record_steps(
                transformer, self._texts, self.drawings, seed=self.seed, advance=advance
            )
        return inputs

    def latent_offset_db(
        self, transformer: SanaTransformer2D, layers: Mapping[str, nn.Module], predicted: float
    ) -> float:
        """Return how far SQNR of finished latents, all layers quantized, is from the sum of single effects."""
        some = list(zip(self._texts, self.drawings, strict=True))[:_LATENT_CHECKS]
        with swapped(transformer, layers):
            drawn = [draw_latents(transformer, text, drawing) for text, drawing in some]
        return to_db(noise_share(self._latents[: len(drawn)], drawn)) - to_db(predicted)
