"""Compare a transformer pass of several pictures with passes of one: speed, and whether values are the same to the bit.

`python -m benchmarks.serve_batch` prints one JSON document. `sana serve` draws pictures one by one because of its result.
"""

import json
import statistics
import time

import torch

from sana_cli.pipeline.guidance import guided_velocity
from sana_cli.pipeline.pipeline import SanaPipeline

_REPEATS = 9
_GUIDANCE = 4.5


def main() -> None:
    rows = []
    with SanaPipeline.open("builtin") as pipeline, torch.inference_mode():
        params = pipeline.params("a cat", seed=1)
        pipeline(params)
        branches = pipeline.encode(params).branches
        transformer = pipeline.components.transformer()
        side = params.width // pipeline.checkpoint.vae.downscale
        channels = pipeline.checkpoint.transformer.in_channels
        noise = torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(1))

        def velocity(x: torch.Tensor) -> torch.Tensor:
            contexts = [transformer.encode_text(b.repeat(len(x), 1, 1)) for b in branches]
            return guided_velocity(transformer, contexts, x, 500.0, guidance_scale=_GUIDANCE)

        for count in (2, 3, 4):
            x = noise[:count]
            single = torch.cat([velocity(x[i : i + 1]) for i in range(count)])
            difference = float((velocity(x) - single).abs().max())
            times: dict[str, list[float]] = {"single": [], "batch": []}
            for _ in range(_REPEATS):
                started = time.perf_counter()
                for i in range(count):
                    velocity(x[i : i + 1])
                middle = time.perf_counter()
                velocity(x)
                times["single"].append(middle - started)
                times["batch"].append(time.perf_counter() - middle)
            ratio = statistics.median(times["single"]) / statistics.median(times["batch"])
            rows.append({"pictures": count, "times_as_fast": ratio, "max_difference": difference})
    print(json.dumps({"device": "cpu", "model": "builtin", "rows": rows}))


if __name__ == "__main__":
    main()
