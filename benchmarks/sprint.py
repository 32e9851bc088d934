"""Time a few-step picture by decoder: SANA-Sprint 0.6B's shapes, random weights, 512 pixels, 2 steps.

`python -m benchmarks.sprint --work FOLDER` makes the model, the two small decoders and the quantized folders in FOLDER
once (17 GB), then runs `sana bench` on them: full, lite and tiny decoder, each in fp32 and w8a8, next to diffusers in
fp32 and, with `--openvino`, to optimum-intel's best. Decoders of quantized folders take 8-bit inputs where `sana quantize`
gives them to a trained model on such a processor; random weights have no picture that could be checked.
The document goes to `benchmarks/results/sprint-512.json`: what the bench says, and times as fast as diffusers with the
text in the cache, with a new prompt and with the first one. That many contenders run one after the other, for want of
memory, while the machine may change; `--in-turns` measures only the quantized folders and diffusers, which fit together
and take turns (`sprint-512-turns.json`). `--avx2` holds every program to AVX2.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from benchmarks.record import record
from sana_cli.bench.contenders import Contender
from sana_cli.bench.random_model import write_decoder, write_model

AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OV_CPU_MAX_ISA": "AVX2",
}  # fmt: skip
BASE: Final = "diffusers-fp32"


def prepare(
    work: Path, *, medium: bool, vae: Literal["w8a8", "w8a16"]
) -> tuple[Path, Path, Path, Path, Path]:
    """Return the folders of the model, of its lite and tiny decoder, and of its quantized copy with its own decoder and
    with lite; what is missing is written.
    """
    model = work / ("medium-sprint" if medium else "sprint-0.6b")
    if not model.exists():
        partial = work / "partial"
        write_model("sprint-0.6b", partial, medium=medium)
        partial.rename(model)
    lite, tiny = work / "lite", work / "tiny"
    for folder, name in ((lite, "lite"), (tiny, "tiny")):
        if not folder.exists():
            write_decoder(name, folder)  # type: ignore[arg-type]
    name = f"{model.name}-w8a8" + ("" if vae == "w8a8" else f"-vae-{vae}")
    quantized, quantized_lite = work / name, work / f"{name}-lite"
    for folder, decoder in ((quantized, "full"), (quantized_lite, str(lite))):
        if not folder.exists():
            command = [
                sys.executable, "-m", "sana_cli", "quantize", str(model), str(folder), "--samples", "0",
                "--vae", vae, "--decoder", decoder, "--quiet",
            ]  # fmt: skip
            subprocess.run(command, check=True)
    return model, lite, tiny, quantized, quantized_lite


def whole_pictures(document: dict[str, Any]) -> dict[str, Any]:
    """Seconds and times as fast as diffusers: `cached` omits the text, `new` is with another prompt, `first` with the
    instruction too, which is encoded once a model.
    """

    def seconds(name: str) -> dict[str, float]:
        stages = document["contenders"][name]["stages"]
        median = {stage: values["median"] for stage, values in stages.items()}
        cached = median["picture"] - median["text"]
        prompt = median.get(
            "prompt", median["text"]
        )  # peers encode the instruction with each prompt
        return {"cached": cached, "new": cached + prompt, "first": median["picture"]}

    base = seconds(BASE)
    return {
        name: {
            "peak_gib": round(contender["peak_host_bytes"] / 2**30, 2),
            **{f"{kind}_s": round(value, 3) for kind, value in seconds(name).items()},
            **{f"{kind}_times_as_fast": round(base[kind] / v, 2) for kind, v in seconds(name).items()},
        }
        for name, contender in document["contenders"].items()
    }  # fmt: skip


def main(
    work: Annotated[Path, typer.Option(help="Folder that keeps the models.")],
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    openvino: Annotated[bool, typer.Option(help="OpenVINO's best, too.")] = False,
    avx2: Annotated[bool, typer.Option(help="Hold every program to AVX2.")] = False,
    in_turns: Annotated[
        bool, typer.Option(help="Only as many contenders as take turns in 24 GB of memory.")
    ] = False,
    medium: Annotated[bool, typer.Option(help="A narrower model, to try this program.")] = False,
) -> None:
    """Run one interleaved bench and keep its document."""
    os.environ |= AVX2 if avx2 else {}  # before torch is imported, here and in the workers
    import torch

    from calibration.safe_decoder import pays
    from sana_cli.bench.results import build_document
    from sana_cli.bench.runner import workload
    from sana_cli.bench.session import measure
    from sana_cli.system.precision import plan_dtypes

    cpu = torch.device("cpu")
    decodes_in = plan_dtypes("auto", "bf16", cpu).vae
    model, lite, tiny, quantized, quantized_lite = prepare(
        work, medium=medium, vae="w8a8" if pays(cpu, decodes_in) else "w8a16"
    )
    contenders = [
        Contender(name="sana-fp32", kind="sana", model=str(model), precision="fp32"),
        Contender(name="sana-fp32-lite", kind="sana", model=str(model), precision="fp32", decoder=str(lite)),
        Contender(name="sana-fp32-tiny", kind="sana", model=str(model), precision="fp32", decoder=str(tiny)),
        Contender(name="sana-w8a8", kind="sana", model=str(quantized)),
        Contender(name="sana-w8a8-lite", kind="sana", model=str(quantized_lite)),
        Contender(name="sana-w8a8-tiny", kind="sana", model=str(quantized), decoder=str(tiny)),
        Contender(name=BASE, kind=BASE, model=str(model), precision="fp32"),
    ]  # fmt: skip
    if in_turns:
        contenders = [each for each in contenders if each.precision != "fp32" or each.name == BASE]
    if openvino:
        contenders += [
            Contender(name="openvino", kind="openvino", model=str(model)),
            Contender(name="openvino-int8", kind="openvino-int8", model=str(model)),
        ]
    picture = workload(
        size=(512, 512), steps=2, timed_steps=None, batch=1, device="cpu", prompt=None
    )
    with tempfile.TemporaryDirectory() as folder:
        results = measure(
            contenders, picture, runs=rounds, warmup=1, scratch=Path(folder),
            announce=lambda what, done, count: print(f"{what} {done}/{count}", flush=True),
        )  # fmt: skip
        document = build_document(
            results, contenders, picture, model=f"{model.name}, random weights", base=BASE, runs=rounds, warmup=1
        )  # fmt: skip
    # Paths as the command has them.
    document = json.loads(json.dumps(document).replace(str(work), "FOLDER"))
    document["whole_pictures"] = whole_pictures(document)
    document["command"] = "python -m benchmarks.sprint --work FOLDER" + "".join(
        f" --{option}" for option, given in (("openvino", openvino), ("avx2", avx2), ("in-turns", in_turns)) if given
    )  # fmt: skip
    name = "sprint-512" + ("-avx2" if avx2 else "") + ("-turns" if in_turns else "") + ("-medium" if medium else "")  # fmt: skip
    record(name, document)
    for contender, values in document["whole_pictures"].items():
        print(f"{contender}: {values}")


if __name__ == "__main__":
    typer.run(main)
