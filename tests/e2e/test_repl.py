"""`sana repl`: in a real terminal, and with lines from a pipe."""

import io
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.checkpoints.checkpoint import weight_headers
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.commands.repl_words import COMMANDS
from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings


def table(told: str) -> dict[str, str]:
    """What `/settings` shows, by its names; the last of several."""
    rows = (line.split(maxsplit=1) for line in told.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


class Slow(io.BytesIO):
    """Lines that come when they are asked for."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        super().__init__()
        self.lines = lines

    def __iter__(self) -> Any:
        return self.lines


@pytest.fixture
def lines(
    sana: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Pipe lines into a session in an empty folder, with the built-in model on the CPU."""
    monkeypatch.chdir(tmp_path)

    def run(text: str | Iterator[bytes], *options: object) -> Any:
        data = io.BytesIO(text.encode()) if isinstance(text, str) else Slow(text)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data))
        return sana("repl", "--device", "cpu", "--precision", "fp32", *options)

    return run


def test_lines_from_a_pipe(
    lines: Callable[..., Any], sana: Callable[..., Any], tmp_path: Path
) -> None:
    """Settings hold until they change, an error ends nothing, and parts are loaded once."""
    result = lines(
        "# not this one\n#1 cat\n\n/size 64x64\n/steps 2\n/seed 7\na cat\n/size 33x33\n"
        "/negative a dog\n/guidance 3\nan owl\n/steps default\n/seed default\n/steps\n"
    )
    assert result.code == ExitCode.USAGE, "that of the first failure"
    assert result.err.count("error: ") == 1
    assert result.err.count("lines that begin with # are comments") == 1
    assert "error: size 33x33 is not a multiple of 32\nhint: use 32x32" in result.err
    assert result.err.rstrip().endswith("seed a new one each time\nsteps 20")
    cat, owl = (read_settings(tmp_path / name) for name in ("a-cat-7.png", "an-owl-7.png"))
    assert (cat["size"], cat["steps"], cat["negative_prompt"]) == ("64x64", 2, "")
    assert (owl["size"], owl["guidance"], owl["negative_prompt"]) == ("64x64", 3, "a dog")
    _, second = (line for line in result.out.splitlines() if "seconds" in line)
    assert "load 0.0," in second, "text encoder, transformer and decoder are still there"
    alone = tmp_path / "alone.png"
    words = ("--size", "64x64", "--steps", 2, "--seed", 7, "--negative", "a dog", "--guidance", 3)
    assert sana("generate", "an owl", *words, "--precision", "fp32", "-o", alone).code == 0
    assert alone.read_bytes() == (tmp_path / "an-owl-7.png").read_bytes()


def test_words_that_mean_a_command(lines: Callable[..., Any], tmp_path: Path) -> None:
    asked = lines("help\n?\nexit\nan owl\n")
    assert (asked.code, asked.out) == (0, "")
    assert asked.err.count("Type what to draw.") == 2
    assert lines("Quit\nan owl\n").out == ""
    assert not list(tmp_path.glob("*owl*"))


def test_options_behind_a_prompt_hold_for_its_line(
    lines: Callable[..., Any], tmp_path: Path
) -> None:
    result = lines(
        "/size 64\n/steps 1\n/seed 7\na cat --seed 4 --cfg 3 --negative a dog, a bird\nan owl --count 2\n"
        "/seed random\n/again\n/seed last\n/info\n", "-q",
    )  # fmt: skip
    assert result.code == 0, result.err
    names = result.out.split()
    assert names[:3] == ["a-cat-4.png", "an-owl-7.png", "an-owl-8.png"]
    assert names[3].startswith("an-owl-")
    assert names[3] not in names[:3]
    cat, owl, again = (read_settings(tmp_path / name) for name in (names[0], names[1], names[3]))
    assert (cat["guidance"], cat["negative_prompt"]) == (3, "a dog, a bird")
    assert (owl["guidance"], owl["negative_prompt"]) != (3, "a dog, a bird")
    assert f"seed: {again['seed']}\n" in result.err


