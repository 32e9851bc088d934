"""`SanaPipeline`, as a program uses it: pictures, parts, callbacks, threads, and a process that is as it was."""

import ctypes
import gc
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.errors import Cancelled, ExitCode, SanaError
from sana_cli.images.picture_file import read_settings
from sana_cli.pipeline import SanaPipeline
from sana_cli.pipeline.saving import draw_to_file
from sana_cli.request.params import GenerationParams
from sana_cli.system.resident import give_back, resident_bytes
from tests.faults import raising

Open = Callable[..., SanaPipeline]
SMALL = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def pipe() -> Any:
    with SanaPipeline.open("builtin", device="cpu", precision="fp32") as pipeline:
        yield pipeline


def test_the_picture_is_the_command_s(
    pipe: SanaPipeline, sana: Callable[..., Any], tmp_path: Path
) -> None:
    options = (
        "--size",
        "64x64",
        "--steps",
        2,
        "--seed",
        3,
        "--device",
        "cpu",
        "--precision",
        "fp32",
    )
    assert sana("generate", "a cat", *options, "-o", tmp_path / "a.png").code == 0
    result = pipe("a cat", seed=3, **SMALL)
    assert result.image.tobytes() == Image.open(tmp_path / "a.png").tobytes()
    saved = result.save(tmp_path / "b.png")
    assert read_settings(saved.path) == read_settings(tmp_path / "a.png")
    with pytest.raises(SanaError, match="exists") as caught:
        result.save(tmp_path / "b.png")
    assert caught.value.hint == "choose another path, or overwrite=True"
    assert result.save(tmp_path / "b.png", overwrite=True).path == tmp_path / "b.png"


def test_what_a_result_tells(pipe: SanaPipeline) -> None:
    result = pipe("a cat", seed=3, **SMALL)
    assert (result.image.size, result.image.mode, result.seed) == ((64, 64), "RGB", 3)
    assert result.settings["prompt"] == "a cat"
    assert result.seconds["denoise"] > 0
    assert result.peak_memory_bytes > 10**8
    assert 0 < result.predicted_peak_bytes < 2**31
    assert result.passes is not None
    assert result.passes.computed == 4


def test_a_seed_is_rolled_once(pipe: SanaPipeline) -> None:
    first = pipe("a cat", **SMALL)
    assert first.settings["seed"] == first.seed
    again = pipe("a cat", seed=first.seed, **SMALL)
    assert again.image.tobytes() == first.image.tobytes()
    assert pipe("a cat", **SMALL).seed != first.seed


def test_stream(pipe: SanaPipeline) -> None:
    alone = [pipe(prompt, seed=5, **SMALL).image.tobytes() for prompt in ("a cat", "a dog")]
    for prompts in (["a cat", "a dog"], iter(["a cat", "a dog"])):
        results = pipe.stream(prompts, seed=5, **SMALL)
        assert [result.image.tobytes() for result in results] == alone


def test_a_stream_of_one_text_is_refused(pipe: SanaPipeline) -> None:
    with pytest.raises(SanaError, match="stream cannot draw 'a cat'") as refused:
        pipe.stream("a cat")
    assert "give a list of prompts" in refused.value.hint


def test_options_beside_parameters_are_refused(pipe: SanaPipeline) -> None:
    params = pipe.params("a cat", **SMALL)
    with pytest.raises(SanaError, match="steps cannot change parameters"):
        pipe(params, steps=3)
    with pytest.raises(SanaError, match="seed cannot change parameters"):
        next(pipe.stream([params], seed=3))


def test_parts_refuse_what_is_not_theirs(pipe: SanaPipeline) -> None:
    params: Any = "a cat"
    for part in (pipe.encode, pipe.denoise):
        with pytest.raises(SanaError, match="cannot be the parameters of a picture"):
            part(params)
    with pytest.raises(SanaError, match=r"the picture's have \(1, 32, 2, 2\)"):
        pipe.decode(torch.zeros(1, 32, 3, 3), pipe.params("a cat", **SMALL))


