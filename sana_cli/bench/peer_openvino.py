"""OpenVINO on a CPU: diffusers' loop around its own modules, which OpenVINO runs from files that were converted before."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sana_cli.bench.adapter import PARTS, count_tokens
from sana_cli.bench.contenders import Contender, Workload
from sana_cli.bench.openvino_convert import Conversion
from sana_cli.bench.peer_diffusers import DiffusersEngine, open_pipeline
from sana_cli.errors import ExitCode, SanaError, usage_error

_WEIGHTS = {"openvino-w8a16": "w8a16", "openvino-int8": "int8"}
_WHILE_CONVERTING = 3  # copies of the weights: torch's, OpenVINO's, and those of what is written


class OpenVINOEngine(DiffusersEngine):
    """Compiled for latency on as many threads as torch has.

    In the precision that OpenVINO chooses, which is bf16 where the CPU has instructions for it; `openvino-fp32` insists.
    """

    def __init__(self, contender: Contender, workload: Workload) -> None:
        super().__init__(contender, workload)
        if self.device.type != "cpu":
            raise usage_error(
                f"{contender.kind} runs on a CPU, not on {self.device.type}",
                "use --device cpu, or omit --device",
            )
        self._files = tempfile.TemporaryDirectory(prefix="openvino-")
        self._compiled: Any = None

    def open(self, part: str) -> float:
        """Converting comes before, and is no part of the seconds that loading takes."""
        target = Path(self._files.name) / f"{part}.xml"
        if part not in self.conversion:
            self.conversion[part] = _convert(
                Conversion(
                    model=str(self.checkpoint.folder),
                    component=cast(Any, PARTS[part]),
                    weights=cast(Any, _WEIGHTS.get(self.contender.kind, "float")),
                    batch=self.workload.batch,
                    branches=1 + self.settings.uses_two_branches,
                    height=self.settings.drawn_height,
                    width=self.settings.drawn_width,
                    target=str(target),
                )
            )
        return super().open(part)

    def load(self, part: str) -> None:
        import openvino

        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        if self.contender.kind == "openvino-fp32":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        file = Path(self._files.name) / f"{part}.xml"
        self._compiled = openvino.Core().compile_model(file, "CPU", options)
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.kernels[part] = f"OpenVINO in {precision}"
        self._pipe = open_pipeline(self.checkpoint, None, dtype=torch.float32)
        if part == "text":
            self.text_tokens = count_tokens(self._pipe.tokenizer, self.settings)
            self._pipe.text_encoder = _Module(self._text_encoder)
        if part == "denoise":
            self._pipe.transformer = _Module(self._transformer, self.checkpoint.transformer)

    def unload(self, part: str) -> None:
        self._pipe = self._compiled = None

    def decode_latents(self) -> Tensor:
        assert self.latents is not None
        return self._run(self.latents.float() / self.checkpoint.vae.scaling_factor)

    def resident_bytes(self, part: str) -> int:
        converted = part in self.conversion
        return super().resident_bytes(part) * (1 if converted else _WHILE_CONVERTING)

    def _text_encoder(self, ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        return (self._run(ids, attention_mask),)

    def _transformer(
        self,
        latents: Tensor,
        *,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        timestep: Tensor,
        guidance: Tensor | None = None,
        **unused: Any,
    ) -> tuple[Tensor]:
        given = [latents, encoder_hidden_states, encoder_attention_mask, timestep.float(), guidance]
        return (self._run(*(tensor for tensor in given if tensor is not None)),)

    def _run(self, *inputs: Tensor) -> Tensor:
        return torch.from_numpy(self._compiled([tensor.numpy() for tensor in inputs])[0])


class _Module:
    """The part of a module that diffusers' pipelines use."""

    dtype = torch.float32

    def __init__(self, run: Any, config: Any = None) -> None:
        self.run, self.config = run, config

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


def _convert(job: Conversion) -> dict[str, float]:
    """Seconds and peak bytes of a conversion; SanaError with its last words if it fails."""
    command = [sys.executable, "-m", "sana_cli.bench.openvino_convert", job.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        raise SanaError(
            f"converting the {job.component} failed: {words[-1] if words else done.returncode}",
            hint="most often the machine ran out of memory; omit openvino",
            code=ExitCode.ENVIRONMENT,
        )
    taken: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return taken