def test_a_session_begins_with_options(lines: Callable[..., Any], tmp_path: Path) -> None:
    result = lines(
        "a cat\n/seed random\n/count\n", "--steps", 1, "--seed", 3, "--size", 64, "-n", 2
    )
    assert result.code == 0, result.err
    assert sorted(p.name for p in tmp_path.glob("a-cat*.png")) == ["a-cat-3.png", "a-cat-4.png"]
    assert result.err.endswith("seed a new one each time\ncount 2\n")


def test_a_folder_that_is_written_with_a_slash_is_made(
    lines: Callable[..., Any], tmp_path: Path
) -> None:
    result = lines("a cat\n/output other/\na cat\n", "--steps", 1, "--size", 64, "-o", "new/")
    assert result.code == 0, result.err
    assert sorted(p.parent.name for p in tmp_path.glob("*/a-cat*.png")) == ["new", "other"]


def test_open_needs_a_viewer(
    lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = "/size 64\n/steps 1\na cat --seed 1\n/open\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    result = lines(drawn)
    assert result.code == ExitCode.ENVIRONMENT
    assert "cannot open a-cat-1.png: xdg-open is not here" in result.err


def test_only_schedulers_that_fit_are_offered(sana: Callable[..., Any]) -> None:
    from types import SimpleNamespace

    from sana_cli.commands.repl import _candidates

    offered = SimpleNamespace(schedulers=["flow-dpm", "flow-euler"])
    assert list(_candidates(offered, "/scheduler ")) == ["flow-dpm", "flow-euler", "default"]
    assert list(_candidates(offered, "/ag")) == ["/again"]
    assert list(_candidates(offered, "/seed l")) == ["last"]


def test_another_model(lines: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    small = "/size 64x64\n/steps 1\n"
    result = lines(
        f"{small}/seed 1\na cat\n/model {tiny_model}\na cat\n/model nowhere\n/model\n", "-q"
    )
    assert result.code == ExitCode.USAGE
    assert "unknown model 'nowhere'" in result.err
    assert result.err.rstrip().endswith(f"model {tiny_model.name}"), "it stays as it was"
    assert result.out.split() == ["a-cat-1.png", "a-cat-1-2.png"]
    models = [read_settings(tmp_path / name)["model"] for name in result.out.split()]
    assert models == ["builtin", tiny_model.name]


def test_quit_and_help(lines: Callable[..., Any]) -> None:
    result = lines("/help\n/settings\n/quit\nan owl\n")
    assert (result.code, result.out) == (0, "")
    listed = {line.split()[0] for line in result.err.splitlines() if line.startswith("  /")}
    assert listed == set(COMMANDS)
    shown = table(result.err)
    assert (shown["scheduler"], shown["pag"], shown["image"]) == ("flow-dpm", "0", "off")
    assert shown["upscale_strength"] == "0.35"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sise 64x64", "there is no command /sise, did you mean /size?"),
        ("/size big", "cannot read size 'big'"),
        ("/size 1:99", "cannot use aspect ratio '1:99'"),
        (
            "/steps many",
            "/steps cannot be 'many'\nhint: it should be a whole number from 1 to 1000",
        ),
        ("/seed -2", "/seed cannot be '-2'\nhint: it should be a whole number, last for that of"),
        ("/seed last", "no picture has been drawn yet"),
        ("/again", "no picture has been drawn yet"),
        ("/count 0", "/count cannot be '0'"),
        ("/help me", "/help takes no value, but was given 'me'"),
        ("/output nowhere", "no such folder: nowhere\nhint: create it"),
        ("/output in.png/{slug}-{seed}.png", "in.png is not a folder"),
        ("a cat --ar 16:9", "--ar is no option of a prompt here\nhint: known: --seed, --size"),
        (
            "a cat --seed",
            "--seed needs a value\nhint: write it after the option: a cat --seed N|last|random",
        ),
        ("a cat --no-enhance", "--no-enhance is no option of a prompt here"),
        ("a cat --size 33", "size 33x33 is not a multiple of 32"),
        ("--seed 4", "there is no prompt before the options"),
        ("/seed 99999999999999999999", "seed 999999999999... of 20 digits is out of range"),
        pytest.param(f"/seed {'9' * 5000}", "it should be a whole number", id="long seed"),
        ("/guidance -2", "a number from 0 to 100"),
        ("/pag 2:99", "/pag 2:99: there is no block 99"),
        ("/cache 2", "a number from 0 to 1"),
        ("/scheduler ddim", "should be one of flow-dpm, flow-euler, scm"),
        ("/scheduler scm", "scheduler scm does not fit builtin"),
        ("/image nowhere.png", "no such picture: nowhere.png"),
        ("/image in.png 1.5", "strength 1.5 is out of range"),
        ("/image in.png much", "it should be a file, and after it at most a number, its strength"),
        ("/image nowhere.png much", "no such picture: nowhere.png much"),
        (
            "/control in.png cany",
            "type: none, canny, lineart, hed, scribble, did you mean 'canny'?",
        ),
        (
            "/control 'in.png':0.5 bad",
            "it should be a file, and after it at most a type: none, canny",
        ),
        ("/control nowhere.png bad", "builtin has no ControlNet, which /control needs"),
        ("/image /", "/ is a folder"),
        ("/image a\0b.png", r"'a\x00b.png' cannot be a path"),
        ("/control nowhere.png lineart", "builtin has no ControlNet, which /control needs"),
        ("/control a\0b", r"'a\x00b' cannot be a path"),
        ("/wildcards maybe", "/wildcards cannot be 'maybe'\nhint: it should be on or off"),
        ("/lora a\0b", r"'a\x00b' cannot be a path"),
        ("/output a\0b", r"'a\x00b' cannot be a path"),
        ("/mask in.png", "/mask needs a picture\nhint: name it: /image FILE"),
        ("/lora nowhere.safetensors", "no such LoRA: nowhere.safetensors\nhint: /lora takes"),
        ("/lora in.png", "in.png is not a .safetensors file"),
        ("/lora wide.safetensors", "wide.safetensors does not fit: it changes"),
        ("/show maybe", "/show cannot be 'maybe'\nhint: it should be on or off or default"),
        ("/preview 3", "/preview cannot be '3'"),
        ("/output a.png", "pictures of a session cannot all be called a.png"),
        ("/output {index}.png", "pictures of a session cannot all be called {index}.png"),
        ("x" * 30_000, "a prompt of 30,000 characters is too long"),
    ],
    ids=lambda value: value[:20],
)
def test_lines_that_are_wrong(
    lines: Callable[..., Any], lora_files: Any, tmp_path: Path, line: str, message: str
) -> None:
    """Told before anything is loaded, and nothing changes."""
    Image.new("RGB", (64, 64)).save(tmp_path / "in.png")
    lora_files.write_lora(
        tmp_path / "wide.safetensors",
        lora_files.random_lora({"patch_embed.proj.weight": (7, 5, 1, 1)}),
    )
    result = lines(f"{line}\n/settings\n")
    assert result.code in (ExitCode.USAGE, ExitCode.CHECKPOINT)
    assert message in "\n".join(result.err.splitlines()[:2]), result.err
    told = dict(row.split(maxsplit=1) for row in result.err.splitlines()[2:])
    assert told["size"] == "256x256"
    assert (told["image"], told["mask"], told["lora"], told["show"]) == ("off",) * 4


