"""Other ways to draw the same picture, for comparison: diffusers, alone or with what people put on top of it.

Each is given what its own documentation says is fast. All start from the same folder, prompt, noise and sampler.
"""

import contextlib
import time
from typing import Any

import torch
from torch import Tensor

from sana_cli.bench.adapter import PARTS, Engine, EnoughSteps, Seconds, count_tokens
from sana_cli.bench.contenders import Contender, Workload
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.published import complex_human_instruction
from sana_cli.errors import usage_error
from sana_cli.loading.assign import DTYPES


def open_pipeline(checkpoint: Checkpoint, component: str | None, *, dtype: torch.dtype) -> Any:
    """diffusers' pipeline with one component, or none; a text encoder comes with its tokenizer."""
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    sprint = checkpoint.transformer.guidance_embeds
    pipeline = diffusers.SanaSprintPipeline if sprint else diffusers.SanaPipeline
    others = {"text_encoder", "transformer", "vae"} - {component}
    if component in ("transformer", "vae"):
        others.add("tokenizer")
    variant = checkpoint.weight_variant if component == "transformer" else None
    pipe = pipeline.from_pretrained(
        checkpoint.folder, torch_dtype=dtype, variant=variant, local_files_only=True,
        **dict.fromkeys(sorted(others)),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


class DiffusersEngine(Engine):
    """`SanaPipeline` with the parts that a stage needs."""

    def __init__(self, contender: Contender, workload: Workload) -> None:
        super().__init__(contender, workload)
        if self.checkpoint.manifest is not None or self.checkpoint.pth is not None:
            raise usage_error(
                f"{contender.kind} cannot read {contender.model}",
                "compare on a model folder in the diffusers layout",
            )
        self._pipe: Any = None
        self._embeds: tuple[Tensor | None, ...] = ()

    def load(self, part: str) -> None:
        component = PARTS[part]
        self._pipe = open_pipeline(
            self.checkpoint, component, dtype=DTYPES[getattr(self.dtypes, component)]
        ).to(self.device)
        if part == "text":
            self.text_tokens = count_tokens(self._pipe.tokenizer, self.settings)
        if part == "denoise":
            self._pipe.transformer = self.prepare_transformer(self._pipe.transformer)
        if part == "decode":
            self._decoder = self.prepare_decoder(self._pipe.vae)

    def prepare_transformer(self, transformer: Any) -> Any:
        """Change the transformer as a subclass wants; nothing here."""
        return transformer

    def prepare_decoder(self, vae: Any) -> Any:
        """A function from latents to pixels."""
        return lambda latents: vae.decode(latents, return_dict=False)[0]

    def unload(self, part: str) -> None:
        self._pipe = self._decoder = None

    def text(self) -> Seconds:
        started = time.perf_counter()
        arguments: dict[str, Any] = {
            "complex_human_instruction": complex_human_instruction().split("\n")
            if self.settings.enhance
            else None,
            "num_images_per_prompt": self.workload.batch,
        }
        if not self.checkpoint.transformer.guidance_embeds:
            arguments["do_classifier_free_guidance"] = self.settings.uses_two_branches
        self._embeds = self._pipe.encode_prompt(self.workload.prompt, **arguments)
        self.synchronize()
        return {"text": [time.perf_counter() - started]}

    def denoise(self) -> Seconds:
        names = (
            "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds",
            "negative_prompt_attention_mask",
        )  # fmt: skip
        known = {n: t for n, t in zip(names, self._embeds, strict=False) if t is not None}
        arguments: dict[str, Any] = {}
        if self.checkpoint.transformer.guidance_embeds:
            if self.settings.steps != 2:
                arguments["intermediate_timesteps"] = None
        else:
            arguments["negative_prompt"] = None
        seconds, mark = self.after_step()

        def callback(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            mark(i, tensors["latents"])
            return {}

        with contextlib.suppress(EnoughSteps):
            self._pipe(
                latents=self.noise().to(self.device), height=self.settings.drawn_height,
                width=self.settings.drawn_width, num_inference_steps=self.settings.steps,
                guidance_scale=self.settings.guidance_scale, use_resolution_binning=False,
                output_type="latent", callback_on_step_end=callback, **known, **arguments,
            )  # fmt: skip
        return {"step": seconds}

    def decode_latents(self) -> Tensor:
        assert self.latents is not None
        vae = self._pipe.vae
        decoded: Tensor = self._decoder(self.latents.to(vae.dtype) / vae.config.scaling_factor)
        return decoded


class CompiledEngine(DiffusersEngine):
    """`torch.compile` on the transformer and the decoder; the first run pays for it."""

    def prepare_transformer(self, transformer: Any) -> Any:
        transformer.compile(mode=self._mode)
        return transformer

    def prepare_decoder(self, vae: Any) -> Any:
        vae.to(memory_format=torch.channels_last)
        return torch.compile(lambda z: vae.decode(z, return_dict=False)[0], mode=self._mode)

    @property
    def _mode(self) -> str:
        return "max-autotune" if self.device.type == "cuda" else "default"


class TorchaoEngine(DiffusersEngine):
    """Int8 weights and dynamic int8 activations on the transformer's linear layers."""

    def prepare_transformer(self, transformer: Any) -> Any:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(transformer, Int8DynamicActivationInt8WeightConfig())
        return transformer


class QuantoEngine(DiffusersEngine):
    """Int8 weights on the transformer's linear layers and convolutions."""

    def prepare_transformer(self, transformer: Any) -> Any:
        from optimum.quanto import freeze, qint8, quantize

        quantize(transformer, weights=qint8)
        freeze(transformer)
        return transformer


_ENGINES: dict[str, type[DiffusersEngine]] = {
    "diffusers": DiffusersEngine, "diffusers-fp32": DiffusersEngine,
    "diffusers-compile": CompiledEngine, "torchao": TorchaoEngine, "quanto": QuantoEngine,
}  # fmt: skip


def make_peer(contender: Contender, workload: Workload) -> Engine:
    """The engine of a peer."""
    if contender.kind.startswith("openvino"):
        from sana_cli.bench.peer_openvino import OpenVINOEngine

        return OpenVINOEngine(contender, workload)
    return _ENGINES[contender.kind](contender, workload)
