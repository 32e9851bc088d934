"""Estimate the milliseconds of a picture on GPUs that are not at hand, kernel by kernel.

`python -m benchmarks.gpu_model` lists the launches of the text encoder, a step and the decoder (`gpu_launches.py`), estimates each
from its operations, bytes, tile and number of programs, and prints a table of devices. NOTHING IS MEASURED: the rates are data
sheets', times typical shares of them (`gpu_times.RATES`). The document goes to `benchmarks/results/gpu-model.json`. The figures before are of
the launches in `gpu-model-before.json`, listed in the same way from the sources as they were then.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from functools import lru_cache
from typing import Any

import typer

from benchmarks import gpu_launches
from benchmarks.gpu_launches import Launch
from benchmarks.gpu_times import GAP_S, ISSUE_S, PASS_S, RATES, WAIT_S, seconds, total, with_tile_of
from benchmarks.record import RESULTS, record

STEPS = 20
# Of a step: operations outside of the graph, and times that the host waits for the device.
HOST_NOW = {"operations": 20, "waits": 0, "graphs depend": True}
COLUMNS = (
    ("bf16", "bf16"), ("w8a8", "w8a16"), ("w8a8", "w8a8"), ("f8a8", "bf16"), ("f8a8", "w8a8"),
)  # fmt: skip


def picture(parts: dict[str, Any], device: str, step: str, decoder: str) -> dict[str, float]:
    """Milliseconds of a picture's stages."""
    host = parts["host"]
    text = "text bf16" if step == "bf16" or "text w4a16" not in parts else "text w4a16"
    around = host["operations"] * (PASS_S + GAP_S)  # they are small
    if host["waits"]:  # the device is idle while the host issues
        around = host["operations"] * ISSUE_S + host["waits"] * WAIT_S
    now = bool(host.get("graphs depend"))  # as the text encoder's, which there was none of before
    found = {
        "text": total(parts[text], device, issued=not now, dependent=now),
        "denoise": STEPS * total(parts[f"step {step}"], device, dependent=now),
        "host": STEPS * around,
        "decode": total(parts[f"decode {decoder}"], device),
    }
    whole = found | {"total": sum(found.values())}
    return {name: round(1e3 * value, 2) for name, value in whole.items()}


def parts_now() -> dict[str, Any]:
    """Launches of all stages, and what the host does in a step."""
    steps = {"bf16": None, "w8a8": "w8a8", "f8a8": "f8a8"}
    decodes = {"bf16": None, "w8a16": "w8a16", "w8a8": "w8a8"}
    found: dict[str, Any] = {
        "text bf16": gpu_launches.text(),
        "text w4a16": gpu_launches.text("w4a16-g64"),
    }
    for name, scheme in steps.items():
        found[f"step {name}"] = gpu_launches.step("sana-0.6b", 1024, scheme)
    for name, scheme in decodes.items():
        found[f"decode {name}"] = gpu_launches.decode(1024, scheme)
    return found | {"host": HOST_NOW}


def tiled_for(parts: dict[str, Any], device: str) -> dict[str, Any]:
    """Launches with the tiles that our kernels choose on a device."""
    return {
        name: part if name == "host" else [with_tile_of(launch, device) for launch in part]
        for name, part in parts.items()
    }


def read_parts(document: dict[str, Any]) -> dict[str, Any]:
    """Invert what `main` keeps."""

    def launch(values: dict[str, Any]) -> Launch:
        tuples: dict[str, Any] = {n: tuple(values[n]) for n in ("shape", "tile") if n in values}
        return Launch(**(values | tuples))

    return {
        name: part if isinstance(part, dict) else [launch(values) for values in part]
        for name, part in document.items()
    }


def compact(launches: Sequence[Launch]) -> list[dict[str, Any]]:
    """Launches for a document, without what is not known of them."""
    return [{k: v for k, v in asdict(x).items() if v not in ("", 0, ())} for x in launches]


def pictures(
    parts: dict[str, Any], columns: Sequence[tuple[str, str]], *, tiled: bool = False
) -> dict[str, Any]:
    """Milliseconds by device and by (step, decoder); `tiled`: with the tiles of today, which depend on the device."""
    return {
        device: {
            f"{step} + {decoder}": picture(
                tiled_for(parts, device) if tiled else parts, device, step, decoder
            )
            for step, decoder in columns
            if step != "f8a8" or RATES[device].fp8
        }
        for device in RATES
    }


def by_kernel(parts: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of each stage: launches alike, their work, and microseconds of one on each device."""

    def row(launch: Launch) -> dict[str, Any]:
        able = [d for d in RATES if launch.arithmetic != "fp8" or RATES[d].fp8]
        return {
            "kernel": launch.name, "shape": str(launch.shape), "tile": str(launch.tile),
            "count": launch.count, "programs": launch.programs, "gop": round(launch.ops / 1e9, 2),
            "mb": round(launch.bytes / 1e6, 2),
            "us": {d: round(seconds(with_tile_of(launch, d), d) * 1e6, 1) for d in able},
            "registers": {d: registers_of(with_tile_of(launch, d), d) for d in RATES} if launch.tile else {},
        }  # fmt: skip

    return {name: [*map(row, part)] for name, part in parts.items() if name != "host"}


def registers_of(launch: Launch, device: str) -> int | None:
    """The most registers a thread of this kernel and tile, where `kernels_compile` has compiled it for such a device."""
    tile = f"{launch.tile[0]}x{launch.tile[1]}x{launch.tile[2]} " if launch.tile else ""
    kernel, variant = launch.name.replace("_on_load", "").split()[0], tile
    found = [
        row["registers"]
        for row in compiled_kernels()
        if row["kernel"] == kernel and row["variant"].startswith(variant)
        and row["capability"] == "{}.{}".format(*RATES[device].capability)
    ]  # fmt: skip
    return max(found, default=None)


@lru_cache(maxsize=1)
def compiled_kernels() -> list[dict[str, Any]]:
    """Rows of `kernels-compile.json`."""
    text = (RESULTS / "kernels-compile.json").read_text(encoding="utf-8")
    return list(json.loads(text)["kernels"])


def main() -> None:
    """Estimate, print and keep."""
    old = json.loads((RESULTS / "gpu-model-before.json").read_text(encoding="utf-8"))
    before = pictures(read_parts(old["launches"]), (("bf16", "bf16"), ("w8a8", "bf16")))
    parts = parts_now()
    now = pictures(parts, COLUMNS, tiled=True)
    print(
        "COMPUTED, nothing ran on these devices: ms of a 1024x1024 picture of Sana-0.6B, 20 steps"
    )
    print(
        f"{'device':<16}{'step + decoder':<18}{'text':>7}{'denoise':>9}{'host':>6}{'decode':>8}{'total':>8}"
    )
    for title, table in (("before", before), ("now", now)):
        print(title)
        for device, rows in table.items():
            for name, ms in rows.items():
                print(f"{device:<16}{name:<18}{ms['text']:7.1f}{ms['denoise']:9.1f}{ms['host']:6.1f}"
                      f"{ms['decode']:8.1f}{ms['total']:8.1f}")  # fmt: skip
    record("gpu-model", {
        "benchmark": "gpu_model",
        "date": date.today().isoformat(),
        "what": "COMPUTED, not measured: ms of a 1024x1024 picture of Sana-0.6B, 20 guided steps",
        "rates": {device: asdict(rates) for device, rates in RATES.items()},
        "before": before,
        "now": now,
        "kernels": by_kernel(parts),
    })  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