def test_wildcards_are_chosen_as_by_the_command(
    lines: Callable[..., Any], sana: Callable[..., Any], tmp_path: Path
) -> None:
    """A template stays one for /again; without /wildcards braces are words."""
    result = lines(
        "/size 64x64\n/steps 1\n/wildcards on\n/seed 3\na {cat|dog|owl}\n/seed 4\n/again\n/wildcards off\n/wildcards\n"
    )
    assert result.code == 0, result.err
    assert "wildcards on" in result.err
    assert "wildcards off" in result.err
    drawn = sorted(tmp_path.glob("*.png"), key=lambda path: read_settings(path)["seed"])
    fast = (
        "--size",
        "64x64",
        "--steps",
        1,
        "--wildcards",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    )
    for seed, path in zip((3, 4), drawn, strict=True):
        alone = tmp_path / f"{seed}.png"
        done = sana("generate", "a {cat|dog|owl}", *fast, "--seed", seed, "-o", alone)
        assert done.code == 0, done.err
        assert path.read_bytes() == alone.read_bytes()
        assert read_settings(path)["template"] == "a {cat|dog|owl}"


def test_control_follows_as_with_the_command(
    sana: Callable[..., Any], pipelines: Any, lines: Callable[..., Any], tmp_path: Path
) -> None:
    model = pipelines.folder("controlnet")
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (20, 8, 40, 50))
    image.save(tmp_path / "my lines.png")
    said = "/control 'my lines.png':0.5 lineart\n/control\na fox\n/control off\na fox\n"
    result = lines(said, "-m", model, "--steps", 1, "--seed", 3)
    assert result.code == 0, result.err
    assert result.err.count("control my lines.png:0.5 lineart") == 2, "set, and shown"
    with_, without = sorted(
        (p for p in tmp_path.glob("*.png") if p.name != "my lines.png"),
        key=lambda path: "control" not in read_settings(path),
    )
    control = ("--control", tmp_path / "my lines.png:0.5", "--control-type", "lineart")
    usual = ("-m", model, "--steps", 1, "--seed", 3, "--device", "cpu", "--precision", "fp32")
    for path, words in ((with_, control), (without, ())):
        alone = tmp_path / "alone.png"
        done = sana("generate", "a fox", *usual, *words, "-o", alone, "--force")
        assert done.code == 0, done.err
        with Image.open(path) as one, Image.open(alone) as other:
            assert one.tobytes() == other.tobytes()


