"""A contender's process: reads commands as JSON lines from stdin, answers on what was its stdout.

Libraries that print would spoil the answers, so file descriptor 1 becomes stderr first.
"""

import gc
import json
import os
import sys
import time
import traceback
from typing import Any, TextIO

from sana_cli.errors import SanaError
from sana_cli.system.allocator import set_up_allocator
from sana_cli.system.cpu import limit_spinning


def main() -> None:
    """Serve until stdin ends."""
    limit_spinning()  # for peers, too: programs are compared, not the ways to wait
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = _Server()
    for line in sys.stdin:
        _answer(server, json.loads(line), answers)


def _answer(server: "_Server", command: dict[str, Any], answers: TextIO) -> None:
    try:
        result = {"ok": getattr(server, command.pop("do"))(**command)}
    except SanaError as error:
        result = {"error": {"message": error.message, "hint": error.hint, "code": error.code}}
    except Exception as error:  # noqa: BLE001 peers raise anything, and the parent needs the reason
        traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0]
        result = {"error": {"message": f"{type(error).__name__}: {reason}", "hint": "", "code": 1}}
    answers.write(json.dumps(result) + "\n")
    answers.flush()


class _Server:
    """The commands, by name."""

    def start(self, contender: dict[str, Any], workload: dict[str, Any]) -> dict[str, Any]:
        if contender["kind"] == "sana":  # as `sana` itself does; peers run as they are
            set_up_allocator()
        from sana_cli.bench.adapter import make_engine
        from sana_cli.bench.contenders import Contender, Workload

        self.engine = engine = make_engine(Contender(**contender), Workload(**workload))
        settings = engine.settings
        return {
            "device": engine.device.type,
            "precision": str(engine.dtypes),
            "timed_steps": engine.timed_steps,
            "settings": {
                "width": settings.drawn_width, "height": settings.drawn_height,
                "steps": settings.steps, "guidance": settings.guidance_scale,
                "scheduler": settings.scheduler, "enhance": settings.enhance,
                "branches": 1 + settings.uses_two_branches,
            },
        }  # fmt: skip

    def needs(self, part: str) -> int:
        return self.engine.resident_bytes(part) + self.engine.activation_bytes(part)

    def free(self) -> int | None:
        from sana_cli.system.memory import free_bytes

        return free_bytes(self.engine.device)

    def open(self, part: str) -> float:
        return self.engine.open(part)

    def run(self, part: str) -> dict[str, Any]:
        from sana_cli.bench.machine import energy_joules

        gc.collect()  # falls into no timed run then
        before, cpu = energy_joules(), time.process_time()
        seconds = self.engine.run(part)
        cpu, after = time.process_time() - cpu, energy_joules()
        joules = None if before is None or after is None else after - before
        if part == "text":  # after CPU time and energy: a picture has one of both
            seconds |= self.engine.later_prompt()
        return {"seconds": seconds, "cpu_seconds": cpu, "joules": joules}

    def close(self, part: str) -> None:
        self.engine.close(part)

    def facts(self) -> dict[str, Any]:
        """Return what is known at the end: peak memory in bytes, kernels."""
        import torch

        from sana_cli.system.torch_memory import peak_memory_bytes

        device = self.engine.device
        return {
            "kernels": self.engine.kernels,
            "conversion": self.engine.conversion,
            "peak_host_bytes": peak_memory_bytes(torch.device("cpu")),
            "peak_device_bytes": peak_memory_bytes(device) if device.type == "cuda" else None,
            "text_tokens": self.engine.text_tokens,
            "kinds": self.engine.kinds(),
        }

    def save_picture(self, path: str) -> None:
        import numpy as np

        assert self.engine.picture is not None
        np.save(path, self.engine.picture.numpy())

    def machine(self, device: str) -> dict[str, Any]:
        from sana_cli.bench.machine import machine, state
        from sana_cli.bench.probes import ceilings
        from sana_cli.system.precision import pick_device

        return {**machine(), "state": state(), "ceilings": ceilings(pick_device(device))}


if __name__ == "__main__":
    main()
