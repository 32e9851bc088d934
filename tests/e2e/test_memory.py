"""Plans draw the same picture, memory that runs out takes the next one, and no option is ignored in silence."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_forward_pre_hook

from sana_cli.errors import ExitCode
from sana_cli.models.gemma2 import Gemma2
from tests.faults import killed_at, raising
from tests.pictures import pixels

FAST = ("--size", "96x64", "--steps", "2", "--seed", "3", "--device", "cpu", "--precision", "fp32")
PROMPT = ("generate", "A Fox", "--negative", "snow")
PLANS = ("resident", "stages", "branches", "streamed")


@pytest.fixture
def text_passes() -> Callable[[], AbstractContextManager[list[int]]]:
    """`with text_passes() as lengths: ...` collects the tokens of each pass of the text encoder."""

    @contextmanager
    def watch() -> Iterator[list[int]]:
        lengths: list[int] = []

        def called(module: torch.nn.Module, inputs: Any) -> None:
            if isinstance(module, Gemma2):
                lengths.append(inputs[0].shape[1])

        with register_module_forward_pre_hook(called):
            yield lengths

    return watch


@pytest.fixture
def draw(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> Callable[..., Any]:
    """Draw with the tiny model; (the result, the pixels)."""

    def run(name: str, *options: object, model: object = tiny_model) -> Any:
        path = tmp_path / f"{name}.png"
        result = sana(*PROMPT, "-m", model, "-o", path, *FAST, "--json", *options)
        assert result.code == 0, result.err
        return result, pixels(path)

    return run


# -- the same picture ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int4(quantized: Callable[..., Path]) -> Path:
    return quantized("int4", "builtin")


@pytest.fixture(scope="module")
def usual(
    sana: Callable[..., Any], pipelines: Any, int4: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[object, tuple[str, ...], np.ndarray]]:
    """`usual("int4")`: where a model is, options that it needs, and what it draws under the usual plan, drawn once."""
    places = {"tiny": pipelines.folder("plain"), "builtin": "builtin", "int4": int4}
    folder = tmp_path_factory.mktemp("usual")

    @cache
    def drawn(model: str) -> tuple[object, tuple[str, ...], np.ndarray]:
        # Kernels with 8-bit inputs round a last bit to a whole step; streamed or not, that must be the same kernel.
        options = ("--no-prompt-cache", *(("--backend", "reference") if model == "int4" else ()))
        path = folder / f"{model}.png"
        assert sana(*PROMPT, "-m", places[model], "-o", path, *FAST, *options).code == 0
        return places[model], options, pixels(path)

    return drawn


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("model", ["tiny", "builtin", "int4"])
def test_every_plan_draws_the_same(
    draw: Callable[..., Any], usual: Callable[..., Any], plan: str, model: str
) -> None:
    where, options, expected = usual(model)
    result, picture = draw("planned", "--plan", plan, *options, model=where)
    same_arithmetic = plan in ("resident", "stages")
    assert np.abs(picture - expected).max() <= (0 if same_arithmetic else 1)
    told = result.document["images"][0]["plan"]
    assert told == f"{plan}, decode whole"


@pytest.mark.parametrize("small", [False, True])
def test_streaming_alone_keeps_every_bit(
    draw: Callable[..., Any], tiny_model: Path, int4: Path, small: bool
) -> None:
    """With the same kernels for the same layers, also where those are quantized."""
    model = int4 if small else tiny_model
    _, apart = draw("apart", "--plan", "branches", "--no-prompt-cache", model=model)
    _, streamed = draw("streamed", "--plan", "streamed", "--no-prompt-cache", model=model)
    assert np.array_equal(apart, streamed)


@pytest.mark.parametrize("plan", PLANS)
def test_the_plan_is_told_to_who_asks(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, plan: str
) -> None:
    words = (*PROMPT, "-m", tiny_model, "-o", tmp_path / "a.png", *FAST, "--plan", plan)
    assert "plan: " not in sana(*words).err
    told = f"sana.run: plan: {plan}, decode whole; chosen by --plan; predicted peak "
    assert told in sana("-v", *words, "--force").err


def test_several_pictures_under_every_plan(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    for plan in PLANS:
        target = tmp_path / plan / "a.png"
        target.parent.mkdir()
        words = (*PROMPT, "-m", tiny_model, "-o", target, *FAST, "--count", 2, "--plan", plan)
        assert sana(*words).code == 0
    for name in ("a-3.png", "a-4.png"):
        first = pixels(tmp_path / "resident" / name)
        assert all(np.abs(pixels(tmp_path / p / name) - first).max() <= 1 for p in PLANS)


# -- caps ------------------------------------------------------------------------------------------


def test_a_cap_chooses_the_plan(draw: Callable[..., Any]) -> None:
    result, _ = draw("a", "--max-memory", "8GiB")
    assert "plan: stages, decode whole; the fastest that fits; predicted peak" in result.err
    assert "limit 8.00 GiB" in result.err
    (image,) = result.document["images"]
    assert 2**28 < image["predicted_peak_bytes"] < 2**30


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["draw", "dry run"])
def test_no_plan_fits(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    words = (*PROMPT, "-m", tiny_model, "-o", tmp_path / "a.png", *FAST, *options)
    result = sana(*words, "--max-memory", "64MiB")
    assert result.code == ExitCode.USAGE
    assert "error: no plan fits into 64 MiB: the smallest needs 2" in result.err
    assert "hint: use --max-memory 2" in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_cap_from_the_environment(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*PROMPT, "-m", tiny_model, "-o", tmp_path / "a.png", *FAST)
    monkeypatch.setenv("SANA_MAX_MEMORY", "64MiB")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a fox")))
        assert "into 64 MiB, set by SANA_MAX_MEMORY: " in sana("repl", "-m", tiny_model).err
    assert "error: no plan fits into 64 MiB, set by SANA_MAX_MEMORY: " in sana(*words).err
    assert sana(*words, "--max-memory", "4GiB").code == 0, "the flag wins"
    monkeypatch.setenv("SANA_MAX_MEMORY", "lots")
    result = sana(*words)
    assert result.code == ExitCode.USAGE
    assert "error: SANA_MAX_MEMORY is 'lots', and should be a size with a unit" in result.err


def test_kernels_are_measured_while_nothing_else_is_there(
    sana: Callable[..., Any],
    int4: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: list[str],
    before_loading: Callable[..., Any],
    before_computing: Callable[..., Any],
) -> None:
    """What that takes would otherwise come on top of a part that was planned to fill the cap."""
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    events = measured
    words = ("-m", int4, "-o", tmp_path / "a.png", *FAST, "--max-memory", "4GiB")
    with ExitStack() as stages:
        for stage in ("text", "denoise", "decode"):
            stages.enter_context(before_loading(stage, partial(events.append, stage)))
        with before_computing("decode", raising(KeyboardInterrupt())):
            assert sana("generate", "a cat", *words).code == ExitCode.INTERRUPTED
        assert events.count("measured") > 1
        assert events == ["measured"] * events.count("measured") + ["text", "denoise", "decode"]
        (tmp_path / "cache/kernels.json").unlink()
        events.clear()
        (latents,) = tmp_path.glob("*.latents.safetensors")
        assert sana("decode", latents, "--max-memory", "4GiB", "--device", "cpu").code == 0
    assert events == ["measured"] * events.count("measured") + ["decode"]
    assert len(events) > 1


def test_dry_run_draws_nothing_and_needs_no_torch(tiny_model: Path, tmp_path: Path) -> None:
    words = ["generate", "a fox", "-m", str(tiny_model), "-o", str(tmp_path / "a.png"), "--dry-run"]
    program = (
        "import sys\nfrom sana_cli.cli import main\n"
        f"code = main({[*words, '--device', 'cpu', '--size', '1024x1024']!r})\n"
        "assert code == 0 and not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env={**os.environ, "SANA_CACHE": str(tmp_path / "cache")},  # other tests keep prompts and speeds
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "1024x1024  1 picture  20 steps" in lines[0]
    assert lines[1] == "plan: stages, decode whole; the fastest that fits"
    assert [line.split()[0] for line in lines[2:6]] == ["MiB", "text", "denoise", "decode"]
    assert lines[6].startswith("peak ")
    # by its path: a name alone is found in its own folder only
    assert lines[7] == f"time: unknown until `sana bench --model {tiny_model}` has run once"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "taken.png"), "taken.png exists"),
        (("-o", "missing/a.png"), "no such folder: missing"),
        (("-o", "a.gif"), "pictures are saved as .png"),
        (("--show", "--json"), "give --show or --json, not both"),
        (("--count", 2, "--grid", "-o", "b.png"), "b-grid.png exists"),
        (("--precision", "bf16", "-m", "fp16"), "this model was trained in fp16"),
        (("-m", "without tokenizer"), "missing file "),
        (("--lora", "foreign.safetensors"), "foreign.safetensors"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_dry_run_refuses_what_the_run_refuses(
    sana: Callable[..., Any],
    pipelines: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("taken.png", "b-grid.png"):
        (tmp_path / name).touch()
    halves = {f"transformer.a.lora_{half}.weight": torch.ones(1, 1) for half in "AB"}
    save_file(halves, "foreign.safetensors")
    model = pipelines.folder("plain")
    if "without tokenizer" in options:
        model = shutil.copytree(model, tmp_path / "without tokenizer")
        (model / "tokenizer/tokenizer.json").unlink()
    elif "fp16" in options:
        model = shutil.copytree(model, tmp_path / "fp16")
        (model / "sana.json").write_text('{"precision": "fp16"}')
    words = ("generate", "A Fox", "-m", model, *FAST, *options)
    dry, run = (sana(*words, *more) for more in (("--dry-run",), ()))
    assert message in dry.err
    assert (dry.code, dry.err, dry.out) == (run.code, run.err, run.out)
    assert dry.code != 0


def test_dry_run_and_run_agree(
    draw: Callable[..., Any], sana: Callable[..., Any], tiny_model: Path
) -> None:
    result, _ = draw("a", "--no-prompt-cache")
    words = (*PROMPT, "-m", tiny_model, *FAST, "--no-prompt-cache", "--dry-run", "--json")
    document = sana(*words).document
    assert document["dry_run"] is True
    (image,) = result.document["images"]
    assert document["peak_bytes"] == image["predicted_peak_bytes"]
    assert document["plan"] == image["plan"]
    assert document["peak_bytes"] == max(stage["total"] for stage in document["stages"])


@pytest.mark.parametrize("plan", ["stages", "streamed"])
def test_a_dry_run_warns_of_streaming_where_there_is_some(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plan: str,
) -> None:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path))
    parts = ("text", "denoise", "decode")
    rates = {
        "date": "today",
        "flop_per_s": dict.fromkeys(parts, 1e9),
        "load_s": dict.fromkeys(parts, 1),
    }
    (tmp_path / "speeds.json").write_text(json.dumps({f"{tiny_model.name} | fp32 | cpu": rates}))
    told = sana(*PROMPT, "-m", tiny_model, *FAST, "--dry-run", "--plan", plan).out
    assert "by `sana bench` of today" in told
    assert told.endswith("; streaming takes longer\n") == (plan == "streamed")


# -- memory that runs out --------------------------------------------------------------------------


REFUSED = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
STEPS = {
    # where: (stage, times, what is told)
    "load text": ("load text", 1, "out of memory: text; trying"),
    "text": ("text", 1, "text encoder streamed"),
    "load transformer": ("load denoise", 1, "loading the transformer; trying"),
    "denoise": ("denoise", 1, "trying branches, decode"),
    "denoise, apart": ("denoise", 2, "transformer streamed"),
    "denoise, streamed": ("denoise", 3, "transformer streamed"),
    "load decoder": ("load decode", 1, "decode whole; trying exact-tiles"),
    "decode": ("decode", 1, "decode whole; trying exact-tiles"),
}


@pytest.mark.parametrize("where", STEPS)
def test_a_refused_allocation_takes_the_next_plan(
    draw: Callable[..., Any],
    at_stage: Callable[..., Any],
    usual: Callable[..., Any],
    tmp_path: Path,
    where: str,
) -> None:
    """Python's and torch's in turns; every kind is told from others in `test_torch_memory.py`."""
    stage, times, told = STEPS[where]
    error = MemoryError() if list(STEPS).index(where) % 2 else RuntimeError(REFUSED)
    plan = ("--plan", "resident") if times == 3 else ()  # which has three smaller ones
    with at_stage(stage, raising(error, times)):
        result, picture = draw("refused", "--no-prompt-cache", *plan)
    assert told in result.err
    assert np.abs(picture - usual("tiny")[2]).max() <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["refused.png"]


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_a_streamed_block_that_finds_no_memory(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    before_opening: Callable[..., None],
    share: float,
) -> None:
    """The last plan has no next one: an error in one line, no traceback, nothing left behind."""
    reads, last = [0], [10**9]

    def refuse(path: Path, mode: str) -> None:
        if path.parent.name == "transformer":  # once a tensor, those of blocks again and again
            reads[0] += 1
            if reads[0] > last[0]:
                raise MemoryError

    before_opening(refuse)
    words = (*PROMPT, "-m", tiny_model, "-o", tmp_path / "a.png", *FAST, "--plan", "streamed")
    assert sana(*words).code == 0
    (tmp_path / "a.png").unlink()
    last[0] = reads[0] + int(share * reads[0])
    result = sana(*words)
    assert result.code == ExitCode.ENVIRONMENT
    assert "error: out of memory at 96x64" in result.err
    assert list(tmp_path.iterdir()) == []


# -- kills -----------------------------------------------------------------------------------------


# While weights are read nothing is kept yet: a kill there differs by nothing but its time.
@pytest.mark.parametrize(
    "stage", ["denoise", *(pytest.param(s, marks=pytest.mark.slow) for s in ("load text", "load denoise"))],
)  # fmt: skip
def test_a_kill_before_the_latents_are_there(
    draw: Callable[..., Any], tiny_model: Path, tmp_path: Path, stage: str
) -> None:
    """Of those after, `test_decode.py` knows."""
    _, usual = draw("usual")
    words = (*PROMPT, "-m", tiny_model, "-o", tmp_path / "a.png", *FAST, "--no-prompt-cache")
    killed_at(stage, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["usual.png"], "nothing is left behind"
    _, again = draw("a")
    assert np.array_equal(again, usual)


# -- the prompt cache ------------------------------------------------------------------------------


def test_a_repeated_prompt_never_loads_the_text_encoder(
    draw: Callable[..., Any], before_loading: Callable[..., Any]
) -> None:
    _, first = draw("first")
    with before_loading("text", raising(AssertionError("the text encoder is loaded"))):
        result, second = draw("second", "--seed", 3)
    assert np.array_equal(first, second)
    assert result.document["images"][0]["seconds"]["text"] < 1


def test_the_instruction_is_run_once_for_all_prompts(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    prompts: Path,
    text_passes: Callable[[], AbstractContextManager[list[int]]],
) -> None:
    """And a prompt gives the same picture whether another one has been there before it or not."""

    def drawn(name: str, prompt: str) -> tuple[Any, list[int]]:
        path = tmp_path / f"{name}.png"
        with text_passes() as lengths:
            result = sana("generate", prompt, "-m", tiny_model, "-o", path, *FAST)
        assert result.code == 0, result.err
        return np.asarray(Image.open(path)), lengths

    _, (instruction, *rest) = drawn("a", "a red fox")
    assert len(rest) == 1, "what follows the instruction, whose first token is the empty text"
    second, (length,) = drawn("b", "a blue cat")
    assert length < instruction
    shutil.rmtree(prompts)
    assert np.array_equal(second, drawn("c", "a blue cat")[0])
    damaged = max(prompts.iterdir(), key=lambda path: path.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    _, lengths = drawn("d", "a blue dog")
    assert lengths[0] == instruction, "made again"


def test_a_known_negative_is_not_encoded_again(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    text_passes: Callable[[], AbstractContextManager[list[int]]],
) -> None:
    """Neither by the next prompt of a batch, nor by the next run."""
    runs = (
        (("a cat", "a dog"), "instruction, a cat, snow, a dog"),
        (("a fox", "a cow"), "a fox, a cow"),
    )
    for i, (prompts, encoded) in enumerate(runs):
        file = tmp_path / "prompts.txt"
        file.write_text("\n".join(prompts))
        options = ("-m", tiny_model, "-o", tmp_path / f"{i}-{{index}}.png", "--negative", "snow")
        with text_passes() as lengths:
            assert sana("generate", "--prompts", file, *options, *FAST).code == 0
        assert len(lengths) == len(encoded.split(", "))


def test_the_cache_can_be_left_alone(draw: Callable[..., Any], prompts: Path) -> None:
    draw("a", "--no-prompt-cache")
    assert not prompts.exists()
    draw("b")
    assert len(list(prompts.iterdir())) == 3, "both branches and the instruction"


# -- options ---------------------------------------------------------------------------------------


def test_memory_options_are_never_ignored(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    """Each has its effect, or is refused, or says that it has none."""
    words = (*PROMPT, "-m", tiny_model, "-o", tmp_path / "a.png", *FAST, "--dry-run", "--json")
    usual = sana(*words).document
    for options, key in (
        (("--plan", "branches"), "plan"),
        (("--plan", "streamed"), "plan"),
        (("--tile", "32"), "plan"),
        (("--decode", "blended-tiles"), "plan"),
        (("--max-memory", "3GiB"), "cap_bytes"),
        (("--count", "2"), "plan"),
        (("--size", "2048x2048"), "peak_bytes"),
    ):
        assert sana(*words, *options).document[key] != usual[key], options
    for options, message in (
        (("--plan", "tiny"), "--plan: "),
        (("--max-memory", "4"), "cannot use '4' as an amount of memory"),
        (("--max-memory", ""), "--max-memory is empty"),
    ):
        result = sana(*words, *options)
        assert result.code == ExitCode.USAGE
        assert message in result.err
    alone = ("--plan", "branches", "--guidance", 1, "--negative", "")
    told = "stages, decode whole; --plan branches is --plan stages here: there is one branch"
    assert f"plan: {told}" in sana(*words[:-1], *alone).out
    assert f"plan: {told}" in sana(*words[:-2], *alone).err


def test_every_option_of_generate_is_known_to_a_test() -> None:
    """A new option comes with a test that names it, so that none is left without an effect."""
    from sana_cli.commands.verbs import command

    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    options = [p for p in command("generate").params if p.opts[0].startswith("-")]
    assert len(options) > 20
    unknown = [
        option.name
        for option in options
        if not any(
            f'"{name}' in tests or f" {name}" in tests
            for name in (*option.opts, *option.secondary_opts)
        )
    ]
    assert unknown == []