def test_pictures_and_loras(
    lines: Callable[..., Any], sana: Callable[..., Any], lora_files: Any, tmp_path: Path
) -> None:
    """As `sana generate` draws with the same options; names may have blanks and quotes."""
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "my noise.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 32))
    mask.save(tmp_path / "mask.png")
    headers = weight_headers(open_checkpoint("builtin"), "transformer")
    shapes = {name: shape for name, (_, shape) in headers.items()}
    for seed, name in enumerate(("one", "two")):
        halves = lora_files.random_lora(shapes, layers=("attn1.to_q", "ff.conv_point"), seed=seed)
        lora_files.write_lora(tmp_path / f"{name}.safetensors", halves)
    result = lines(
        "/steps 4\n/seed 7\n/image my noise.png 0.5\na cat\n/mask mask.png\na dog\n/image off\n/mask\n"
        "/lora two.safetensors\n/size 64x64\n/lora 'one.safetensors':9\n/lora one.safetensors:0.5\nan owl\n"
        "/lora off\na fox\n/image default\n/image 'my noise.png'\n/image\n"
    )
    assert result.code == 0, result.err
    assert "image my noise.png at strength 0.5\n" in result.err
    assert "image off\nmask off\nmask off\n" in result.err, "a mask is of a picture"
    assert "lora two.safetensors:1.0, one.safetensors:9.0\n" in result.err
    assert "lora two.safetensors:1.0, one.safetensors:0.5\n" in result.err
    assert result.err.endswith("image my noise.png at strength 0.6\n")
    image = ("--image", "my noise.png", "--strength", 0.5)
    loras = ("--lora", "two.safetensors", "--lora", "one.safetensors:0.5", "--size", "64x64")
    for prompt, options in (
        ("a cat", image),
        ("a dog", (*image, "--mask", "mask.png")),
        ("an owl", loras),
        ("a fox", ("--size", "64x64")),
    ):
        alone = tmp_path / "alone.png"
        words = ("--steps", 4, "--seed", 7, "--device", "cpu", "--precision", "fp32", "--force")
        assert sana("generate", prompt, *options, *words, "-o", alone).code == 0
        drawn = tmp_path / f"{prompt.replace(' ', '-')}-7.png"
        assert alone.read_bytes() == drawn.read_bytes(), prompt


def test_what_was_set_and_is_gone(lines: Callable[..., Any], tmp_path: Path) -> None:
    """A file that has gone is told with the prompt, settings are told all the same, and `off` still works."""
    picture = tmp_path / "in.png"
    Image.new("RGB", (64, 64)).save(picture)

    def text() -> Iterator[bytes]:
        yield b"/image in.png\n"
        picture.unlink()
        yield from (
            b"a cat\n",
            b"/steps 3\n",
            b"/settings\n",
            b"/image\n",
            b"/image off\n",
            b"/settings\n",
        )

    result = lines(text())
    assert result.code == ExitCode.USAGE
    assert result.err.count("error: no such picture: in.png") == 4
    assert re.search(r"^image +in\.png\nmask +off$", result.err, re.MULTILINE)
    assert "image in.png\nerror: no such picture: in.png" in result.err
    shown = table(result.err)
    assert (shown["pag"], shown["image"]) == ("0", "off")


