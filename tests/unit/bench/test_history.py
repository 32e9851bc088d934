"""What a measurement lets a dry run say about time."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sana_cli.bench import history
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.generation import BUILTIN, GenerationOptions
from sana_cli.config.places import cache_folder
from sana_cli.request.params import GenerationParams, resolve

CHECKPOINT = open_checkpoint(BUILTIN)


@pytest.fixture(autouse=True)
def no_record_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))


def settings(**values: Any) -> GenerationParams:
    return resolve(GenerationOptions(prompt="a red apple", seed=1, **values), CHECKPOINT)


def document(model: str = BUILTIN, kind: str = "sana", rate: float = 1e9) -> dict[str, Any]:
    stages = {part: {"flop_per_s": rate} for part in ("text", "denoise", "decode")}
    contender = {
        "kind": kind, "model": model, "computes_in": "fp32", "stages": stages,
        "load_by_part": {"text": 0.5, "denoise": 1.0, "decode": 2.0},
    }  # fmt: skip
    return {
        "model": BUILTIN, "device": "cpu", "date": "2026-01-02", "contenders": {"one": contender},
    }  # fmt: skip


def foretell(wanted: GenerationParams, *, cached: bool = False) -> dict[str, Any] | None:
    return history.foretell(CHECKPOINT, wanted, "fp32", "cpu", text_is_cached=cached)


def test_nothing_measured() -> None:
    assert foretell(settings()) is None


def test_time_follows_the_work() -> None:
    history.record(document(), BUILTIN)
    small, many, large = (
        foretell(settings(**values))
        for values in ({}, {"steps": 40}, {"width": 512, "height": 512})
    )
    assert small is not None
    assert many is not None
    assert large is not None
    assert small["measured"] == "2026-01-02"
    assert small["load"] == 3.5
    assert many["denoise"] == pytest.approx(2 * small["denoise"])
    assert many["decode"] == small["decode"]
    assert large["decode"] > 3 * small["decode"]
    cached = foretell(settings(), cached=True)
    assert cached is not None
    assert "text" not in cached
    assert cached["load"] == 3.0
    history.record(document(rate=2e9), BUILTIN)
    faster = foretell(settings())
    assert faster is not None
    assert faster["denoise"] == pytest.approx(small["denoise"] / 2), "the newest counts"


def test_only_our_engine_on_the_model_itself() -> None:
    history.record(document(kind="diffusers"), BUILTIN)
    history.record(document(model="/tmp/a quantized copy"), BUILTIN)
    assert foretell(settings()) is None
    history.record(document(), BUILTIN)
    other = replace(CHECKPOINT, name="another")
    assert history.foretell(other, settings(), "fp32", "cpu", text_is_cached=False) is None
    assert history.foretell(CHECKPOINT, settings(), "bf16", "cpu", text_is_cached=False) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"builtin | fp32 | cpu": {"date": 1}}'])
def test_a_damaged_record(text: str) -> None:
    cache_folder().mkdir(parents=True, exist_ok=True)
    (cache_folder() / "speeds.json").write_text(text)
    assert foretell(settings()) is None


@pytest.mark.parametrize("rate", [float("nan"), -1.0, float("inf"), 0.0, "fast"])
def test_rates_that_cannot_be(rate: Any) -> None:
    history.record(document(), BUILTIN)
    path = cache_folder() / "speeds.json"
    found = json.loads(path.read_text())
    (entry,) = found.values()
    entry["flop_per_s"]["denoise"] = rate
    entry["load_s"]["text"] = 10**401 if rate == 0.0 else 0.5
    path.write_text(json.dumps(found))
    told = foretell(settings())
    assert told is None or rate == float("inf"), "an endless rate is no time at all"


def test_measurements_that_end_at_once_keep_each_other() -> None:
    """Of several processes: each reads the file, adds to it and writes it."""
    devices = [f"cuda:{i}" for i in range(8)]
    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(lambda d: history.record(document() | {"device": d}, BUILTIN), devices))
    found = json.loads((cache_folder() / "speeds.json").read_text())
    assert sorted(key.split(" | ")[-1] for key in found) == devices


def test_random_weights_of_the_same_shapes_tell_the_time() -> None:
    measured = document() | {"model": f"{BUILTIN}, random weights"}
    history.record(measured, BUILTIN)
    assert foretell(settings()) is not None


def test_what_another_machine_takes() -> None:
    """The published 0.6B at 512 pixels, as measured there: 4.6, 48.2 and 10.1 s."""
    from sana_cli.checkpoints.opening import open_published
    from sana_cli.config.variants import VARIANTS

    checkpoint = open_published(VARIANTS["sana-0.6b-512"])
    wanted = resolve(GenerationOptions(prompt="a red cat left of a blue car"), checkpoint)
    seconds = history.seconds_elsewhere(checkpoint, wanted)
    assert seconds == pytest.approx({"text": 4.6, "denoise": 48.2, "decode": 10.1}, rel=0.15)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.26, "4.3 s"), (119, "119.0 s"), (2323.7, "39 min"), (7500, "2 h 5 min")],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    from sana_cli.commands.dry_run import duration

    assert duration(seconds) == words


def test_another_decoder_replaces_no_rate() -> None:
    history.record(document(rate=1e9), BUILTIN)
    other = document(rate=9e9)
    other["contenders"]["one"]["decoder"] = "tiny"
    before = foretell(settings())
    history.record(other, BUILTIN)
    assert foretell(settings()) == before
