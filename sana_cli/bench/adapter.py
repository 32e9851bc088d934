"""Run a contender in its process: open a part of the model, run its stages, close it again.

Every contender's part is resident only while its stages are timed: whole pipelines of two
contenders would not fit into most machines. Results pass from part to part as on the way to a
picture.
"""

# B pictures of a batch, C latent channels, h w latent grid, H W pixels

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant.native.rows import is_used
from sana_cli.bench.contenders import Contender, Workload
from sana_cli.checkpoints.checkpoint import Checkpoint, weight_files
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.config.published import complex_human_instruction
from sana_cli.images import png
from sana_cli.images.tensors import to_image
from sana_cli.loading.assign import DTYPES
from sana_cli.loading.load import (
    accelerate,
    choose_kernels,
    load_decoder,
    load_prompt_encoder,
    load_transformer,
)
from sana_cli.models.text_encoder import MAX_PROMPT_TOKENS, PromptEncoder
from sana_cli.pipeline.decode import decode
from sana_cli.pipeline.denoise import denoise, init_noise
from sana_cli.pipeline.guidance import guided_velocity
from sana_cli.pipeline.text import encode_prompt
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.schedulers import make_scheduler
from sana_cli.system.precision import pick_device, plan_dtypes
from sana_cli.system.torch_memory import release_memory

PARTS = {"text": "text_encoder", "denoise": "transformer", "decode": "vae"}
Seconds = dict[str, list[float]]


class EnoughSteps(Exception):
    """The steps that are timed are done; the others are extrapolated."""


