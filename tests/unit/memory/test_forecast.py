"""What is predicted from headers is what loading makes of them, and plans take less and less."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sana_cli.accelerate.cuda import engine
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.memory import forecast
from sana_cli.memory.forecast import (
    Job,
    describe,
    kept_bytes,
    peak,
    predict,
    predict_decode,
)
from sana_cli.memory.plans import NAMED, WHOLE, Plan
from sana_cli.request.params import resolve
from sana_cli.system.precision import NamedDevice, plan_dtypes

CPU, GIB, MIB = NamedDevice("cpu"), 2**30, 2**20


def job(
    checkpoint: Checkpoint,
    *,
    several: bool = False,
    cached: bool = False,
    warm: bool = False,
    reserved: int = 0,
    **options: Any,
) -> Job:
    settings = resolve(GenerationOptions(prompt="a fox", **options), checkpoint)
    dtypes = plan_dtypes("fp32", checkpoint.trained_precision, CPU)
    return describe(
        checkpoint, settings, dtypes, CPU,
        several=several, text_is_cached=cached, warm=warm, reserved=reserved,
    )  # fmt: skip


def test_stages(builtin: Checkpoint) -> None:
    stages = predict(job(builtin), Plan(together=False))
    assert [stage.stage for stage in stages] == ["text", "denoise", "decode"]
    for stage in stages:
        assert stage.total == stage.weights + stage.activations + stage.workspace + stage.host
    cached = predict(job(builtin, cached=True), Plan(together=False))
    assert [stage.stage for stage in cached] == ["denoise", "decode"]
    assert cached[0].host == stages[1].host < stages[0].host, "no tokenizer"
    assert cached == stages[1:], "nothing else is different"


def test_plans_take_less_and_less(builtin: Checkpoint) -> None:
    large = job(builtin, width=1024, height=1024, several=True)
    by_stage = [
        {stage.stage: stage.total for stage in predict(large, plan)} for plan in NAMED.values()
    ]
    resident, stages, branches, streamed = by_stage
    assert resident["denoise"] > stages["denoise"] > branches["denoise"] > streamed["denoise"]
    assert resident["decode"] > stages["decode"] == branches["decode"]
    assert stages["text"] == branches["text"] >= streamed["text"]
    assert predict(replace(large, several=False), NAMED["resident"]) == predict(
        replace(large, several=False), NAMED["stages"]
    ), "one picture has nothing to stay for"


def test_resizing_is_predicted(builtin: Checkpoint) -> None:
    """It fills the size, and is cut only then: a thin picture of a square one takes a square."""
    drawn, thin, large = (
        predict_decode(builtin, WHOLE, 96, 96, "fp32", CPU, size=size).total
        for size in ((96, 96), (8192, 96), (8192, 8192))
    )
    assert drawn == predict_decode(builtin, WHOLE, 96, 96, "fp32", CPU).total
    assert thin == large > 3 * 8192**2 * 4 * 3


def test_a_prediction_has_interpreter_and_torch(builtin: Checkpoint) -> None:
    assert peak(predict(job(builtin), Plan())).total > 200 * MIB


def test_what_a_process_holds_for_other_work_is_in_every_stage(builtin: Checkpoint) -> None:
    for plan in NAMED.values():
        alone, busy = (predict(job(builtin, reserved=reserved), plan) for reserved in (0, 40 * MIB))
        assert [b.total - a.total for a, b in zip(alone, busy, strict=True)] == [40 * MIB] * 3


def test_a_kept_text_encoder_keeps_the_tables_of_its_tokenizer(builtin: Checkpoint) -> None:
    warm = job(builtin, several=True, warm=True)
    with_text = kept_bytes(warm, Plan(keeps_text=True)) - kept_bytes(warm, Plan())
    tokenizer = (builtin.folder / "tokenizer" / "tokenizer.json").stat().st_size
    assert warm.text is not None
    assert with_text == warm.text.total + 12 * tokenizer


def test_pictures_to_begin_with_are_counted(builtin: Checkpoint, tmp_path: Path) -> None:
    """The larger of the picture and its mask is read again while the transformer is there."""
    from PIL import Image

    Image.new("RGB", (256, 256)).save(tmp_path / "a.png")
    Image.new("L", (2048, 2048), 255).save(tmp_path / "mask.png")

    def peaks(**options: Any) -> dict[str, int]:
        made = job(builtin, cached=True, image=tmp_path / "a.png", strength=0.5, **options)
        return {stage.stage: stage.activations for stage in predict(made, Plan())}

    without, masked = peaks(), peaks(mask=tmp_path / "mask.png")
    large = 16 * 2048 * 2048
    assert masked["encode"] - without["encode"] == large - 16 * 256 * 256
    assert masked["denoise"] == large > without["denoise"]
    assert masked["decode"] == max(large, without["decode"] + 8 * 256 * 256)


def test_opencv_stays(tmp_path: Path) -> None:
    """Once it has found lines, in every stage."""
    from PIL import Image

    from sana_cli.checkpoints.opening import open_checkpoint

    Image.new("RGB", (256, 256)).save(tmp_path / "a.png")
    checkpoint = open_checkpoint("builtin-control")

    def hosts(kind: str) -> list[int]:
        made = job(checkpoint, control=tmp_path / "a.png", control_type=kind)
        return [stage.host for stage in predict(made, Plan())]

    added = [more - host for more, host in zip(hosts("canny"), hosts("none"), strict=True)]
    assert min(added) == max(added) > 20 * MIB
    assert hosts("lineart") == hosts("canny")


def on_cuda(checkpoint: Checkpoint, **options: Any) -> Job:
    settings = resolve(GenerationOptions(prompt="a fox", **options), checkpoint)
    dtypes = plan_dtypes("auto", checkpoint.trained_precision, NamedDevice("cuda"))
    return describe(
        checkpoint, settings, dtypes, NamedDevice("cuda"), several=True, text_is_cached=True
    )


def test_a_graph_is_held_beside_the_decoder(builtin: Checkpoint) -> None:
    """It keeps a step's memory as long as the transformer; steps of very many tokens have none."""
    for side, graphs in ((256, 1), (8192, 0)):
        work = on_cuda(builtin, width=side, height=side)
        assert work.graph == graphs * work.branches * work.branch
        with_graph = predict(work, Plan(together=True))[-1].weights
        assert (
            with_graph - predict(replace(work, graph=0), Plan(together=True))[-1].weights
            == work.graph
        )
        alone = predict(work, Plan(together=False))[-1].weights
        assert alone == predict(replace(work, graph=0), Plan(together=False))[-1].weights
    assert job(builtin, several=True).graph == 0
    assert forecast._CAPTURED_TOKENS == engine._MOST_CAPTURED


@pytest.mark.parametrize(
    ("options", "branches"),
    [
        ({}, 2),
        ({"guidance_scale": 1.0}, 1),
        ({"guidance_interval": "0-0.6"}, 3),  # a graph of both, and one of one
        ({"cache": 0.1}, 6),  # the first block; the others of both, and of either alone
        ({"cache": 0.1, "guidance_scale": 1.0}, 2),
        ({"cache": 0.1, "guidance_interval": "0-0.6"}, 8),
    ],
    ids=str,
)
def test_all_graphs_of_a_picture_are_counted(
    builtin: Checkpoint, options: dict[str, Any], branches: int
) -> None:
    work = on_cuda(builtin, **options)
    assert work.graph == branches * work.branch
