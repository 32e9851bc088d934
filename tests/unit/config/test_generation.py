"""The one table of options: a field that is added to it, and used in `request/params.py`, is in every place."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sana_cli.config.generation import FIELDS, GenerationOptions
from sana_cli.errors import SanaError, usage_error

ROOT = Path(__file__).parents[3]
FIELD = """
    sharpness: Annotated[
        float | None,
        Option(
            flags=("--sharpness",), help="How sharp.", limits=(0, 5), picture="sharpness", line="sharpness",
            setting="how sharp", unset="0", usual=0.0, repl="how sharp",
        ),
    ] = None
"""
PROGRAM = """
import contextlib, io, json, os, sys
from sana_cli.cli import main

def sana(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    return code, out.getvalue(), err.getvalue()

small = ("--size", "64x64", "--steps", "1", "--seed", "1", "--device", "cpu")
assert "--sharpness" in sana("generate", "--help")[1], "help"
code, _, err = sana("generate", "a cat", *small, "--sharpness", "0.5", "-o", "a.png", "-q")
assert code == 0, err
info = json.loads(sana("info", "a.png", "--json")[1])
assert "0.5" in json.dumps(info), info
assert "sharpness" in sana("info", "a.png")[1], "info"
open("p.jsonl", "w").write('{"prompt": "a dog", "sharpness": 2}')
code, out, err = sana("generate", "--prompts", "p.jsonl", *small[:4], "-o", "b.png", "-q")
assert code == 0, err
assert "2" in json.dumps(json.loads(sana("info", "b.png", "--json")[1])["settings"]["sharpness"]), "a line"
assert sana("generate", "--from", "a.png", "-o", "c.png", "-q")[0] == 0
assert open("a.png", "rb").read() == open("c.png", "rb").read(), "repeated"
assert sana("config", "set", "sharpness", "3")[0] == 0
assert sana("config", "get", "sharpness")[1].strip() == "3.0", "a setting"
assert sana("config", "set", "sharpness", "9")[0] == 2, "its limits"
assert sana("generate", "a cat", *small, "-o", "d.png", "-q")[0] == 0
assert json.loads(sana("info", "d.png", "--json")[1])["settings"]["sharpness"] == 3, "a setting"
sys.stdin = io.TextIOWrapper(io.BytesIO(b"/sharpness 4\\n/settings\\n"))
assert "sharpness 4" in sana("repl", "--no-history")[2].replace("sharpness  ", "sharpness "), "the repl"
from sana_cli.pipeline import SanaPipeline
with SanaPipeline.open(device="cpu") as pipe:
    assert pipe.params("a cat", sharpness=1).sharpness == 1, "Python"
"""


def test_an_option_is_a_field_and_its_use(tmp_path: Path) -> None:
    """Two files change: the table, and `request/params.py`, which says what the option does."""
    # Only what changes is copied: of the rest, what Python has compiled is there.
    changing = ("config", "request")
    (tmp_path / "sana_cli").mkdir()
    for part in (ROOT / "quant", ROOT / "calibration", *(ROOT / "sana_cli").iterdir()):
        if part.name not in (*changing, "__pycache__"):
            (tmp_path / part.relative_to(ROOT)).symlink_to(part)
    for name in changing:
        shutil.copytree(
            ROOT / "sana_cli" / name,
            tmp_path / "sana_cli" / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    edit(
        tmp_path / "sana_cli/config/generation.py",
        "    guidance_scale: Annotated[",
        FIELD + "    guidance_scale: Annotated[",
    )
    params = tmp_path / "sana_cli/request/params.py"
    edit(params, "    flow_shift: float\n", "    flow_shift: float\n    sharpness: float\n")
    edit(
        params,
        "        init_image=init_image,\n",
        "        init_image=init_image,\n        sharpness=o.sharpness or 0.0,\n",
    )
    here = tmp_path / "here"
    here.mkdir()
    environment = {
        "PYTHONPATH": str(tmp_path), "SANA_CONFIG": str(tmp_path / "c.toml"), "SANA_CACHE": str(tmp_path / "cache"),
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "SANA_RUNTIME": str(tmp_path / "run"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=here, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_name_that_is_none() -> None:
    with pytest.raises(SanaError, match="there is no option 'stepps', did you mean 'steps'"):
        GenerationOptions.of(prompt="a cat", stepps=3)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("size", "give width and height"), ("guidance", "give guidance_scale"), ("lora", "give loras"),
    ],
)  # fmt: skip
def test_a_name_of_the_command_leads_to_the_field(name: str, hint: str) -> None:
    with pytest.raises(SanaError, match=f"there is no option '{name}'") as caught:
        GenerationOptions.of(**{name: 1})
    assert caught.value.hint == hint


def test_words_are_those_that_users_type() -> None:
    words = {name: field.word for name, field in FIELDS.items()}
    assert (words["guidance_scale"], words["negative_prompt"], words["loras"]) == (
        "guidance",
        "negative",
        "lora",
    )
    assert words["max_memory"] == "max_memory"


def test_one_over_the_other() -> None:
    below = GenerationOptions(
        steps=3, seed=1, width=64, height=64, sources={"steps": "a file", "width": "a file"}
    )
    above = GenerationOptions(steps=5, aspect="1:1").over(below)
    assert (above.steps, above.seed, above.aspect) == (5, 1, "1:1")
    assert (above.width, above.height) == (None, None), "a shape replaces a whole size"
    assert dict(above.sources) == {}
    with_image = GenerationOptions(image="a.png").over(below)
    assert with_image.width is None, (
        "a picture to begin with has a size of its own, which no setting changes"
    )


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("steps", "4", "a whole number"), ("seed", 1.5, "a whole number"), ("width", True, "a whole number"),
        ("guidance_scale", "x", "a number"), ("negative_prompt", 3, "text"), ("guidance_interval", (0, 0.6), "text"),
        ("aspect", 1.5, "text"), ("scheduler", "ddim", "one of flow-dpm"), ("scheduler", 3, "one of flow-dpm"),
        ("loras", 3, "a list of texts"), ("loras", [("x", 1)], "a list of texts, each FILE[:SCALE]"), ("loras", [None], "a list of texts"),
        ("wildcards", "x", "True or False"), ("max_memory", [], "text or a number"),
        ("image", 3, "a path or a PIL image"), ("mask", b"x", "a path or a PIL image"), ("control", {}, "a path or a PIL image"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_an_error_of_ours(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(SanaError, match=f"{name} cannot be ") as caught:
        GenerationOptions.of(**{name: value})
    assert caught.value.hint.startswith(f"it should be {wanted}")


def test_a_value_of_many_lines_is_told_on_one() -> None:
    with pytest.raises(SanaError, match="image cannot be array") as caught:
        GenerationOptions.of(image=np.zeros((99, 9)))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 250


def test_numbers_of_numpy_paths_and_a_scale_of_pag_fit(tmp_path: Path) -> None:
    options = GenerationOptions.of(
        seed=np.int64(3), guidance_scale=np.float32(2), image=tmp_path, pag=2, cache=0
    )
    assert (type(options.seed), options.seed) == (int, 3)
    assert (type(options.guidance_scale), options.guidance_scale) == (float, 2.0)
    assert (options.image, options.pag, options.cache) == (tmp_path, "2", 0.0)
    for loras in (tmp_path, [tmp_path], str(tmp_path)):
        assert GenerationOptions.of(loras=loras).loras == (str(tmp_path),)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("cannot draw in 0 steps", "steps"),
        ("--upscale-strength 0 is out of range", "upscale_strength"),
        ("--upscale 9 is out of range", "upscale"),
        ("te.safetensors changes the text encoder (model.decoder.q), which no LoRA changes", ""),
        ("x.safetensors changes a..., which no model has", ""),
        ("/home/me/steps/decoder.pth is damaged", ""),
        ("my-steps is damaged, my-decoder.pth, too", ""),
    ],
)
def test_only_errors_about_a_setting_name_its_source(message: str, told: str) -> None:
    names = ("model", "decoder", "steps", "upscale", "upscale_strength")
    options = GenerationOptions(sources=dict.fromkeys(names, "config.toml"))
    with pytest.raises(SanaError) as caught, options.naming_settings():
        raise usage_error(message, "")
    assert caught.value.message == message + (f" ({told} is set by config.toml)" if told else "")


@pytest.mark.parametrize("option", ["pag", "decoder", "model"])
def test_an_error_names_the_source_of_a_value_once(option: str) -> None:
    """However many blocks are around it: `--from` opens one for the model and one for the settings."""
    options = GenerationOptions(**{option: "x"}, sources={option: "a.png"})
    with (
        pytest.raises(SanaError) as caught,
        options.naming_settings(),
        options.naming_settings(),
        options.naming_source_of(option),
    ):
        raise usage_error(f"cannot use --{option} 'x'", "")
    assert caught.value.message == f"cannot use --{option} 'x' ({option} is set by a.png)"
