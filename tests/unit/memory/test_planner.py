"""The planner takes the fastest plan that fits, for jobs whose sizes are written down here. In MiB."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.networks import DCAEConfig
from sana_cli.errors import ExitCode, SanaError
from sana_cli.memory.forecast import Job, Weights, peak, predict, predict_decode
from sana_cli.memory.planner import (
    SERVERS_CAP,
    Cap,
    MemoryPlan,
    cap_of,
    choose,
    choose_decode,
    smallest_peak,
)
from sana_cli.memory.plans import NAMED, WHOLE, decode_plans, exact_tiles
from sana_cli.system.memory import free_bytes, held_bytes
from sana_cli.system.precision import NamedDevice
from sana_cli.text import readable_memory
from tests.rehearsal.device import CUDA, Device

CPU, GIB, MIB = NamedDevice("cpu"), 2**30, 2**20


def weights(total: int, block: int = 0, rest: int = 0) -> Weights:
    return Weights(
        total=total * MIB, block=block * MIB, rest=(rest or total) * MIB, largest=0, unpacked=0
    )


def job(**changes: Any) -> Job:
    """5 GiB of text encoder, 1 GiB of transformer whose branches take 1.5 GiB each, and the published decoder."""
    sizes: dict[str, Any] = {
        "text": weights(5000, 200, 100), "transformer": weights(1000, 50, 100), "vae": weights(300),
        "text_activations": 50 * MIB, "context": 20 * MIB, "branch": 1500 * MIB, "cached": 0, "branches": 2, "graph": 0,
        "decoder": DCAEConfig(), "height": 1024, "width": 1024, "size": (1024, 1024), "decode_itemsize": 4,
        "several": False, "warm": False, "hosts": (300 * MIB, 300 * MIB),
    }  # fmt: skip
    return Job(**sizes | changes)


def chosen(what: Job, cap: Cap, **options: Any) -> MemoryPlan:
    asked: dict[str, Any] = {"name": None, "mode": "auto", "tile": None}
    return choose(what, cap, **asked | options)


TEXT = 300 + 5000 + 50
STREAMED_TEXT = 300 + 100 + 2 * 200 + 50
DENOISE = 300 + 1000 + 2 * 1500 + 20
BRANCHES = DENOISE - 1500
STREAMED = BRANCHES - 800  # two of 50 and the rest of 100 stay of 1000
ALL = DENOISE + 5000 + 300


@pytest.mark.parametrize(
    ("cap", "plan"),
    [
        (TEXT, "stages, decode whole"),
        (TEXT - 1, "stages, text encoder streamed, decode whole"),
        (DENOISE, "stages, text encoder streamed, decode whole"),
        (DENOISE - 1, "branches, text encoder streamed, decode whole"),
        (BRANCHES, "branches, text encoder streamed, decode whole"),
        (BRANCHES - 1, "streamed, decode whole"),
        (STREAMED, "streamed, decode exact-tiles 512"),  # decoding whole takes 2514
    ],
)
def test_the_fastest_plan_under_each_cap(cap: int, plan: str) -> None:
    choice = chosen(job(), Cap(bytes=cap * MIB, asked=True))
    assert str(choice.plan) == plan
    assert choice.peak.total <= cap * MIB
    assert choice.spare == cap * MIB - choice.peak.total
    assert choice.stages == predict(job(), choice.plan)
    assert f"plan: {plan}; the fastest that fits; predicted peak" in str(choice)
    assert not choice.is_usual


@pytest.mark.parametrize(
    ("changes", "cap", "plan"),
    [
        ({"several": True}, TEXT, "resident, decode whole"),
        ({"several": True}, TEXT - 1, "stages, text encoder streamed, decode whole"),
        ({"several": True, "warm": True}, ALL, "resident, with the text encoder, decode whole"),
        ({"several": True, "warm": True}, ALL - 1, "resident, decode whole"),
        ({"text": None}, DENOISE, "stages, decode whole"),
        ({"branches": 1}, BRANCHES, "stages, text encoder streamed, decode whole"),
        (
            {"branches": 1},
            BRANCHES - 1,
            "stages, text encoder streamed, transformer streamed, decode whole",
        ),
    ],
)
def test_plans_for_other_jobs(changes: dict[str, Any], cap: int, plan: str) -> None:
    """Parts stay for a next picture, texts that are known need no encoder, one branch cannot be split."""
    assert str(chosen(job(**changes), Cap(bytes=cap * MIB, asked=True)).plan) == plan


def test_branches_apart_are_asked_for() -> None:
    cap = Cap(bytes=64 * GIB)
    assert str(chosen(job(), cap, branches_apart=True).plan) == "branches, decode whole"
    several = chosen(job(several=True), cap, branches_apart=True).plan
    assert str(several) == "resident, guidance branches apart, decode whole"
    assert chosen(job(branches=1), cap, branches_apart=True).plan == NAMED["stages"], (
        "there is one branch"
    )


def test_no_plan_fits() -> None:
    with pytest.raises(SanaError) as caught:
        chosen(job(), Cap(bytes=(STREAMED - 1) * MIB, asked=True))
    needed = readable_memory(STREAMED * MIB, at_least=True)
    assert caught.value.code == ExitCode.USAGE
    assert f"the smallest needs {needed} (denoise)" in caught.value.message
    assert caught.value.hint == (
        f"use --max-memory {needed.replace(' ', '')}, a smaller --size or a quantized model"
    )
    assert smallest_peak(job()).total == STREAMED * MIB


def test_a_cap_below_what_python_takes() -> None:
    """Neither a smaller picture nor another model fits into it."""
    with pytest.raises(SanaError) as caught:
        chosen(job(), Cap(bytes=100 * MIB, asked=True))
    needed = readable_memory(STREAMED * MIB, at_least=True).replace(" ", "")
    assert caught.value.hint == f"use --max-memory {needed}: Python and torch alone take 300 MiB"


def test_without_a_cap_the_smallest_plan_is_tried() -> None:
    """A prediction is no reason not to try."""
    choice = chosen(job(), Cap(bytes=MIB))
    assert "the smallest, and it may not be enough" in str(choice)
    assert str(choice.plan) == "streamed, decode exact-tiles 128"
    assert not choice.is_usual
    assert choice.spare == 0


def test_the_usual_plan_is_not_worth_a_word() -> None:
    assert chosen(job(), Cap(bytes=None)).is_usual
    assert chosen(job(), Cap(bytes=None)).spare is None
    assert chosen(job(several=True), Cap(bytes=64 * GIB)).is_usual
    assert not chosen(job(), Cap(bytes=64 * GIB, asked=True)).is_usual


def test_options_limit_the_plan() -> None:
    for name, plan in NAMED.items():
        choice = chosen(
            job(), Cap(bytes=8 * GIB, asked=True), name=name, mode="exact-tiles", tile=64
        )
        assert choice.plan == replace(plan, decode=exact_tiles(64, 1024, 1024))
        assert choice.reason == "chosen by --plan"


def test_a_plan_without_effect_says_so() -> None:
    choice = chosen(job(branches=1), Cap(bytes=None), name="branches")
    assert choice.plan == NAMED["stages"]
    assert choice.reason == "--plan branches is --plan stages here: there is one branch"
    assert not choice.is_usual


@pytest.mark.parametrize(
    ("options", "limit", "remedy"),
    [
        ({"name": "resident"}, "plan resident needs", "or --plan auto: the smallest"),
        ({"mode": "whole"}, "decode whole needs", "or --decode auto: the smallest"),
        (
            {"name": "stages", "mode": "whole"},
            "plan stages, decode whole needs",
            "or --plan auto and --decode auto: the smallest",
        ),
        # No other plan takes less, so none is offered.
        ({"name": "streamed"}, "plan streamed needs", ""),
    ],
)
def test_a_limit_that_does_not_fit(options: dict[str, Any], limit: str, remedy: str) -> None:
    """Only what was said is named, and the smallest plan is that of all."""
    large = job(several=True)
    least = min(
        peak(predict(large, replace(plan, decode=decode))).total
        for plan in NAMED.values()
        for decode in decode_plans("auto", None, 1024, 1024)
    )
    cap = Cap(bytes=MIB, asked=True, source="SANA_MAX_MEMORY")
    with pytest.raises(SanaError) as caught:
        chosen(large, cap, **options)
    assert caught.value.message.startswith(limit)
    assert caught.value.message.endswith("limit 1 MiB, set by SANA_MAX_MEMORY")
    if remedy:
        smallest = readable_memory(least, at_least=True)
        assert caught.value.hint.endswith(f"{remedy} plan needs {smallest}")
    else:
        assert caught.value.hint.startswith("use --max-memory ")
        assert "auto" not in caught.value.hint


def test_the_smallest_way_to_decode_is_told(builtin: Checkpoint) -> None:
    """Small pictures take more memory in tiles than whole."""
    with pytest.raises(SanaError) as caught:
        choose_decode(
            builtin, "fp32", CPU, Cap(bytes=MIB, asked=True), height=96, width=96, mode="auto", tile=None
        )  # fmt: skip
    whole = predict_decode(builtin, WHOLE, 96, 96, "fp32", CPU)
    assert f"the smallest needs {readable_memory(whole.total, at_least=True)} " in (
        caught.value.message
    )


def test_decoding_alone(builtin: Checkpoint) -> None:
    def chosen(cap: Cap) -> tuple[str, str]:
        plan, stage, notice = choose_decode(
            builtin, "fp32", CPU, cap, height=2048, width=2048, mode="auto", tile=None
        )
        assert stage.stage == "decode"
        return str(plan), notice

    assert chosen(Cap(bytes=8 * GIB)) == ("whole", "")
    plan, notice = chosen(Cap(bytes=720 * MIB, asked=True))
    assert plan.startswith("exact-tiles")
    assert "limit 720 MiB" in notice
    with pytest.raises(SanaError, match="no plan fits"):
        chosen(Cap(bytes=MIB, asked=True))


@pytest.mark.parametrize("name", [None, "resident"])
def test_the_cap_of_a_server_is_raised_at_the_server(name: str | None) -> None:
    for source, begins, ends in (
        ("", "use --max-memory ", ""), (SERVERS_CAP, "start the server with `sana serve --max-memory ", "; --local draws without it"),
    ):  # fmt: skip
        with pytest.raises(SanaError) as caught:
            chosen(job(), Cap(bytes=400 * MIB, asked=True, source=source), name=name)
        assert caught.value.hint.startswith(begins)
        assert caught.value.hint.endswith(ends)
        assert ("--local" in caught.value.hint) == bool(ends)


def test_caps() -> None:
    """What the process holds already may be used again, and others need a tenth."""
    assert cap_of(CPU, 5) == Cap(bytes=5, asked=True)
    assert str(cap_of(CPU, GIB, "SANA_MAX_MEMORY")) == "limit 1.00 GiB, set by SANA_MAX_MEMORY"
    assert str(cap_of(NamedDevice("mps"), None)) == "no limit known"
    found = cap_of(CPU, None)
    free, held = free_bytes(CPU), held_bytes(CPU)
    assert free is not None
    assert held > 0
    assert found.bytes == pytest.approx(0.9 * (free + held), rel=0.05)
    assert str(found).endswith(" GiB (free memory minus 10 %)")


@pytest.mark.parametrize("gpu", [{"total": 6 * GIB}], indirect=True)
def test_libraries_of_a_gpu_are_left_their_memory(gpu: Device) -> None:
    """Handles, kernels and graphs lie outside of what torch counts; a cap that was asked for stays as it is."""
    cap = cap_of(CUDA, None)
    assert cap.bytes is not None
    assert 300 * MIB <= int(0.9 * 6 * GIB) - cap.bytes < GIB
    block = torch.zeros(50 * MIB, dtype=torch.uint8, device=CUDA)
    assert held_bytes(CUDA) == block.nbytes
    assert free_bytes(CUDA) == 6 * GIB - block.nbytes
    assert cap_of(CUDA, None) == cap, "what is held may be used again"
    assert cap_of(CUDA, 5).bytes == 5


def test_a_perturbed_branch_is_one_more_at_once() -> None:
    """It runs with the conditional branch also where guidance runs in two passes."""
    for plan in ("stages", "branches"):
        choices = [chosen(job(perturbed=n), Cap(bytes=64 * GIB), name=plan) for n in (1, 0)]
        peaks = [
            stage.activations
            for choice in choices
            for stage in choice.stages
            if stage.stage == "denoise"
        ]
        assert peaks[0] - peaks[1] == 1500 * MIB, plan
