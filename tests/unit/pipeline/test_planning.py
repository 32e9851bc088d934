"""Plans are made once for pictures that are alike, and made smaller one measure at a time."""

from collections.abc import Callable

import pytest

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.errors import SanaError
from sana_cli.pipeline.planning import Expects, Planning
from sana_cli.request.params import GenerationParams
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.system.precision import SAFEST, NamedDevice

Params = Callable[..., GenerationParams]
GIB = 2**30


def planning(
    checkpoint: Checkpoint,
    *,
    expects: Expects = "one",
    max_memory: int | None = GIB,
    **runtime: object,
) -> Planning:
    options = RuntimeOptions(max_memory=max_memory, **runtime)  # type: ignore[arg-type]
    return Planning(checkpoint, options, NamedDevice("cpu"), expects=expects, cap_source="a file")


def choose(plan: Planning, params: GenerationParams, cached: bool = False) -> object:
    return plan.choose(params, SAFEST, text_is_cached=lambda: cached)


def test_pictures_that_are_alike_are_planned_for_once(builtin: Checkpoint, params: Params) -> None:
    plan = planning(builtin)
    assert choose(plan, params()) is not None
    for same in (params("a dog"), params(seed=9), params(steps=5)):
        assert choose(plan, same) is None
    for other in (params(width=96), params(guidance_scale=1.0), params(cache=0.1)):
        assert choose(plan, other) is not None


def test_what_follows_decides_what_stays(builtin: Checkpoint, params: Params) -> None:
    one, several, more = (planning(builtin, expects=e) for e in ("one", "several", "more"))
    for plan in (one, several, more):
        choose(plan, params())
    assert [p.keeps_parts for p in (one, several, more)] == [False, True, True]
    assert [p.plan.keeps_text for p in (one, several, more)] == [False, False, True]
    assert one.predicted_peak < several.predicted_peak < more.predicted_peak < GIB
    assert several.spare == GIB - several.predicted_peak


def test_a_cap_that_nothing_fits_names_its_source(builtin: Checkpoint, params: Params) -> None:
    plan = planning(builtin, max_memory=2**20)
    with pytest.raises(SanaError, match="no plan fits into 1 MiB, set by a file"):
        choose(plan, params())


def test_smaller_plans_for_denoising(builtin: Checkpoint, params: Params) -> None:
    plan = planning(builtin, expects="more")
    choose(plan, params())
    seen = [str(plan)]
    while plan.step_down("denoise"):
        seen.append(str(plan))
    assert seen == [
        "resident, with the text encoder, decode whole",
        "resident, decode whole",
        "stages, decode whole",
        "branches, decode whole",
        "branches, transformer streamed, decode whole",
    ]
    assert plan.spare == 0
    assert choose(plan, params("a dog")) is None, (
        "the smaller plan stays for pictures that are alike"
    )


def test_one_branch_is_not_taken_apart(builtin: Checkpoint, params: Params) -> None:
    plan = planning(builtin)
    choose(plan, params(guidance_scale=1.0))
    while plan.step_down("denoise"):
        assert not plan.runs_branches_apart
    assert plan.plan.streams_blocks


def test_smaller_plans_for_decoding_and_text(builtin: Checkpoint, params: Params) -> None:
    plan = planning(builtin)
    choose(plan, params(width=1024, height=1024))
    ways = [str(plan.plan.decode)]
    while plan.step_down("decode"):
        ways.append(str(plan.plan.decode))
    assert ways == ["whole", "exact-tiles 512", "exact-tiles 256", "exact-tiles 128"]
    assert plan.step_down("text")
    assert plan.plan.streams_text
    assert not plan.step_down("text")


def test_decoding_alone(builtin: Checkpoint) -> None:
    plan = planning(builtin)
    assert "plan: decode whole" in plan.choose_decode(
        "fp32", height=256, width=256, size=(256, 256)
    )
    assert str(plan) == "decode whole"
    assert 0 < plan.predicted_peak < GIB
    usual = planning(builtin, max_memory=None)
    assert usual.choose_decode("fp32", height=64, width=64, size=(64, 64)) == "", "nothing to say"
