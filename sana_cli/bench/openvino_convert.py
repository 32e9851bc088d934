"""Convert one component of a diffusers folder into an OpenVINO model file. Runs in a process of its
own.

Users of OpenVINO convert once. In the process that is timed it would add torch's copy of the
weights to the peak.
"""

# B pictures of a batch and their branches, L text tokens, C latent channels, h w latent grid

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sana_cli.bench.peer_diffusers import open_pipeline
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.system.torch_memory import peak_memory_bytes

_TEXT_LENGTH = 300  # of the embeddings, as diffusers pads them
_CALIBRATION = 8  # inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A conversion to do, as plain values. The file's name ends in .xml, with the weights in .bin
    next to it.
    """

    model: str  # what `open_checkpoint` takes
    component: Literal["text_encoder", "transformer", "vae"]
    weights: Literal["float", "w8a16", "int8"]
    batch: int  # pictures
    branches: int
    height: int  # pixels
    width: int
    target: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class _TextEncoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        model.set_attn_implementation("eager")  # others ignore Gemma's soft-capping
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(
            input_ids, attention_mask=attention_mask, use_cache=False, return_dict=False
        )[0]


class _Transformer(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, latents: Tensor, embeds: Tensor, mask: Tensor, timestep: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return self.model(
            latents, encoder_hidden_states=embeds, encoder_attention_mask=mask, timestep=timestep,
            guidance=guidance, return_dict=False,
        )[0]  # fmt: skip


class _Decoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents, return_dict=False)[0]


def convert(job: Conversion) -> None:
    """Write the model's files."""
    import openvino

    checkpoint = open_checkpoint(job.model, offline=True)
    found = getattr(open_pipeline(checkpoint, job.component, dtype=torch.float32), job.component)
    wrapped = {"text_encoder": _TextEncoder, "transformer": _Transformer, "vae": _Decoder}
    module = wrapped[job.component](found.eval())
    example = _inputs(job, module, seed=0)
    with torch.no_grad():
        model = openvino.convert_model(module, example_input=example)
    if job.component != "text_encoder":  # prompts and the empty one have their own lengths
        model.reshape({i: list(given.shape) for i, given in enumerate(example.values())})
    if job.weights != "float" and job.component != "vae":
        model = _smaller(model, job, module)
    # Sana's text encoder is published in 16 bits, and 32 would fill a small machine's disk and memory.
    openvino.save_model(model, job.target, compress_to_fp16=job.component == "text_encoder")


def _smaller(model: Any, job: Conversion, module: nn.Module) -> Any:
    import nncf

    if job.weights == "w8a16" or job.component == "text_encoder":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    given = [_inputs(job, module, seed=i) for i in range(_CALIBRATION)]
    return nncf.quantize(
        model,
        nncf.Dataset(given, lambda inputs: [tensor.numpy() for tensor in inputs.values()]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=_CALIBRATION,
    )


def _inputs(job: Conversion, module: Any, *, seed: int) -> dict[str, Tensor]:
    """Random ones of the right shapes, in the order of `forward`; `seed` runs through the noise levels."""
    generator = torch.Generator().manual_seed(seed)
    if job.component == "text_encoder":
        ids = torch.randint(1, 50, (1, _TEXT_LENGTH), generator=generator)
        mask = (torch.arange(_TEXT_LENGTH) < 20)[None].long()
        return {"input_ids": ids, "attention_mask": mask}
    config = module.model.config
    h, w = job.height // 32, job.width // 32
    if job.component == "vae":
        return {
            "latents": torch.randn(job.batch, config.latent_channels, h, w, generator=generator)
        }
    B = job.batch * job.branches
    embeds = torch.randn(B, _TEXT_LENGTH, config.caption_channels, generator=generator)
    inputs = {
        "latents": torch.randn(B, config.in_channels, h, w, generator=generator),
        "embeds": embeds,
        "mask": torch.ones(B, _TEXT_LENGTH, dtype=torch.int64),
        "timestep": torch.full((B,), 999.0 * (1 - seed / _CALIBRATION) * config.timestep_scale),
    }
    if config.guidance_embeds:
        inputs["guidance"] = torch.full((B,), 4.5 * config.guidance_embeds_scale)
    return inputs


def main() -> None:
    """Convert what the first argument describes; print what it took on the last line of stdout."""
    started = time.perf_counter()
    convert(Conversion(**json.loads(sys.argv[1])))
    taken = {
        "seconds": round(time.perf_counter() - started, 2),
        "peak_bytes": peak_memory_bytes(torch.device("cpu")),
    }
    sys.stdout.write(f"\n{json.dumps(taken)}\n")


if __name__ == "__main__":
    main()
