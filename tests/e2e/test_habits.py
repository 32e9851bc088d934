"""What people type who come from other programs works, or gets the hint that helps."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings


@pytest.fixture
def forecast(sana: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """The document of a dry run, which must work."""

    def run(*words: object) -> dict[str, Any]:
        result = sana("generate", "--dry-run", "--json", *words)
        assert result.code == ExitCode.OK, result.err
        return dict(result.document)

    return run


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Put bytes on standard input, as a pipe does."""

    def fill(data: bytes) -> None:
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        monkeypatch.setattr(sys, "stdin", os.fdopen(reading, encoding="utf-8"))

    return fill


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (("-W", "64", "-H", "96"), "size", "64x96"),
        (("--size", "64"), "size", "64x64"),
        (("-n", "3"), "count", 3),
        (("--num-images", "2"), "count", 2),
        (("--num-inference-steps", "7"), "steps", 7),
        (("--num_inference_steps", "7"), "steps", 7),
        (("--num_images=2",), "count", 2),
    ],
)
def test_options_of_other_programs(
    forecast: Callable[..., dict[str, Any]], words: tuple[str, ...], key: str, value: object
) -> None:
    assert forecast("a cat", *words)[key] == value


def test_names_that_are_read_but_not_listed(
    sana: Callable[..., Any], tmp_path: Path, tiny_model: Path
) -> None:
    picture = tmp_path / "a.png"
    options = ("--size", "64", "--steps", "1", "-m", tiny_model, "--seed", "3")
    result = sana(
        "generate", "-p", "a cat", *options, "--out", picture, "--cfg=3", "--negative-prompt", "- dogs",
        "--sampler", "flow-euler", "--json",
    )  # fmt: skip
    settings = result.document["images"][0]["settings"]
    assert (settings["prompt"], settings["guidance"]) == ("a cat", 3)
    assert (settings["negative_prompt"], settings["scheduler"]) == ("- dogs", "flow-euler")
    again = sana("generate", "a cat", *options, "--out", picture, "--overwrite", "-q")
    assert again.code == ExitCode.OK, again.err


@pytest.mark.parametrize("prompt", ["- a cat", "-5 degrees, snow", "--ar 16:9 cats", "-nice cat"])
def test_a_sentence_that_begins_with_a_dash_is_a_prompt(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, prompt: str
) -> None:
    small = ("--size", "32x32", "--steps", 1, "-m", tiny_model, "-o", tmp_path / "a.png", "--force")
    for words in ((prompt, *small), (*small, "-p", prompt), (*small, "--", prompt)):
        assert sana("generate", *words).code == 0
        assert read_settings(tmp_path / "a.png")["prompt"] == prompt


def test_a_word_with_a_dash_is_a_wrong_option(sana: Callable[..., Any]) -> None:
    result = sana("generate", "-cat")
    assert result.code == ExitCode.USAGE
    assert "there is no option -c" in result.err
    assert 'a prompt that begins with a dash: sana generate -p "-PROMPT"' in result.err


@pytest.mark.parametrize("words", [(), ("-",)])
def test_a_prompt_from_a_pipe(
    forecast: Callable[..., dict[str, Any]],
    sana: Callable[..., Any],
    pipe: Callable[[bytes], None],
    words: tuple[str, ...],
) -> None:
    pipe(b"a cat\r\n")
    assert forecast(*words, "--size", "64")["count"] == 1
    pipe(b"a cat\n\na dog\n")
    result = sana("generate", *words)
    assert result.code == ExitCode.USAGE
    assert (
        "standard input holds 2 lines\nhint: to draw each line: sana generate --prompts -"
        in result.err
    )
    pipe(b"\xff\xfe")
    assert "the prompt on standard input is not UTF-8" in sana("generate", *words).err
    pipe(b"\n")
    said = "standard input holds no prompt" if words else "there is no prompt"
    assert said in sana("generate", *words).err


@pytest.mark.parametrize("random", ["random", "-1", "Random"])
def test_a_random_seed_also_for_a_picture_that_is_repeated(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, random: str
) -> None:
    first = tmp_path / "a.png"
    options = ("-m", tiny_model, "--size", "64", "--steps", "1", "-q")
    assert sana("generate", "a cat", *options, "--seed", "5", "-o", first).code == 0
    words = ("--from", first, "-m", tiny_model, "--seed", random, "-o", tmp_path / "b.png")
    changed = sana("generate", *words, "--json")
    assert changed.document["images"][0]["seed"] not in (5, -1)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("gen",), "`sana generate`"),
        (("genrate",), "`sana generate`"),
        (("run",), "`sana generate`"),
        (("draw",), "`sana generate`"),
        (("txt2img",), "`sana generate`"),
        (("img2img",), "`sana generate PROMPT --image PICTURE`"),
        (("ls",), "`sana models`"),
        (("list",), "`sana models`"),
        (("rm", "x"), "`sana remove`"),
        (("download", "x"), "`sana pull`"),
        (("version",), "`sana --version`"),
        (("config", "ls"), "`sana config show`"),
        (("config", "rm", "steps"), "`sana config unset`"),
        (("config", "pat"), "`sana config path`"),
    ],
    ids=" ".join,
)
def test_commands_of_other_programs(
    sana: Callable[..., Any], words: tuple[str, ...], meant: str
) -> None:
    result = sana(*words)
    assert result.code == ExitCode.USAGE
    assert f"hint: did you mean {meant}?" in result.err