def test_a_stream_is_drawn_as_it_is_read(pipe: SanaPipeline) -> None:
    asked = []

    def prompts() -> Any:
        for prompt in ("a cat", "a dog", "a tree"):
            asked.append(prompt)
            yield prompt

    results = pipe.stream(prompts(), seed=5, **SMALL)
    next(results)
    assert asked == ["a cat"]
    next(results)
    assert asked == ["a cat", "a dog"]
    results.close()
    assert pipe("a cat", seed=5, **SMALL).image.size == (64, 64), "nothing is held up"


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ({"count": 3}, "loop over seeds"), ({"model": "builtin"}, "SanaPipeline.open"),
        ({"precision": "bf16"}, "SanaPipeline.open"), ({"max_memory": "2GiB"}, "SanaPipeline.open"),
        ({"output": "a.png"}, "save"), ({"quality": 90}, "save"),
    ],
)  # fmt: skip
def test_options_of_no_single_picture_are_refused(
    pipe: SanaPipeline, option: dict[str, Any], hint: str
) -> None:
    with pytest.raises(SanaError, match="is not an option of one picture") as refused:
        pipe("a cat", seed=5, **option)
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"device": "gpu"}, "device cannot be 'gpu'", "it should be one of auto, cpu"),
        ({"tile": 128, "decode": "whole"}, 'decode="whole" has no tiles', 'omit tile, or use decode="exact'),
        ({"backend": "native"}, "builtin is not quantized", "sana quantize MODEL OUT"),
        ({"model": 3}, "model cannot be 3", "it should be text"),
    ],
)  # fmt: skip
def test_open_refuses_what_the_command_does(
    options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(SanaError, match=message) as refused:
        SanaPipeline.open(**options)
    assert hint in refused.value.hint


def test_the_known_names_are_those_of_the_call(pipe: SanaPipeline) -> None:
    with pytest.raises(SanaError, match="there is no option 'nonsense'") as refused:
        SanaPipeline.open(nonsense=1)
    known = refused.value.hint.removeprefix("known: ").split(", ")
    named = [
        p.name for p in signature(SanaPipeline.open).parameters.values() if p.name != "runtime"
    ]
    assert {*named, "precision", "tile", "prompt_cache"} <= set(known)
    with pytest.raises(SanaError, match="there is no option 'nonsense'") as refused:
        pipe("a cat", nonsense=1)
    known = refused.value.hint.removeprefix("known: ").split(", ")
    assert {"steps", "loras", "image", "on_step", "on_preview"} <= set(known)
    for name in known:  # the call takes each
        if not name.startswith("on_"):
            pipe.params("a cat", **{name: None})


def test_errors_name_arguments_of_python(pipe: SanaPipeline) -> None:
    with pytest.raises(SanaError, match=r"^strength needs a picture") as refused:
        pipe("a cat", strength=0.5)
    assert refused.value.hint == 'name it: image="FILE"'
    with (
        SanaPipeline.open(device="cpu", max_memory="20MiB") as small,
        pytest.raises(SanaError, match="no plan fits") as refused,
    ):
        small("a cat", **SMALL)
    assert 'use max_memory="' in refused.value.hint


def test_the_parts_make_the_same_picture(pipe: SanaPipeline) -> None:
    params = pipe.params("a cat", seed=3, **SMALL)
    texts = pipe.encode(params)
    assert texts.positive.embeds.ndim == 3
    latents = pipe.denoise(params)
    assert latents.shape == (1, 32, 2, 2)
    assert latents.dtype == torch.float32
    result = pipe.decode(latents, params)
    assert result.image.tobytes() == pipe(params).image.tobytes()


def test_callbacks(pipe: SanaPipeline) -> None:
    steps, previews = [], []
    pipe("a lion", seed=3, width=512, height=512, steps=1)  # the decoder is known from now on
    pipe(
        "a cat", seed=3, width=64, height=64, steps=4,
        on_step=lambda step, of: steps.append((step, of)),
        on_preview=lambda image, step, of: previews.append((image.size, step, of)),
    )  # fmt: skip
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert previews == [((64, 64), step, 4) for step in (1, 2, 3, 4)]


@pytest.mark.parametrize("callback", ["on_step", "on_preview"])
def test_a_callback_cancels(pipe: SanaPipeline, callback: str) -> None:
    calls = []

    def stop(*arguments: object) -> bool:
        calls.append(arguments[-2])
        return len(calls) < 2

    with pytest.raises(Cancelled, match="cancelled after step 2 of 6") as caught:
        pipe("a cat", seed=3, width=64, height=64, steps=6, **{callback: stop})
    assert caught.value.code == ExitCode.INTERRUPTED
    assert calls == [1, 2]
    whole = pipe("a cat", seed=3, **SMALL)
    with SanaPipeline.open("builtin", device="cpu", precision="fp32") as other:
        assert other("a cat", seed=3, **SMALL).image.tobytes() == whole.image.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 65}, "not a multiple of 32"),
        ({"steps": 0}, "cannot draw in 0 steps"),
        ({"guidance_scale": 1000.0}, "out of range"),
        ({"sed": 3}, "did you mean 'seed'"),
        ({"scheduler": "scm"}, "does not fit"),
        ({"seed": -5}, "out of range"),
        ({"prompt": ""}, "the prompt is empty"),
    ],
)
def test_what_cannot_be_drawn(pipe: SanaPipeline, options: dict[str, Any], message: str) -> None:
    prompt = options.pop("prompt", "a cat")
    with pytest.raises(SanaError, match=message):
        pipe(prompt, **{**SMALL, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision cannot be 'fp8'"),
        ({"max_memory": "a lot"}, "cannot use 'a lot'"),
        ({"devise": "cpu"}, "did you mean 'device'"),
        ({"model": "builtim"}, "unknown model"),
    ],
)
def test_what_cannot_be_opened(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SanaError, match=message):
        SanaPipeline.open(**options)