def test_several_files_that_are_gone(
    lines: Callable[..., Any], lora_files: Any, tmp_path: Path
) -> None:
    """One can be let go after the other, though each is refused with the next one's name."""
    picture, lora = tmp_path / "in.png", tmp_path / "a.safetensors"
    Image.new("RGB", (64, 64)).save(picture)
    shapes = {name: s for name, (_, s) in weight_headers(open_checkpoint("builtin"), "transformer").items()}  # fmt: skip
    lora_files.write_lora(lora, lora_files.random_lora(shapes, layers=("attn1.to_q",)))

    def text() -> Iterator[bytes]:
        yield from (b"/image in.png\n", b"/lora a.safetensors\n")
        picture.unlink()
        lora.unlink()
        yield from (b"/steps 3\n", b"/image off\n", b"/lora off\n", b"/settings\n")

    result = lines(text())
    assert result.code == ExitCode.USAGE
    assert result.err.count("error: ") == 1, "that of /steps alone"
    assert "note: image off, but still: no such LoRA: a.safetensors" in result.err
    told = dict(row.split(maxsplit=1) for row in result.err.splitlines() if " " in row)
    assert (told["image"], told["lora"], told["steps"]) == ("off", "off", "20")


def test_nothing_to_show(lines: Callable[..., Any]) -> None:
    """In a pipe nothing is shown, and asking for it is told to be in vain."""
    result = lines("/show on\n/preview on\n/show\n/size 32x32\n/steps 1\na cat\n")
    assert result.code == 0
    assert "note: /show has no effect: this is no terminal" in result.err
    assert "note: /preview has no effect: this is no terminal" in result.err
    assert "/preview-file" not in result.err, "no command is called so"
    assert "show off\n" in result.err
    assert "\x1b" not in result.out + result.err
    refused = lines("/show on\n", "--quiet")
    assert (refused.code, "give /show or --quiet, not both" in refused.err) == (
        ExitCode.USAGE,
        True,
    )