@pytest.mark.parametrize("text", ['{"prompt": "a cat"}', '["a cat"]', "--prompt 'a cat' --steps 2"])
def test_what_comes_through_a_pipe_is_words(
    sana: Callable[..., Any], pipe: Callable[[bytes], None], text: str
) -> None:
    pipe(text.encode())
    result = sana("generate", "-")
    assert result.code == ExitCode.USAGE
    assert "sana generate --prompts -" in result.err


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--ar", "--aspect"), ("--res", "--size"), ("--resolution", "--size"), ("--batch-size", "--count"),
        ("--gpu", "--device cuda"), ("--cpu", "--device cpu"), ("--fp16", "--precision fp16"), ("--lowvram", "--max-memory"),
        ("--denoise", "--strength"), ("--ckpt", "--model"), ("--outdir", "--output"), ("--file", "--prompts"), ("-i", "--image"),
        ("-s", "--steps or --seed"), ("--stesp", "--steps"), ("--promts", "--prompts"),
        ("-b", "--count"), ("--batch_size", "--count"), ("--n_iter", "--count"), ("--torch_dtype", "--precision"),
        ("--lora-paths", "--lora FILE:SCALE"), ("--lora_scale", "--lora FILE:SCALE"), ("--image-path", "--image"),
        ("--image-strength", "--strength"), ("--low-ram", "--max-memory"), ("--vae-on-cpu", "--max-memory"),
        ("--enable_model_cpu_offload", "--max-memory"), ("--from-file", "--prompts"), ("--diffusion-model", "--model"),
        ("--no-safety-checker", "--no-safety"), ("--hires-fix", "--upscale 2"), ("--masked-image-path", "--mask"), ("--output_format", "--format"),
    ],
)  # fmt: skip
def test_options_that_others_call_otherwise(
    sana: Callable[..., Any], option: str, meant: str
) -> None:
    result = sana("generate", "a cat", option, "x")
    assert result.code == ExitCode.USAGE
    assert f"hint: did you mean {meant}?" in result.err


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--quantize", "sana pull MODEL --quantize RECIPE"), ("--type", "sana quantize MODEL"), ("--threads", "OMP_NUM_THREADS=4"),
        ("-t", "OMP_NUM_THREADS=4"), ("--xformers", "by itself"), ("--diffusion-fa", "by itself"), ("--compile", "by itself"),
        ("--attention_slicing", "--max-memory"), ("--style", "write the style into the prompt"),
        ("--metadata", "sana info PICTURE.png"),
        ("--shift", "is the model's"), ("--token", "HF_TOKEN=..."), ("--cache_dir", "HF_HOME=FOLDER"), ("--config", "sana config set"),
        ("--version", "sana --version"), ("--clip-skip", "no Sana model has that"), ("--controlnet", "no Sana model has that"),
    ],
)  # fmt: skip
def test_options_that_have_no_like_here(sana: Callable[..., Any], option: str, told: str) -> None:
    result = sana("generate", "a cat", option, "x")
    assert (result.code, told in result.err) == (ExitCode.USAGE, True), result.err
    assert "did you mean" not in result.err