class Engine:
    """Timing and saving, which all contenders share; subclasses open, run and close their own modules."""

    def __init__(self, contender: Contender, workload: Workload) -> None:
        self.contender, self.workload = contender, workload
        self.checkpoint: Checkpoint = open_checkpoint(contender.model, offline=True)
        self.device = pick_device(workload.device)
        request = GenerationOptions(
            prompt=workload.prompt, width=workload.width, height=workload.height,
            steps=workload.steps, precision=contender.precision, decoder=contender.decoder,
        )  # fmt: skip
        self.settings = resolve(request, self.checkpoint)
        self.dtypes = plan_dtypes(
            contender.precision, self.checkpoint.trained_precision, self.device
        )
        self.kernels: dict[str, str] = {}
        self.text_tokens: dict[str, list[int]] = {}
        self.conversion: dict[str, dict[str, float]] = {}  # by part: what is done once, apart
        self.timed_steps = min(workload.timed_steps or self.settings.steps, self.settings.steps)
        self.latents: Tensor | None = None  # (B, C, h, w), of the last denoising
        self.picture: Tensor | None = None  # (B, 3, H, W) uint8, of the last decoding

    # -- for subclasses --

    def load(self, part: str) -> None:
        """Make a part ready."""
        raise NotImplementedError

    def unload(self, part: str) -> None:
        """Drop the part's modules."""
        raise NotImplementedError

    def text(self) -> Seconds:
        """Encode the prompts as for a first picture: nothing is kept from an earlier run."""
        raise NotImplementedError

    def later_prompt(self) -> Seconds:
        """Encode the prompts as for each picture after the first, with what is kept for all prompts; {} if nothing is."""
        return {}

    def denoise(self) -> Seconds:
        """Seconds of each step; sets `latents`."""
        raise NotImplementedError

    def decode_latents(self) -> Tensor:
        """`latents` -> (B, 3, H, W), nominally -1..1."""
        raise NotImplementedError

    # -- for the session --

    def open(self, part: str) -> float:
        """Seconds that loading took."""
        started = time.perf_counter()
        self.load(part)
        self.synchronize()
        return time.perf_counter() - started

    def run(self, part: str) -> Seconds:
        with torch.inference_mode():
            return {"text": self.text, "denoise": self.denoise, "decode": self.decode}[part]()

    def close(self, part: str) -> None:
        self.unload(part)
        release_memory(self.device)

    def decode(self) -> Seconds:
        started = time.perf_counter()
        decoded = self.decode_latents()
        self.synchronize()
        done = time.perf_counter()
        self._save(decoded)
        saved = time.perf_counter()
        self.picture = _as_bytes(decoded)
        return {"decode": [done - started], "encode": [saved - done]}

    def _save(self, decoded: Tensor) -> None:
        """Save a PNG with its settings as `sana generate` does, for every contender."""
        settings = {
            "prompt": self.workload.prompt, "steps": 1, "scheduler": "", "guidance": 1.0, "seed": 0,
            "size": "", "model": "", "version": "",
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            for i, picture in enumerate(decoded.split(1)):
                png.save_png(to_image(picture), Path(folder) / f"{i}.png", settings=settings)

    def resident_bytes(self, part: str) -> int:
        """About what a part will take, for the decision whether contenders fit side by side."""
        component, checkpoint = PARTS[part], self.checkpoint
        if component == "transformer" and checkpoint.pth is not None:
            return checkpoint.pth.stat().st_size * 2
        files = weight_files(checkpoint, component)
        if checkpoint.manifest is not None:
            return files.total_bytes
        return files.parameters * DTYPES[getattr(self.dtypes, component)].itemsize

    def kinds(self) -> dict[str, dict[str, Any]]:
        """Bytes and arithmetic of each part, as `work.Precisions` takes them."""
        return {part: self._kind(component) for part, component in PARTS.items()}

    def _kind(self, component: str) -> dict[str, Any]:
        dtype = getattr(self.dtypes, component)
        size = DTYPES[dtype].itemsize
        kind = {"weight_bytes": size, "act_bytes": size, "arithmetic": dtype}
        manifest = self.checkpoint.manifest
        if manifest is None or (component == "vae" and self.settings.decoder is not None):
            return kind
        schemes = [config for config in manifest.components[component].layers.values() if config]
        if schemes:
            config = max(schemes, key=schemes.count)
            kind["weight_bytes"] = config.weight_bits / 8
            kind["arithmetic"] = dtype if config.scheme.weight_only else config.scheme.inputs
        return kind

    def activation_bytes(self, part: str) -> int:
        """Return the bytes needed on top of the weights: a decoder's maps at full resolution, small
        elsewhere.
        """
        pixels = self.workload.batch * self.settings.drawn_width * self.settings.drawn_height
        widest = self.checkpoint.vae.decoder_block_out_channels[0]
        return pixels * widest * 4 * 8 if part == "decode" else 2**28

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def noise(self) -> Tensor:
        """(B, C, h, w) fp32, from consecutive seeds of CPU generators."""
        channels = self.checkpoint.transformer.in_channels
        seeds = range(self.workload.seed, self.workload.seed + self.workload.batch)
        return torch.cat([init_noise(seed, channels, self.settings)[0] for seed in seeds])

    def after_step(self) -> tuple[list[float], Callable[[int, Tensor], None]]:
        """A list of seconds, and the function that adds each step to it and stops after the timed ones."""
        seconds: list[float] = []
        self.synchronize()
        started = time.perf_counter()

        def mark(i: int, latents: Tensor) -> None:
            nonlocal started
            self.synchronize()
            now = time.perf_counter()
            seconds.append(now - started)
            started, self.latents = now, latents
            if len(seconds) == self.timed_steps:
                raise EnoughSteps

        return seconds, mark


class SanaEngine(Engine):
    """Our own modules, by the verbs that `sana generate` uses."""

    def __init__(self, contender: Contender, workload: Workload) -> None:
        super().__init__(contender, workload)
        self._module: Any = None
        self._encoder: Any = None
        self._embeds: list[Tensor] = []  # (1, L, caption channels), one a branch
        choose_kernels(self.checkpoint, self.device, "auto")  # once a machine: no part of loading

    def load(self, part: str) -> None:
        load: Any = {
            "text": load_prompt_encoder, "denoise": load_transformer, "decode": load_decoder,
        }[part]  # fmt: skip
        dtype = getattr(self.dtypes, PARTS[part])
        checkpoint = replace(self.checkpoint, decoder=self.settings.decoder)
        self._module = load(checkpoint, dtype=dtype, device=self.device)
        model = self._module.model if part == "text" else self._module
        if part == "text":
            self.text_tokens = count_tokens(self._module.tokenizer, self.settings)
        self.kernels |= accelerate(model, self.device, "auto")
        self.kernels |= {"rows": "native compiled"} if is_used() else {}

    def unload(self, part: str) -> None:
        self._module = self._encoder = None

    def text(self) -> Seconds:
        loaded: PromptEncoder = self._module
        started = time.perf_counter()
        self._encoder = PromptEncoder(
            loaded.tokenizer, loaded.model
        )  # without a cached instruction
        self._embeds = encode_prompt(self._encoder, self.settings).branches
        self.synchronize()
        return {"text": [time.perf_counter() - started]}

    def later_prompt(self) -> Seconds:
        if not self.settings.enhance:
            return {}
        started = time.perf_counter()
        encode_prompt(self._encoder, self.settings)
        self.synchronize()
        return {"prompt": [time.perf_counter() - started]}

    def denoise(self) -> Seconds:
        model, dtype = self._module, DTYPES[self.dtypes.transformer]
        started = time.perf_counter()
        contexts = [
            model.encode_text(embeds.to(self.device, dtype).expand(self.workload.batch, -1, -1))
            for embeds in self._embeds
        ]
        self.synchronize()
        prepared = time.perf_counter() - started
        noise = self.noise()
        sampler = make_scheduler(
            self.settings.scheduler, self.settings.steps, shift=self.settings.flow_shift,
            draw_noise=lambda: torch.randn(noise.shape).to(self.device),
        )  # fmt: skip
        seconds, mark = self.after_step()
        with contextlib.suppress(EnoughSteps):
            velocity_at = partial(
                guided_velocity, model, contexts, guidance_scale=self.settings.guidance_scale
            )
            denoise(velocity_at, noise.to(self.device), sampler, after_step=mark)
        return {"prepare": [prepared], "step": seconds}

    def decode_latents(self) -> Tensor:
        assert self.latents is not None
        return decode(self._module, self.latents)


def make_engine(contender: Contender, workload: Workload) -> Engine:
    """The engine of a contender; a peer's libraries are imported here at the earliest."""
    if contender.kind == "sana":
        return SanaEngine(contender, workload)
    from sana_cli.bench.peer_diffusers import make_peer

    return make_peer(contender, workload)


def _as_bytes(decoded: Tensor) -> Tensor:
    return ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def count_tokens(tokenizer: Any, settings: GenerationParams) -> dict[str, list[int]]:
    """Tokens a guidance branch that Gemma reads, and that cross-attention sees; padding is none of them."""
    prompt = settings.prompt.lower().strip()
    read = seen = min(len(tokenizer.encode(prompt)), MAX_PROMPT_TOKENS)
    if settings.enhance:
        instruction = complex_human_instruction()
        before = len(tokenizer.encode(instruction))
        together = len(tokenizer.encode(instruction + prompt))
        seen = min(together - before + 2, MAX_PROMPT_TOKENS)
        read = before + seen - 2
    first = [1] if settings.uses_two_branches else []
    return {"read": [*first, read], "seen": [*first, seen]}