def test_closing() -> None:
    pipeline = SanaPipeline.open("builtin", device="cpu")
    pipeline("a cat", seed=1, **SMALL)
    pipeline.close()
    pipeline.close()
    with pytest.raises(SanaError, match="closed"):
        pipeline("a cat", seed=1, **SMALL)


def test_two_pipelines_draw_what_each_draws_alone(opened: Open, tiny_model: Path) -> None:
    other: dict[str, Any] = {"seed": 2, "width": 96, "height": 64, "steps": 2}

    def alone(model: Any, options: dict[str, Any]) -> bytes:
        with SanaPipeline.open(model, device="cpu", precision="fp32") as pipeline:
            return pipeline("a cat", **options).image.tobytes()

    small = {**SMALL, "seed": 2}
    expected = alone("builtin", small), alone(tiny_model, other)
    with (
        SanaPipeline.open("builtin", device="cpu", precision="fp32") as one,
        SanaPipeline.open(tiny_model, device="cpu", precision="fp32") as two,
    ):
        for _ in range(2):
            assert one("a cat", **small).image.tobytes() == expected[0]
            assert two("a cat", **other).image.tobytes() == expected[1]


def test_threads_take_turns(pipe: SanaPipeline) -> None:
    expected = {seed: pipe("a cat", seed=seed, **SMALL).image.tobytes() for seed in range(6)}
    found: dict[int, bytes] = {}

    def draw(seed: int) -> None:
        found[seed] = pipe("a cat", seed=seed, **SMALL).image.tobytes()

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == expected


def test_a_thread_that_draws_within_a_callback_is_told(pipe: SanaPipeline) -> None:
    def again(step: int, steps: int) -> None:
        pipe("a dog", seed=1, **SMALL)

    with pytest.raises(RuntimeError, match="already"):
        pipe("a cat", seed=1, **SMALL, on_step=again)
    assert pipe("a cat", seed=1, **SMALL).seed == 1


