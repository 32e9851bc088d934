"""`sana config`, and settings at work in the commands that have them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANA_CONFIG", str(tmp_path / "settings/config.toml"))
    return tmp_path / "settings/config.toml"


def test_set_show_unset(sana: Callable[..., Any], file: Path) -> None:
    assert sana("config", "path").out == f"{file}\n"
    assert sana("config", "set", "steps", "12").out == f"steps = 12  ({file})\n"
    assert sana("config", "set", "quiet", "YES").out == f"quiet = true  ({file})\n"
    assert file.read_text() == "steps = 12\nquiet = true\n"
    document = sana("config", "show", "--json").document
    assert document["file"] == str(file)
    assert document["settings"]["steps"] == {
        "value": 12, "default": None, "effective": 12, "source": str(file),
    }  # fmt: skip
    assert document["settings"]["model"] == {
        "value": None, "default": "builtin", "effective": "builtin", "source": None,
    }  # fmt: skip
    shown = {line.split("  ")[0]: line for line in sana("config", "show").out.splitlines()}
    assert re.match(r"guidance +the model's +default +how strictly", shown["guidance"])
    line = next(n for n in sana("config", "show").out.splitlines() if n.startswith("quiet"))
    assert line.split()[:3] == ["quiet", "true", "file"]
    assert sana("config", "show").out.splitlines()[-1] == f"file: {file}"
    assert sana("config", "unset", "steps").code == 0
    assert file.read_text() == "quiet = true\n"
    assert "was not set" in sana("config", "unset", "steps").out


def test_what_the_user_wrote_into_the_file_stays(
    sana: Callable[..., Any], file: Path, tmp_path: Path
) -> None:
    """Comments, order, and a link to where the file really is."""
    real = tmp_path / "dotfiles.toml"
    real.write_text('# mine\nsteps = 12 # few\n\nmodel = "builtin"\n')
    file.parent.mkdir()
    file.symlink_to(real)
    assert sana("config", "set", "steps", "5").code == 0
    assert file.is_symlink()
    assert real.read_text() == '# mine\nsteps = 5 # few\n\nmodel = "builtin"\n'


def test_a_broken_file_can_be_mended(sana: Callable[..., Any], file: Path) -> None:
    file.parent.mkdir()
    file.write_text("stesp = 3\nsteps = 4\n")
    broken = sana("generate", "x")
    assert broken.code == ExitCode.USAGE
    assert "unknown key 'stesp', did you mean 'steps'" in broken.err
    assert "sana config unset" in broken.err
    assert sana("config", "unset", "stesp").code == 0
    assert sana("config", "show").code == 0


@pytest.mark.parametrize(
    "text", ["\U0001f469\u200d\U0001f680", "\u0646\u0645\u06cc\u200c\u062f", "a\u00a0b"]
)
def test_joiners_are_words(sana: Callable[..., Any], file: Path, text: str) -> None:
    """Emoji and scripts are written with characters that are not printed themselves."""
    assert sana("config", "set", "negative", text).code == 0
    assert sana("config", "get", "negative").out == f"{text}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("set", "stesp", "3"), "no setting 'stesp', did you mean 'steps'"),
        (("set", "steps", "many"), "a whole number from 1 to 1000"),
        (("set", "steps", "0"), "a whole number from 1 to 1000"),
        (("set", "device", "gpu"), "one of auto, cpu, cuda, mps"),
        (("set", "output", "\udcff\udcfe"), "it should be text in UTF-8"),
        (("set", "output", "a\nb"), "on one line"),
        (("set", "steps=3"), "VALUE"),
        (("set", "model", "sana-0.7b"), "did you mean sana-0.6b"),
        (("set", "output", "{nope}.png"), "there is no field {nope}"),
        (("set", "output", "out/{seed}.gif"), "pictures are saved as .png"),
        (("unset", "modle"), "did you mean 'model'"),
        (("show", "steps"), "unexpected argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_misuse(sana: Callable[..., Any], file: Path, words: tuple[str, ...], message: str) -> None:
    result = sana("config", *words)
    assert result.code == ExitCode.USAGE
    assert message in result.err
    assert not file.exists()


def test_a_file_that_cannot_be_written(sana: Callable[..., Any], file: Path) -> None:
    file.parent.write_text("a file where a folder should be")
    result = sana("config", "set", "steps", "3")
    assert result.code == ExitCode.ENVIRONMENT
    assert "SANA_CONFIG=FILE" in result.err


def test_a_folder_as_model_is_found_from_everywhere(
    sana: Callable[..., Any], file: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    assert sana("config", "set", "model", tiny_model.name).code == 0
    assert sana("config", "show", "--json").document["settings"]["model"]["value"] == str(
        tiny_model.resolve()
    )


def test_settings_fit_a_terminal(sana: Callable[..., Any], file: Path) -> None:
    """Also those that were made, whatever the length of the file's name."""
    for extra in ((), ("steps", "12"), ("output", "a/folder/{seed}")):
        if extra:
            sana("config", "set", *extra)
        lines = [n for n in sana("config", "show").out.splitlines() if not n.startswith("file: ")]
        assert max(map(len, lines)) <= 80
        assert "how strictly to follow the prompt" in " ".join(" ".join(lines).split())