@pytest.mark.parametrize(
    ("option", "value", "meant"),
    [
        ("--precision", "float16", "fp16"), ("--precision", "bfloat16", "bf16"), ("--precision", "full", "fp32"),
        ("--device", "gpu", "cuda"), ("--device", "cuda:0", "cuda"), ("--device", "metal", "mps"),
        ("--scheduler", "euler", "flow-euler"), ("--sampler", "Euler a", "flow-euler"), ("--sampler", "DPM++ 2M", "flow-dpm"),
        ("--sampling-method", "lcm", "scm"), ("--scheduler", "flow-eulr", "flow-euler"), ("--decode", "exact-tile", "exact-tiles"),
    ],
)  # fmt: skip
def test_values_that_others_call_otherwise(
    sana: Callable[..., Any], option: str, value: str, meant: str
) -> None:
    result = sana("generate", "a cat", option, value)
    assert result.code == ExitCode.USAGE
    assert f"hint: did you mean {meant}?" in result.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-p", "a cat"), "sana generate -p 'a cat'"),
        (("--steps", "4", "generate", "a cat"), "sana generate --steps 4 'a cat'"),
        (("--model=builtin", "generate", "x"), "sana generate --model=builtin x"),
        (("-V",), "sana --version"),
        (("config", "steps", "4"), "`sana config set steps 4`"),
        (("config", "steps=4"), "`sana config set steps 4`"),
        (("config", "steps"), "`sana config get steps`"),
        (("generate", "a cat", "-n", "dog"), "what to keep out of them: --negative"),
    ],
    ids=str,
)
def test_words_in_the_wrong_place(
    sana: Callable[..., Any], words: tuple[str, ...], told: str
) -> None:
    result = sana(*words)
    assert (result.code, told in result.err) == (ExitCode.USAGE, True), result.err


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("help", "sana generate --help"), ("p.txt", "sana generate --prompts p.txt"), ("@p.txt", "sana generate --prompts p.txt"),
        ("i.png", "sana generate --from i.png"), ("i.jpg", "sana generate PROMPT --image i.jpg"), ("a cat", None), ("no.txt", None),
    ],
)  # fmt: skip
def test_a_prompt_that_was_meant_as_something_else(
    sana: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str, told: str | None
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("p.txt", "i.png", "i.jpg"):
        Path(name).touch()
    result = sana("generate", prompt, "--dry-run")
    assert result.code == ExitCode.OK
    assert (told or "is drawn as a prompt; ") in result.err or told is None
    assert ("is drawn as a prompt" in result.err) == (told is not None)


@pytest.mark.parametrize("words", [("models", "--ar"), ("generate", "a cat", "--xyzzy")])
def test_nothing_is_suggested_at_random(sana: Callable[..., Any], words: tuple[str, ...]) -> None:
    result = sana(*words)
    assert (result.code, "did you mean" in result.err) == (ExitCode.USAGE, False)


def test_standard_output_is_no_file(sana: Callable[..., Any]) -> None:
    result = sana("generate", "a cat", "-o", "-")
    assert result.code == ExitCode.USAGE
    assert "hint: name a file: --output picture.png" in result.err


def test_a_word_that_is_no_command_may_be_a_prompt(sana: Callable[..., Any]) -> None:
    assert "to draw it: sana generate 'a red fox'" in sana("a", "red", "fox", "--steps", "2").err
    assert "hint: to draw it: sana generate 'a red fox'" in sana("a red fox").err
    assert "to draw it: sana generate xyzzy" in sana("xyzzy").err


@pytest.mark.parametrize("words", [(), ("pull",), ("config", "set"), ("generate",)], ids=str)
def test_three_ways_to_ask_for_help(sana: Callable[..., Any], words: tuple[str, ...]) -> None:
    usual = sana(*words, "--help")
    assert usual.code == ExitCode.OK
    assert usual.out.startswith("Usage: sana")
    assert sana(*words, "-h") == sana("help", *words) == usual


MISTAKES = [
    (("generate", "a", "--steps", "x"), "--steps: 'x' is not a whole number"),
    (("generate", "a", "--guidance", "x"), "--guidance: 'x' is not a number"),
    (("generate", "a", "--steps"), "--steps needs a value"),
    (("generate", "a", "--cfg"), "--cfg needs a value"),
    (("generate", "a", "--quiet=1"), "--quiet takes no value"),
    (("generate", "a", "b c"), "unexpected argument 'b c'"),
    (("info",), "MODEL|FOLDER|PICTURE is missing"),
    (("info", "a", "b"), "unexpected argument 'b'"),
    (("generate", "a", "--sede", "1"), "there is no option --sede"),
    (("--frob",), "there is no option --frob"),
    (("frob",), "there is no command 'frob'"),
    (("config",), "sana config needs a command"),
    (("generate", "a", "--size", "x"), "cannot read size 'x'"),
    (("info", "nowhere"), "unknown model 'nowhere'"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_mistakes_are_told_in_one_dialect(
    sana: Callable[..., Any], words: tuple[str, ...], message: str
) -> None:
    result = sana(*words)
    assert result.code == ExitCode.USAGE
    error, hint = result.err.splitlines()
    assert error.startswith(f"error: {message}")
    assert hint.startswith("hint: ")
    assert result.out == ""


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_programs_that_ask_for_json_get_errors_as_json(
    sana: Callable[..., Any], words: tuple[str, ...], message: str
) -> None:
    result = sana(*words, *(() if words[-1] in ("--steps", "--cfg") else ("--json",)))
    if words[-1] in ("--steps", "--cfg"):
        result = sana("generate", "a", "--json", words[-1])
    document = json.loads(result.out)
    assert document["error"]["code"] == result.code == ExitCode.USAGE
    assert document["error"]["message"].startswith(message) or "--json" in result.err
    error, hint = result.err.splitlines()
    assert (error, hint) == (
        f"error: {document['error']['message']}",
        f"hint: {document['error']['hint']}",
    )


@pytest.mark.parametrize(
    ("words", "is_json"),
    [
        (("bench", "--json", "-", "--runs", "0"), True), (("bench", "--runs", "0", "--json=-"), True),
        (("bench", "--json", "x.json", "--runs", "0"), False), (("generate", "", "--json"), True), (("generate", "", "--", "--json"), False),
    ],
    ids=str,
)  # fmt: skip
def test_errors_are_json_where_stdout_is(
    sana: Callable[..., Any], words: tuple[str, ...], is_json: bool
) -> None:
    result = sana(*words)
    assert result.code == ExitCode.USAGE
    assert bool(result.out) == is_json
    if is_json:
        assert result.document["error"]["code"] == ExitCode.USAGE