def state_of_the_process() -> dict[str, Any]:
    return {
        "frozen": gc.get_freeze_count(),
        "collects": (gc.isenabled(), gc.get_threshold()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "random": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "warnings": list(warnings.filters),
    }


@pytest.fixture
def nothing_frozen() -> Iterator[None]:
    """The suite freezes what it has imported; some of that may end in a test, which lowers the count."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("nothing_frozen")
def test_the_process_is_as_it_was(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mallopt: list[object] = []
    library = SimpleNamespace(mallopt=lambda *a: mallopt.append(a), malloc_trim=lambda size: 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    before = state_of_the_process()
    with SanaPipeline.open("builtin", device="cpu", max_memory="2GiB") as pipeline:
        pipeline("a cat", seed=1, negative_prompt="a dog", **SMALL)
        with pytest.raises(SanaError):
            pipeline("", **SMALL)
    assert state_of_the_process() == before
    assert mallopt == [], "the allocator is its owner's"
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_drawn_for_who_asks(capfd: pytest.CaptureFixture[str]) -> None:
    with SanaPipeline.open("builtin", device="cpu", progress=True) as pipeline:
        pipeline("a cat", seed=1, **SMALL)
    told = capfd.readouterr()
    assert "denoise: 100%" in told.err
    assert told.out == ""


def test_latents_are_kept_until_the_picture_is_there(
    opened: Open, params: Callable[..., GenerationParams], tmp_path: Path, at_stage: Any
) -> None:
    pipeline, path = opened(), tmp_path / "a.png"
    interrupted = at_stage("save", raising(KeyboardInterrupt()))
    with interrupted, pytest.raises(SanaError, match="interrupted") as caught:
        draw_to_file(pipeline, params(), path, overwrite=False)
    assert "sana decode" in caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["a.png.latents.safetensors"]
    saved = draw_to_file(pipeline, params(), path, overwrite=False)
    assert saved.path == path
    assert saved.seconds["save"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_what_stays_in_memory(
    opened: Open, params: Callable[..., GenerationParams], told: Any, builtin: Checkpoint
) -> None:
    """Everything, where more pictures follow and it fits; nothing but what is needed, where none does."""
    pipeline = opened(prompt_cache=False)
    for prompt in ("a cat", "a dog"):
        pipeline(params(prompt))
    assert [s for s in told.stages if s.startswith("load")] == [
        "load text encoder", "load transformer", "load decoder",
    ]  # fmt: skip
    told.stages.clear()
    frugal = opened(prompt_cache=False, plan="stages")
    for prompt in ("a cat", "a dog"):
        frugal(params(prompt))
    assert [s for s in told.stages if s.startswith("load")] == [
        "load text encoder", "load transformer", "load decoder",
    ] * 2  # fmt: skip


def test_a_picture_in_memory_is_begun_with(pipe: SanaPipeline, tmp_path: Path) -> None:
    """As if it lay in a file; what a mask keeps stays to the bit."""
    original = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    original.save(tmp_path / "o.png")
    mask.save(tmp_path / "m.png")
    options: dict[str, Any] = {"seed": 1, "steps": 2}
    drawn = pipe("a cat", image=original, mask=mask, **options)
    paths = {"image": str(tmp_path / "o.png"), "mask": tmp_path / "m.png"}
    assert drawn.image.tobytes() == pipe("a cat", **paths, **options).image.tobytes()
    kept = (0, 0, 24, 64)
    assert drawn.image.crop(kept).tobytes() == original.crop(kept).tobytes()
    assert drawn.settings["image"] == "(in memory)"
    with pytest.raises(SanaError, match="nothing white"):
        pipe("a cat", image=original, mask=Image.new("L", (64, 64)), **options)


def test_the_next_part_is_read_while_one_computes(
    opened: Open,
    params: Callable[..., GenerationParams],
    told: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system is asked to read its files ahead."""

    def advise(handle: int, start: int, size: int, advice: int) -> None:
        told.stages.append(Path(os.readlink(f"/proc/self/fd/{handle}")).parent.name)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    opened(prompt_cache=False)(params())
    assert told.stages == [
        "load text encoder", "transformer", "text", "load transformer", "vae", "denoise",
        "load decoder", "decode",
    ]  # fmt: skip


@pytest.mark.slow
def test_memory_of_many_pictures() -> None:
    """Two hundred pictures take no more than ten, and closing gives everything back."""
    options: dict[str, Any] = {"width": 256, "height": 256, "steps": 2}

    def held() -> int:
        gc.collect()
        give_back()
        return resident_bytes()

    with SanaPipeline.open("builtin", device="cpu") as pipeline:
        pipeline("a cat", seed=0, **options)
    before = held()  # with what libraries keep for good
    with SanaPipeline.open("builtin", device="cpu") as pipeline:
        for seed in range(10):
            pipeline("a cat", seed=seed, **options)
        ten = held()
        for seed in range(200):
            pipeline("a cat", seed=seed, **options)
        assert held() < 1.01 * ten
    assert held() - before < 0.05 * (ten - before)