def test_a_variable_with_a_typing_mistake_is_told(
    sana: Callable[..., Any], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_STEP", "3")
    result = sana("config", "show")
    assert result.code == 0
    assert "SANA_STEP is not a setting, did you mean 'SANA_STEPS'" in result.err
    note = "note: SANA_STEP is not a setting, did you mean 'SANA_STEPS'?"
    assert note in sana("generate", "x", "--dry-run").err
    assert note not in sana("generate", "x", "--dry-run", "--quiet").err
    monkeypatch.setenv("SANA_STEPS", "few")
    result = sana("generate", "x")
    assert (result.code, "SANA_STEPS is 'few'" in result.err) == (ExitCode.USAGE, True)


def test_flag_over_variable_over_file_over_model(
    sana: Callable[..., Any], file: Path, tiny_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "pictures"
    out.mkdir()
    for key, value in {
        "model": tiny_model, "steps": 3, "guidance": 1, "device": "cpu", "precision": "fp32",
        "output": f"{out}/", "quiet": "true",
    }.items():  # fmt: skip
        assert sana("config", "set", key, value).code == 0

    def steps(*options: object) -> int:
        result = sana("generate", "x", "--size", "64x64", *options)
        assert result.code == 0, result.err
        path = Path(result.out.strip())  # quiet, as set
        assert path.parent == out
        return read_settings(path)["steps"]

    assert steps() == 3
    monkeypatch.setenv("SANA_STEPS", "2")
    assert steps() == 2
    assert steps("--steps", 1) == 1
    loud = sana("generate", "x", "--size", "64x64", "--steps", 1, "--no-quiet", "-o", tmp_path)
    assert "seconds:" in loud.out
    assert len(list(out.iterdir())) == 3


def test_errors_of_a_setting_name_it(
    sana: Callable[..., Any], file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    sana("config", "set", "output", tmp_path / "nowhere/")
    result = sana("generate", "x", "-m", tiny_model)
    assert result.code == ExitCode.USAGE
    assert f"(output is set by {file})" in result.err
    sana("config", "unset", "output")
    sana("config", "set", "device", "mps")
    for words in (
        ("generate", "x", "-m", tiny_model, "-o", tmp_path),
        ("quantize", tiny_model, tmp_path / "q"),
    ):
        result = sana(*words)
        assert result.code == ExitCode.ENVIRONMENT
        assert f"(device is set by {file})" in result.err


def test_settings_that_do_not_fit_this_model_or_flag_give_way(
    sana: Callable[..., Any], file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """`backend` is for quantized models, and --tile means tiles whatever is set."""
    sana("config", "set", "backend", "reference")
    sana("config", "set", "decode", "whole")
    options = ("--size", "64x64", "--steps", 1, "--device", "cpu", "--tile", 32, "--json")
    result = sana("generate", "x", "-m", tiny_model, "-o", tmp_path / "a.png", *options)
    assert result.code == 0, result.err
    assert result.document["images"][0]["decode"] == "exact-tiles 32"


def test_offline_as_a_setting(sana: Callable[..., Any], file: Path) -> None:
    sana("config", "set", "offline", "true")
    result = sana("generate", "x", "--model", "sana-0.6b")
    assert result.code == ExitCode.ENVIRONMENT
    assert "nothing may be downloaded" in result.err
    assert "--model builtin" not in result.err  # the other model is what was asked for
    sana("config", "set", "model", "sana-0.6b")
    assert "or use the demo model: --model builtin" in sana("generate", "x").err


@pytest.mark.parametrize("name", ["{out}", "{out}/one.png"])
def test_a_folder_for_pictures_that_is_not_there(
    sana: Callable[..., Any], file: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "my pictures"
    result = sana("config", "set", "output", name.format(out=out))
    assert result.code == 0
    assert f"mkdir -p '{out}'" in result.err
    for made in (f"{out}/", f"{out}/{{seed}}.png"):
        assert not sana("config", "set", "output", made).err, "it is made when it is needed"
    out.mkdir()
    assert not sana("config", "set", "output", name.format(out=out)).err


def test_what_checks_prompts_must_be_here(
    sana: Callable[..., Any], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, hub in (("shield", "google/shieldgemma-2b"), ("google/shieldgemma-9b",) * 2):
        result = sana("config", "set", "safety_model", name)
        assert result.code == ExitCode.ENVIRONMENT
        assert f"--safety needs {name}, which is not here" in result.err
        assert f"`hf download {hub}`" in result.err
    assert not file.exists()
    (tmp_path / "shield").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sana("config", "set", "safety_model", "shield").code == 0
    chosen = sana("config", "show", "--json").document["settings"]["safety_model"]["value"]
    assert chosen == str(tmp_path / "shield"), "it is found from every folder"


@pytest.mark.parametrize("part", ["model_index.json", "vae/config.json", "transformer"])
def test_a_part_of_a_model_is_no_model(
    sana: Callable[..., Any], file: Path, tiny_model: Path, part: str
) -> None:
    path = tiny_model / part
    if path.is_dir():
        path = next(path.glob("*.safetensors"))
    for words in (("generate", "x", "--model", path), ("config", "set", "model", path)):
        result = sana(*words)
        assert result.code == ExitCode.CHECKPOINT
        assert "is one part of a model" in result.err
        assert f"hint: name the folder: {tiny_model}\n" in result.err
    assert not file.exists()


@pytest.mark.parametrize("value", ["much", "1", "-4GiB"])
def test_a_cap_that_every_run_would_refuse(
    sana: Callable[..., Any], file: Path, value: str
) -> None:
    result = sana("config", "set", "max_memory", "--", value)
    assert result.code == ExitCode.USAGE
    assert f"error: max_memory cannot be {value!r}\n" in result.err
    assert "hint: it should be a size with a unit, such as 4GiB\n" in result.err
    assert not file.exists()


def test_without_a_command(sana: Callable[..., Any]) -> None:
    result = sana("config")
    assert result.code == ExitCode.USAGE
    assert "error: sana config needs a command" in result.err
    assert "hint: one of: show, get, edit, path, set, unset\n" in result.err, "as in --help"


def test_settings_of_what_is_drawn(
    sana: Callable[..., Any], file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    for key, value in {
        "size": "64", "seed": "5", "count": "2", "negative": "dogs", "scheduler": "flow-euler", "cache": "0.1",
        "enhance": "no", "plan": "stages",
    }.items():  # fmt: skip
        assert sana("config", "set", key, value).code == 0
    options = ("-m", tiny_model, "--steps", "1", "-o", f"{tmp_path}/", "--json")
    images = sana("generate", "a cat", *options).document["images"]
    assert [image["seed"] for image in images] == [5, 6]
    settings = images[0]["settings"]
    assert (settings["size"], settings["negative_prompt"]) == ("64x64", "dogs")
    assert (settings["scheduler"], settings["cache"], settings["enhance"]) == (
        "flow-euler",
        0.1,
        False,
    )
    typed = sana("generate", "a cat", *options, "--seed", 1, "-n", 1, "--size", 96).document[
        "images"
    ]
    assert [(image["seed"], image["width"]) for image in typed] == [(1, 96)]


def test_settings_do_not_change_what_is_repeated(
    sana: Callable[..., Any], file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    assert (
        sana("generate", "a cat", "-m", tiny_model, "--size", 64, "--steps", 1, "-o", first).code
        == 0
    )
    for key, value in {
        "size": "96",
        "seed": "5",
        "count": "3",
        "negative": "dogs",
        "cache": "0.1",
    }.items():
        sana("config", "set", key, value)
    assert sana("generate", "--from", first, "-m", tiny_model, "-o", again).code == 0
    assert again.read_bytes() == first.read_bytes()


def test_a_size_that_is_set_leaves_pictures_to_begin_with_alone(
    sana: Callable[..., Any], file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    first = tmp_path / "a.png"
    sana("generate", "a cat", "-m", tiny_model, "--size", 64, "--steps", 1, "-o", first)
    sana("config", "set", "size", "16:9")
    words = ("-m", tiny_model, "--image", first, "--steps", 2, "-o", tmp_path / "b.png", "--json")
    assert sana("generate", "a cat", *words).document["images"][0]["width"] == 64


def test_an_error_names_the_setting_that_causes_it(
    sana: Callable[..., Any], file: Path, tiny_model: Path
) -> None:
    sana("config", "set", "scheduler", "scm")
    assert f"scheduler is set by {file}" in sana("generate", "a cat", "-m", tiny_model).err


def test_get_and_list(sana: Callable[..., Any], file: Path) -> None:
    sana("config", "set", "steps", "7")
    assert sana("config", "get", "steps").out == "7\n"
    assert sana("config", "get", "safety").out == "false\n"
    assert sana("config", "get", "guidance").out == "\n", "the model decides"
    assert (
        "there is no setting 'stesp', did you mean 'steps'?" in sana("config", "get", "stesp").err
    )
    assert sana("config", "list").out == sana("config", "show").out


def test_edit(
    sana: Callable[..., Any], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "my editor"
    editor.write_text("#!/bin/sh\necho 'stesp = 3' > \"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", f"'{editor}'")
    assert "an editor needs a terminal" in sana("config", "edit").err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert "unknown key 'stesp'" in sana("config", "edit").err
    monkeypatch.setenv("EDITOR", "nothing-of-this-name")
    assert "cannot run the editor 'nothing-of-this-name'" in sana("config", "edit").err


def test_show_back_to_auto(sana: Callable[..., Any], file: Path) -> None:
    sana("config", "set", "show", "true")
    assert sana("config", "set", "show", "auto").code == 0
    assert sana("config", "show", "--json").document["settings"]["show"]["effective"] is None
    assert sana("config", "set", "quiet", "auto").code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("typed", "saved"),
    [("pictures/", "{here}/pictures/"), ("p/{slug}.png", "{here}/p/{slug}.png"), ("{slug}.png", "{slug}.png"),
     ("~/p", "~/p")],
)  # fmt: skip
def test_a_relative_folder_is_saved_so_that_it_stays_the_same(
    sana: Callable[..., Any],
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    saved: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sana("config", "set", "output", typed).code == 0
    assert sana("config", "get", "output").out.strip() == saved.replace("{here}", str(tmp_path))


def test_safety_without_a_checker_is_refused(sana: Callable[..., Any], file: Path) -> None:
    result = sana("config", "set", "safety", "true")
    assert result.code != 0
    assert "google/shieldgemma-2b" in result.err
    assert not file.exists()


def test_a_model_that_is_not_here_yet_is_said_to_be(sana: Callable[..., Any], file: Path) -> None:
    for words in (("config", "set", "model"), ("default",)):
        assert "note: it is not here yet; `sana pull sana-0.6b`" in sana(*words, "sana-0.6b").err


@pytest.mark.parametrize(("decoder", "doubted"), [("lite", True), ("tiny", False), ("full", False)])
def test_a_decoder_that_the_model_cannot_use_is_told_at_once(
    sana: Callable[..., Any], file: Path, decoder: str, doubted: bool
) -> None:
    result = sana("config", "set", "decoder", decoder)
    assert result.code == 0
    assert file.read_text() == f'decoder = "{decoder}"\n'
    told = "note: the decoder lite does not fit builtin" in result.err
    assert told == doubted == ("sana config unset decoder" in result.err)
