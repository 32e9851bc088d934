"""Decoding whole, in exact tiles and in blended tiles: seconds, peak memory, and how far the picture is from the whole.

`python -m benchmarks.decode` runs the built-in model's decoder on a picture that it drew, and a decoder of the published
size with random weights on random latents; every row in a process of its own. Then the up-sampling: enlarging first
against the folded convolutions. The document goes to `benchmarks/results/decode.json`.
"""

# K input channels, N output channels

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record import record
from sana_cli.bench.machine import machine
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.networks import DCAEConfig
from sana_cli.loading.load import load_vae
from sana_cli.memory.decoder_sizes import decode_activations
from sana_cli.memory.plans import WHOLE, DecodePlan, exact_tiles
from sana_cli.models.dc_ae import AutoencoderDC, upsampled_conv
from sana_cli.pipeline.decode import decode
from sana_cli.pipeline.latents_file import read
from sana_cli.system.resident import peak_resident_bytes, resident_bytes

PROMPT = "a cat left of a pizza on a blue background"
# (K, N, side) of every up-sampling of a 1024 x 1024 picture, and of a 512 x 512 one
UPSAMPLINGS = [
    (K, N, int(side * factor))
    for factor in (0.5, 1)
    for K, N, side in ((1024, 1024, 32), (1024, 512, 64), (512, 512, 128), (512, 256, 256), (256, 128, 512))
]  # fmt: skip


def plans(size: int) -> list[DecodePlan]:
    """List the plans to compare at one size, whole first: upstream's tiles, and ones that divide
    this picture.
    """
    sides = [side for side in (1024, 512, 256, 128) if side < size][:2]
    exact = [exact_tiles(side, size, size) for side in sides]
    unstripped = [DecodePlan(mode="exact-tiles", tile=sides[0])] if exact[0].strip else []
    blended = [DecodePlan(mode="blended-tiles", tile=side) for side in (1024, sides[0])]
    return [WHOLE, *unstripped, *exact, *(plan for plan in blended if plan.tile <= size)]


def decoder(name: str) -> AutoencoderDC:
    """The built-in one, or random weights in the published shape: values keep their size from layer to layer."""
    if name == "builtin":
        return load_vae(open_checkpoint("builtin"), dtype="fp32", device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        vae = AutoencoderDC(DCAEConfig())
    vae.decoder.to_empty(device="cpu")
    with torch.no_grad():
        for path, parameter in vae.decoder.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
            else:
                centre = 0.5 if "norm" in path and path.endswith("weight") else 0.0
                parameter.normal_(centre, 0.1, generator=generator)
    return vae.eval()


def decode_once(job: dict[str, Any]) -> dict[str, Any]:
    """Measure a row in this process."""
    vae, latents = decoder(job["decoder"]), torch.load(job["latents"])
    plan = DecodePlan(**job["plan"])
    before = resident_bytes()
    started, worked = time.perf_counter(), time.process_time()
    picture = decode(vae, latents, plan=plan)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    peak = peak_resident_bytes() or 0
    torch.save(picture.clone(), job["picture"])
    height, width = picture.shape[-2:]
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(worked, 2),
        "peak_mib": round(peak / 2**20),
        "activations_mib": round((peak - before) / 2**20),
        "predicted_mib": round(decode_activations(vae.config, plan, height, width, 4) / 2**20),
    }


def compare(picture: Tensor, whole: Tensor) -> dict[str, Any]:
    """Compare a decoded picture with the undivided one, as values and as grey levels."""
    error = (picture - whole).abs()
    levels = [(t / 2 + 0.5).clamp(0, 1).mul(255).round() for t in (picture, whole)]
    squared = float(((picture - whole) / 2).square().mean())
    return {
        "equal_bits": torch.equal(picture, whole),
        "largest_difference": float(f"{error.max():.2e}"),
        "psnr_db": round(-10 * math.log10(squared), 1) if squared else None,
        "largest_difference_of_255": int((levels[0] - levels[1]).abs().max()),
    }


def rows(name: str, latents: Path, size: int, folder: Path) -> list[dict[str, Any]]:
    """All plans at one size, each in its own process."""
    found: list[dict[str, Any]] = []
    whole = folder / "whole.pt"
    for plan in plans(size):
        path = folder / "picture.pt" if found else whole
        values = {"mode": plan.mode, "tile": plan.tile, "strip": plan.strip}
        job = {"decoder": name, "latents": str(latents), "plan": values, "picture": str(path)}
        command = [sys.executable, "-m", "benchmarks.decode", "--job", json.dumps(job)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = {"decoder": name, "size": size, **values, **json.loads(done.stdout)}
        if found:
            row |= compare(torch.load(path), torch.load(whole))
        found.append(row)
        print(row, flush=True)
    return found


def builtin_latents(folder: Path) -> Path:
    """Draw latents with the built-in model, kept by a run whose decoder fails."""
    program = (
        "import sys\nfrom sana_cli.pipeline import decode as decoding\nfrom sana_cli.cli import main\n"
        "def stop(*_, **__): raise KeyboardInterrupt\ndecoding.decode = stop\nmain(sys.argv[1:])"
    )
    picture = folder / "cat.png"
    words = ["generate", PROMPT, "--seed", "1", "--device", "cpu", "--local", "-o", str(picture)]
    subprocess.run([sys.executable, "-c", program, *words], check=False, capture_output=True)
    path = folder / "builtin.pt"
    torch.save(read(folder / "cat.png.latents.safetensors").latents, path)
    return path


def upsampling(K: int, N: int, side: int, *, repeats: int = 3) -> dict[str, Any]:
    """Processor seconds of both ways, which a busy machine disturbs less than those of a clock."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, K, side, side, generator=generator).contiguous(
        memory_format=torch.channels_last
    )
    weight = torch.randn(N, K, 3, 3, generator=generator) / math.sqrt(9 * K)
    bias = torch.randn(N, generator=generator)

    def enlarged() -> Tensor:
        return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)

    def folded() -> Tensor:
        return upsampled_conv(x, weight, bias)

    with torch.inference_mode():
        expected, found = enlarged(), folded()
        times: dict[str, float] = {}
        for way in (enlarged, folded):
            seconds = []
            for _ in range(repeats):
                started = time.process_time()
                way()
                seconds.append(time.process_time() - started)
            times[way.__name__] = round(min(seconds), 4)
    error = float((found - expected).abs().max() / expected.abs().max())
    row = {"K": K, "N": N, "side": side, "processor_seconds": times, "relative_error": error}
    print(row, flush=True)
    return row


def main(
    sizes: Annotated[
        str, typer.Option(help="Sides of the random decoder's pictures.")
    ] = "512,1024",
    job: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Compare ways to decode."""
    if job:
        print(json.dumps(decode_once(json.loads(job))))
        return
    document: dict[str, Any] = {
        "benchmark": "decode",
        "date": date.today().isoformat(),
        "machine": machine(),
        "command": "python -m benchmarks.decode",
        "load_average": os.getloadavg()[0],
        "upsampling": [upsampling(*shape) for shape in UPSAMPLINGS],
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document["rows"] += rows("builtin", builtin_latents(folder), 256, folder)
        for size in map(int, sizes.split(",")):
            path = folder / "random.pt"
            latents = torch.randn(1, 32, size // 32, size // 32, generator=torch.manual_seed(1))
            torch.save(latents * 0.4, path)
            document["rows"] += rows("published shape, random weights", path, size, folder)
            # After each size: the larger ones take minutes a row.
            record("decode", document)


if __name__ == "__main__":
    typer.run(main)
