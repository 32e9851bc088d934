"""What a user set: the environment before the file, and nothing that makes no sense."""

import os
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sana_cli.config import settings_file
from sana_cli.config.generation import GenerationOptions
from sana_cli.config.places import cache_folder, config_path, history_file, models_folder
from sana_cli.config.user_settings import (
    _NOT_SETTINGS,
    LARGEST_CONFIG,
    SETTINGS,
    UserSettings,
    preferences,
    variable,
)
from sana_cli.errors import ExitCode, SanaError
from sana_cli.text import shell_command


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANA_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path / "config.toml"


def test_precedence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preferences() == UserSettings()
    file.write_text('model = "sana-1.6b"\nsteps = 8\n')
    assert preferences().options.model == "sana-1.6b"
    assert preferences().sources == {"model": str(file), "steps": str(file)}
    monkeypatch.setenv("SANA_MODEL", "sprint-0.6b")
    assert preferences().options.model == "sprint-0.6b"
    assert preferences().sources == {"model": "SANA_MODEL", "steps": str(file)}
    monkeypatch.setenv("SANA_MODEL", "")
    assert preferences().options.model == "sana-1.6b", "an empty variable says nothing"


def test_every_setting_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "model": "m", "output": "out/", "steps": 3, "guidance": 2.5, "precision": "fp32", "device": "cpu",
        "backend": "native", "decode": "whole", "max_memory": "4GiB", "safety": True, "safety_model": "shield",
        "show": True, "preview": True, "quiet": True, "offline": False, "size": "512x640", "count": 2, "seed": 7,
        "negative": "dogs", "scheduler": "flow-euler", "enhance": False, "cache": 0.1, "plan": "stages",
        "format": "webp", "quality": 90, "wildcards": True, "wildcards_folder": "lists", "pag": "3",
        "decoder": "lite", "control_hed": "hed.pth", "remember": False, "upscale": 2.0, "upscale_strength": 0.4,
    }  # fmt: skip
    assert set(values) == set(SETTINGS)
    assert len({variable(key) for key in values} - set(_NOT_SETTINGS)) == len(values)
    for key, value in values.items():
        monkeypatch.setenv(variable(key), str(value))
    chosen = preferences()
    assert chosen.values == values
    options = chosen.options
    assert (options.model, options.guidance_scale, options.negative_prompt) == ("m", 2.5, "dogs")
    assert (options.width, options.height, options.count) == (512, 640, 2)
    assert (chosen.safety, chosen.offline) == (True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "not readable TOML"),
        ('modle = "x"', "unknown key 'modle', did you mean 'model'"),
        ("model = 3", "unusable value for 'model': 3"),
        ("max_memory = 4", "'max_memory': 4 should be a size with a unit, such as 4GiB"),
        ('max_memory = "4"', "'max_memory': '4' should be a size with a unit, such as 4GiB"),
        ('model = ""', "unusable value"),
        ("colour = 1", "unknown key 'colour'"),
        ("steps = 0", "should be a whole number from 1 to 1000"),
        ("steps = true", "should be a whole number"),
        ("steps = 2.5", "should be a whole number"),
        ("guidance = nan", "should be a number from 0 to 100"),
        ("upscale_strength = 0", "0 should be a number above 0, and at most 1"),
        ("upscale_strength = 1.5", "1.5 should be a number above 0, and at most 1"),
        ("upscale_strength = inf", "inf should be a number above 0"),
        ('pag = "x"', "'x' should be a scale from 0 to 100, or SCALE:LAYER"),
        ('pag = "2:5000"', "should be a scale from 0 to 100, or SCALE:LAYER"),
        ("pag = 2", 'such as "2" or "2:4"'),
        (
            'size = "100x100"',
            "'100x100' should be a size with sides of 32 to 16384 pixels in multiples of 32",
        ),
        ('size = "32000"', "'32000' should be a size with sides of 32 to 16384 pixels"),
        ('size = "9:1"', "or a shape such as 16:9"),
        (f'negative = "{"a" * 20_001}"', "should be a text of at most 20,000 characters"),
        ('device = "cdua"', "one of auto, cpu, cuda, mps, did you mean 'cuda'"),
        ('device = "gpu"', "one of auto, cpu, cuda, mps, did you mean 'cuda'"),
        ('scheduler = "DPM++"', "did you mean 'flow-dpm'"),
        ("quiet = 1", "should be true or false"),
        ("[generate]\nsteps = 3", "unknown key 'generate'"),
    ],
)
def test_unusable_file(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(SanaError, match=message) as caught:
        preferences()
    assert caught.value.code == ExitCode.USAGE
    assert str(file) in caught.value.message


@pytest.mark.parametrize(
    ("text", "key"), [("steps = 0", "steps"), ('modle = "x"', "modle"), ('"a key" = 3', "a key")]
)
def test_the_command_of_the_hint_mends_the_file(file: Path, text: str, key: str) -> None:
    file.write_text(text)
    with pytest.raises(SanaError) as caught:
        preferences()
    assert f"`{shell_command(('sana', 'config', 'unset', key))}`" in caught.value.hint
    assert settings_file.unset_value(key)
    assert preferences() == UserSettings()


def test_no_command_changes_one_value_of_a_file_that_is_no_toml(file: Path) -> None:
    """Reading and changing it are told the same, and neither names a command that cannot work."""
    file.write_text("steps = ")
    for call in (preferences, lambda: settings_file.unset_value("steps")):
        with pytest.raises(SanaError, match="is not readable TOML") as caught:
            call()
        assert caught.value.hint == "correct it with `sana config edit`, or remove the file"


def test_deep_file(file: Path) -> None:
    file.write_text("model = " + "[" * 100_000)
    with pytest.raises(SanaError, match="is not readable TOML"):
        preferences()


@pytest.mark.parametrize("kind", ["pipe", "folder", "circle of links", "too large"])
def test_settings_that_no_edit_can_mend(file: Path, kind: str) -> None:
    """The hint names another file: `sana config unset` could not write these either."""
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "circle of links":
        file.symlink_to(file)
    else:
        file.write_text("#" * (LARGEST_CONFIG + 1))
    with pytest.raises(SanaError, match="cannot be read") as caught:
        preferences()
    assert (caught.value.code, str(file) in caught.value.message) == (ExitCode.ENVIRONMENT, True)
    assert caught.value.hint.startswith("set SANA_CONFIG to a regular file")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("variable", ["SANA_CONFIG", "XDG_CONFIG_HOME", "HOME"])
def test_folders_above_the_settings_that_are_none(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is set where no file can be; a circle of links is told, with the variable that leads into it."""
    for name in ("SANA_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    file, circle = tmp_path / "file", tmp_path / "circle"
    file.touch()
    circle.symlink_to(circle)
    inside = "/config.toml" if variable == "SANA_CONFIG" else ""
    monkeypatch.setenv(variable, f"{file}{inside}")
    assert preferences() == UserSettings()
    monkeypatch.setenv(variable, f"{circle}{inside}")
    with pytest.raises(SanaError, match="cannot be read: Too many levels") as caught:
        preferences()
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert variable in caught.value.hint


@pytest.mark.parametrize("variable", ["SANA_CONFIG", "SANA_CACHE", "SANA_MODELS", "SANA_HISTORY"])
def test_home_of_nobody(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "~nobody-of-this-name/x")
    place = {
        "SANA_CONFIG": config_path, "SANA_CACHE": cache_folder, "SANA_MODELS": models_folder,
        "SANA_HISTORY": history_file,
    }  # fmt: skip
    with pytest.raises(SanaError, match="no such home folder") as caught:
        place[variable]()
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_platform_folder() -> None:
    assert config_path().parts[-2:] == ("sana", "config.toml")


def test_what_is_said_together_is_overridden_together() -> None:
    """A typed shape replaces a whole size, a typed tile the way to decode."""
    below = GenerationOptions(width=64, height=96, bins=True, decode="whole", steps=3)
    above = GenerationOptions(aspect="16:9", tile=256, seed=0).over(below)
    assert (above.width, above.height, above.aspect, above.bins) == (None, None, "16:9", None)
    assert (above.decode, above.tile) == (None, 256)
    assert (above.steps, above.seed) == (3, 0)


def test_the_source_of_a_value_follows_it() -> None:
    sources = {"steps": "SANA_STEPS", "device": "a file"}
    set_before = UserSettings.of({"steps": 3, "device": "cpu"}, sources).options
    both = GenerationOptions(steps=5).over(set_before)
    with pytest.raises(SanaError) as caught, both.naming_source_of("steps", "device"):
        raise SanaError("no")
    assert caught.value.message == "no (device is set by a file)"


def test_settings_of_several_processes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads the file, changes it and writes it: none may lose what another has set."""
    monkeypatch.setenv("SANA_CONFIG", str(tmp_path / "config.toml"))
    keys = [f"k{i}" for i in range(12)]
    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(lambda key: settings_file.set_value(key, 1), keys))
    assert sorted(tomllib.loads((tmp_path / "config.toml").read_text())) == sorted(keys)
    with ThreadPoolExecutor(len(keys)) as pool:
        assert all(pool.map(settings_file.unset_value, keys))
    assert (tmp_path / "config.toml").read_text().strip() == ""


@pytest.mark.parametrize("typed", [None, True, False])
def test_a_check_that_a_setting_asks_for_says_so(
    monkeypatch: pytest.MonkeyPatch, typed: bool | None
) -> None:
    monkeypatch.setenv("SANA_SAFETY", "true")
    chosen = preferences()
    assert chosen.is_checked(typed) is (typed is not False)
    assert chosen.check_source(typed) == ("SANA_SAFETY" if typed is None else "")