def test_options_that_are_wrong(lines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for words, message in (
        (("-m", "builtim"), "did you mean builtin?"),
        (("-o", "a.png"), "cannot all be called a.png"),
        (("--max-memory", "much"), "cannot use 'much' as an amount of memory"),
    ):
        result = lines("a cat\n", *words)
        assert (result.code, result.out) == (ExitCode.USAGE, "")
        assert message in result.err
    monkeypatch.setenv("SANA_STEPS", "0")
    assert "SANA_STEPS is '0'" in lines("a cat\n").err


@pytest.fixture
def session(terminal: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a session in a terminal."""
    names = ("HF_HOME", "PYTHONPATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PATH")
    environment = {name: os.environ[name] for name in names if name in os.environ} | {
        "HOME": str(tmp_path), "TERM": "xterm", "LC_ALL": "C.UTF-8", "NO_COLOR": "1",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "sana_cli", "repl", "--device", "cpu", "--precision", "fp32"]
    opened = []

    def start(*options: str, answer: str = "\x1b[?6c") -> Any:
        started = terminal([*command, *options], environment=environment, folder=tmp_path)
        opened.append(started.pid)
        started.shows("\x1b[c")  # what can it do?
        started.type(answer)
        started.shows("to leave")
        started.shows("sana>")
        return started

    yield start
    for pid in opened:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_in_a_terminal(session: Callable[..., Any], tmp_path: Path) -> None:
    """Completion, a picture, Ctrl-C while one is drawn, history of an earlier sitting, Ctrl-D."""
    first = session()
    first.type("/st\t")
    first.shows("eps")
    first.type(" 2\r")
    first.shows("steps 2\r\n")
    first.type("/size 64x64\r")
    first.shows("size 64x64\r\n")
    first.type("/seed 3\ran owl\r")
    first.shows("an-owl-3.png")
    first.shows("sana>")
    first.type("/steps 1000\r")
    first.shows("steps 1000\r\n")
    first.type("a cat\r")
    first.shows("denoise")
    first.type("\x03")
    first.shows("interrupted")
    first.shows("sana>")
    first.type("half a line\x03")
    first.shows("sana>")
    first.type("/steps default\r")
    first.shows("steps 20\r\n")
    first.type("a dog\r")
    first.shows("a-dog-3.png")
    first.shows("sana>")
    first.type("\x04")
    assert first.end()[0] == 0
    assert sorted(p.name for p in tmp_path.glob("*.png*")) == ["a-dog-3.png", "an-owl-3.png"]

    kept = next(tmp_path.rglob("history"))
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    second = session()
    second.type("\x1b[A")  # the key Up
    second.shows("a dog")
    second.type("\x15/quit\r")
    assert second.end()[0] == 0


def test_signals_while_nothing_is_drawn(session: Callable[..., Any]) -> None:
    """They drop the line, however fast they come."""
    opened = session("--no-history")
    for gap in (0, 0.001, 0.003, 0.01, 0.03) * 3:
        for _ in range(2):
            os.kill(opened.pid, signal.SIGINT)
            time.sleep(gap)
        opened.shows("sana>")
    opened.type("/seed 5\r")
    shown = opened.shows("seed 5\r\n")
    opened.shows("sana>")
    opened.type("\x04")
    code, rest = opened.end()
    assert code == 0
    assert "Traceback" not in shown + rest


def test_without_history(session: Callable[..., Any], tmp_path: Path) -> None:
    opened = session("--no-history")
    opened.type("/seed 1\r")
    opened.shows("seed 1\r\n")
    opened.shows("sana>")
    opened.type("\x04")
    assert opened.end()[0] == 0
    assert not list(tmp_path.rglob("history"))


def test_pictures_in_a_terminal(
    session: Callable[..., Any], lora_files: Any, tmp_path: Path
) -> None:
    """Completion of files, previews and pictures as sixels, and none once they are turned off."""
    sixels = "\x1bP0;0;0q"
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "panda on a tree.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 32))
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks/top.png")
    (tmp_path / "panda.txt").touch()
    layers = open_checkpoint("builtin")
    shapes = {name: shape for name, (_, shape) in weight_headers(layers, "transformer").items()}
    halves = lora_files.random_lora(shapes, layers=("attn1.to_q",))
    lora_files.write_lora(tmp_path / "style.safetensors", halves)
    opened = session(answer="\x1b[6;20;10t\x1b[?62;4c")

    def completed(keys: str, shown: str) -> None:
        opened.type(f"{keys}\t")
        opened.shows(shown)

    def told(keys: str, expected: str) -> None:
        opened.type(f"{keys}\r")
        opened.shows(f"{expected}\r\n")
        opened.shows("sana>")

    told("/mask masks/top.png", "hint: name it: /image FILE")
    told("/image panda.txt", "copy or download it again")
    told("/lora panda.txt", "can run code when they are read")
    told("/show me", "it should be on or off or default")
    told("/preview 2", "it should be on or off or default")
    completed("/im", "age")
    completed(" pan", "da on a tree.png")
    told(" 0.5", "image panda on a tree.png at strength 0.5")
    completed("/mask mas", "ks/")
    completed("to", "p.png")
    told("", "mask masks/top.png")
    completed("/lora st", "yle.safetensors")
    told(":0.5", "lora style.safetensors:0.5")
    completed("/pre", "view")
    told(" on", "preview on")
    told("/steps 4", "steps 4")
    told("/seed 3", "seed 3")
    opened.type("a cat\r")
    before = opened.shows("a-cat-3.png")
    assert before.count(sixels) == 2, "steps of four that run at strength 0.5"
    assert opened.shows("sana>").count(sixels) == 1
    told("/show off", "show off")
    told("/preview off", "preview off")
    opened.type("a dog\r")
    assert sixels not in opened.shows("a-dog-3.png")
    assert sixels not in opened.shows("sana>")
    opened.type("\x04")
    assert opened.end()[0] == 0
    settings = read_settings(tmp_path / "a-dog-3.png")
    assert (settings["mask"], settings["strength"]) == ("masks/top.png", 0.5)
    assert settings["loras"] == ["style.safetensors:0.5"]
