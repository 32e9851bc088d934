"""`sana generate --prompts`: many pictures of one loaded model, resumed, shared between processes, and named."""

import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.cli import main
from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings
from sana_cli.pipeline.batch import _lock_of, claim
from tests.forked import Forked, forked_sana
from tests.pictures import names

SMALL = ("--size", "32x32", "--steps", "1", "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_lines_of_text(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(
        "\ufeffa red fox\n\n# not this one\n  two frogs  \na red fox\n", encoding="utf-8"
    )
    words = ("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL, "--json")
    drawn = sana(*words).told("drawn")
    assert names(out) == ["1-a-red-fox.png", "2-two-frogs.png", "3-a-red-fox.png"]
    assert [image["line"] for image in drawn] == [1, 4, 5]
    assert [image["settings"]["prompt"] for image in drawn] == [
        "a red fox", "two frogs", "a red fox",
    ]  # fmt: skip
    seeds = [image["seed"] for image in drawn]
    assert len(set(seeds)) == 3, "a prompt that is there twice is drawn in two ways"
    loads = [image["seconds"]["load"] for image in drawn]
    assert loads[0] > 0
    assert loads[1:] == [0, 0], "the model is loaded once"
    again = sana(*words).documents
    assert {image["status"] for image in again} == {"done"}
    same = ("path", "index", "line", "seed", "width", "height", "settings")
    assert [[i[key] for key in same] for i in again] == [[i[key] for key in same] for i in drawn]


def test_pictures_of_another_model_of_the_same_name_stay(
    sana: Callable[..., Any],
    tiny_model: Path,
    quantized: Callable[..., Path],
    tmp_path: Path,
    out: Path,
) -> None:
    folder, file = tmp_path / "small", tmp_path / "prompts.txt"
    file.write_text("a red fox\n")
    words = ("generate", "--prompts", file, "-m", folder, "-o", out, *SMALL)
    shutil.copytree(tiny_model, folder)
    assert sana(*words).code == 0
    shutil.rmtree(folder)
    shutil.copytree(quantized("w8a8"), folder)
    result = sana(*words)
    assert result.code == 0, result.err
    assert names(out) == ["1-a-red-fox-2.png", "1-a-red-fox.png"]


def test_lines_of_json(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    """A line wins over the command line, which fills in what it does not say."""
    file = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": "a", "seed": 5, "steps": 2, "guidance": 1, "size": "64x32"},
        {"prompt": "b", "negative": "c", "width": 32, "height": 64},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    words = (
        "generate",
        "--prompts",
        file,
        "-m",
        tiny_model,
        "-o",
        out,
        *SMALL,
        "--seed",
        9,
        "--count",
        2,
    )
    result = sana(*words, "--json")
    assert result.code == 0, result.err
    found = [image["settings"] for image in result.told("drawn")]
    assert [(s["prompt"], s["seed"], s["steps"], s["guidance"], s["size"]) for s in found] == [
        ("a", 5, 2, 1, "64x32"), ("a", 6, 2, 1, "64x32"),
        ("b", 9, 1, 4.5, "32x64"), ("b", 10, 1, 4.5, "32x64"),
    ]  # fmt: skip
    assert found[2]["negative_prompt"] == "c"
    assert names(out) == ["1-a-5.png", "2-a-6.png", "3-b-9.png", "4-b-10.png"]
    alone = out / "alone.png"
    options = ("-m", tiny_model, "--size", "32x64", *SMALL[2:], "--seed", 10, "--negative", "c")
    assert sana("generate", "b", *options, "-o", alone).code == 0
    assert alone.read_bytes() == (out / "4-b-10.png").read_bytes(), (
        "a batch draws what one call draws"
    )


def test_standard_input(
    sana: Callable[..., Any], tiny_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, name in (("a fox\n", "1-a-fox.png"), ('{"prompt": "a cat"}\n', "1-a-cat.png")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        result = sana("generate", "--prompts", "-", "-m", tiny_model, "-o", out, *SMALL, "--quiet")
        assert (result.code, result.out.strip()) == (0, str(out / name))


def test_a_batch_that_is_killed_half_way(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    out: Path,
    at_stage: Callable[..., Any],
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"picture number {i}" for i in range(20)))
    words = ["generate", "--prompts", file, "-m", tiny_model, *SMALL, "--quiet"]

    def work() -> int:
        def kill_half_way() -> None:
            if len(list(out.glob("*.png"))) >= 10:
                os.kill(os.getpid(), signal.SIGKILL)

        with at_stage("denoise", kill_half_way):
            return main([*map(str, words), "-o", str(out)])

    process = Forked(work)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    _lock_of(out / min(before)).touch()  # as if it had been killed a little later
    assert 10 <= len(before) < 20

    result = sana(*words, "-o", out, "--json")
    assert result.code == 0, result.err
    assert len(result.told("drawn")) == 20 - len(before)
    assert len(result.told("done")) == len(before)
    whole = tmp_path / "whole"
    whole.mkdir()
    assert sana(*words, "-o", whole).code == 0
    left = {name for name in names(out) if not name.endswith(".tmp")}  # they go after a minute
    assert left == set(names(whole)), "pictures, and neither locks nor latents"
    assert len(names(whole)) == 20
    for name in names(whole):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())


def test_two_processes_share_the_work(tiny_model: Path, tmp_path: Path, out: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"picture number {i}" for i in range(12)))
    words = (
        "generate",
        "--prompts",
        file,
        "-m",
        tiny_model,
        *SMALL,
        "--quiet",
        "-o",
        out,
        "--json",
    )
    processes = [forked_sana(*words) for _ in range(2)]
    drawn = []
    for process in processes:
        stdout, stderr = process.communicate()
        assert (process.returncode, stderr) == (0, "")
        told = [json.loads(line) for line in stdout.splitlines()]
        drawn += [image["path"] for image in told if image["status"] == "drawn"]
    assert len(drawn) == len(set(drawn)) == 12, "each was drawn by one of them"
    assert len(names(out)) == 12, "and nothing else is left"


def test_a_picture_that_another_process_never_finished(
    tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    """It is left out while the other draws it, and drawn when the other has gone without it."""
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\nthree\n")
    words = ("generate", "--prompts", file, "-m", tiny_model, *SMALL, "--quiet", "-o", out)
    with claim(out / "1-one.png", 0):
        process = forked_sana(*words)
        drawn = [Path(process.stdout.readline().strip()).name for _ in range(2)]
        assert drawn == ["2-two.png", "3-three.png"]
        assert not (out / "1-one.png").exists()
    rest, _ = process.communicate()
    assert (process.returncode, Path(rest.strip()).name) == (0, "1-one.png")
    assert names(out) == ["1-one.png", "2-two.png", "3-three.png"]


def test_what_is_in_the_way_is_told_before_any_work(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a\nb\n")
    words = ("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL, "--seed", 1)
    (out / "2-b.png").write_bytes(b"somebody's picture")
    result = sana(*words)
    assert result.code == ExitCode.USAGE
    assert "2-b.png is another picture" in result.err
    assert names(out) == ["2-b.png"]
    assert sana(*words, "--force").code == 0
    assert read_settings(out / "2-b.png")["prompt"] == "b"


@pytest.mark.parametrize(
    "change", [("--guidance", 2), ("--steps", 2), ("edit the line",)], ids=lambda change: change[0]
)
def test_changed_settings_are_drawn_next_to_the_earlier_pictures(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    out: Path,
    change: tuple[object, ...],
) -> None:
    """In a line and for all lines alike: nothing is replaced, and a rerun draws nothing."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    words = ("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL)
    assert sana(*words, "--seed", 1).code == 0
    before = (out / "1-a.png").read_bytes()
    if len(change) == 1:
        file.write_text('{"prompt": "a", "seed": 2}\n')
        change = ()
    for told in ("name belongs to other pictures, which stay", "1 of 1 pictures are done"):
        result = sana(*words, "--seed", 1, *change)
        assert (result.code, told in result.err) == (0, True), result.err
    assert names(out) == ["1-a-2.png", "1-a.png"]
    assert (out / "1-a.png").read_bytes() == before
    one = sana(*words[:-2], "-o", out / "1-a.png", "--size", 32, "--seed", 3)
    assert (one.code, "1-a.png is another picture" in one.err) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "\n# nothing\n", "holds no prompts"),
        ("p.jsonl", "a fox", "line 1 is not JSON"),
        ("p.jsonl", '\n{"promt": "a"}', 'line 2 is no object with a "prompt"'),
        ("p.jsonl", '{"prompt": "a", "stesp": 3}', "unknown key 'stesp', did you mean 'steps'"),
        ("p.jsonl", '{"prompt": "a", "steps": "3"}', "unusable 'steps': '3'"),
        ("p.jsonl", '{"prompt": "a", "steps": true}', "unusable 'steps'"),
        ("p.jsonl", '{"prompt": "a", "size": "big"}', "unreadable size 'big'"),
        ("p.jsonl", '{"prompt": "a", "size": "32x32", "width": 32}', "a size twice"),
        ("p.jsonl", '{"prompt": "a", "scheduler": "ddim"}', "unknown scheduler 'ddim'"),
        ("p.jsonl", '\n{"prompt": "a", "size": "33x32"}', "line 2: size 33x32"),
        ("p.txt", "\n" + "b" * 30_000, "line 2: a prompt of 30,000 characters"),
    ],
)  # fmt: skip
def test_lines_that_are_wrong(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path, name: str, text: str, message: str
) -> None:  # fmt: skip
    (tmp_path / name).write_text(text)
    result = sana("generate", "--prompts", tmp_path / name, "-m", tiny_model, "-o", out)
    assert result.code == ExitCode.USAGE
    assert message in result.err
    assert names(out) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is no prompt"),
        (("--prompts", "nowhere.txt"), "cannot read nowhere.txt: No such file"),
        (("--prompts", "p.txt", "a fox"), "give --prompts or PROMPT, not both"),
        (("--prompts", "p.txt", "--from", "a.png"), "give --prompts or --from, not both"),
        (("--prompts", "p.txt", "-o", "a.png"), "2 pictures cannot all be called a.png"),
        (
            ("--prompts", "p.txt", "-o", "{slug}-{sede}.png"),
            "no field {sede}, did you mean {seed}?",
        ),
        (
            ("--prompts", "p.txt", "-o", "{slug}.png", "--count", "2"),
            "has 2 names for 4 pictures",
        ),
        (("--prompts", "p.txt", "-o", "{index.png"), "--output {index.png"),
        (("--prompts", "p.txt", "-o", "{index!x}.png"), "--output {index!x}.png"),
        (("--prompts", "p.txt", "-o", "{index.real}.png"), "no field {index.real}"),
        (("--prompts", "p.txt", "-o", "p.txt/{index}.png"), "p.txt is not a folder"),
    ],
)
def test_misuse(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, words: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("a\nb\n")
    result = sana("generate", *words, "-m", tiny_model, *SMALL)
    assert result.code == ExitCode.USAGE, result
    assert message in result.err
    assert names(tmp_path) == ["p.txt"]


def test_patterns(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path) -> None:
    """For one prompt as for many; a folder with braces in its name is a folder."""
    words = ("generate", "A fox!", "-m", tiny_model, *SMALL, "--seed", 7, "--count", 2)
    assert sana(*words, "-o", f"{out}/{{slug}}_{{seed:04}}_{{index}}.png").code == 0
    assert names(out) == ["a-fox_0007_1.png", "a-fox_0008_2.png"]
    braces = tmp_path / "{seed}"
    braces.mkdir()
    assert sana(*words, "-o", braces).code == 0
    assert names(braces) == ["a-fox-7.png", "a-fox-8.png"]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(map(str, range(10))))
    batch = ("generate", "--prompts", file, "-m", tiny_model, *SMALL, "-o", braces)
    assert sana(*batch).code == 0
    assert names(braces)[:2] == ["01-0.png", "02-1.png"]


def test_a_bad_line_does_not_stop_the_others(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    """It is told before any work, and in the end by the exit code."""
    file = tmp_path / "p.txt"
    file.write_text(
        '{"prompt": "a", "id": "x"}\n{"prompt": "b", "size": "33x32", "id": "y"}\n{"prompt": "c", "stesp": 1}\n'
        '{"prompt": "d"}\n'
    )
    result = sana("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL, "--json")
    assert result.code == ExitCode.USAGE
    assert names(out) == ["1-a.png", "4-d.png"]
    assert "(and 1 more line)" in result.err
    errors, drawn = result.told("error"), result.told("drawn")
    assert [(each["line"], each["id"]) for each in errors] == [(2, "y"), (3, None)]
    assert errors[0]["error"]["code"] == ExitCode.USAGE
    assert "size 33x32 is not a multiple of 32" in errors[0]["error"]["message"]
    assert errors[0]["error"]["hint"]
    assert [(each["index"], each["line"], each["id"]) for each in drawn] == [
        (1, 1, "x"),
        (4, 4, None),
    ]
    assert [each["version"] for each in result.documents] == [1] * len(result.documents)
    file.write_text(file.read_text().replace("33x32", "32x32").replace("stesp", "steps"))
    again = sana("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL, "--json")
    assert (again.code, len(again.told("drawn"))) == (0, 2), "the numbers of the others stay"


def test_a_file_without_a_line_that_can_be_drawn(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    """Programs get each line's error all the same, in a forecast too."""
    file = tmp_path / "p.txt"
    words = ("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL, "--json")
    for line in (
        '{"prompt": "a", "steps": 0}',
        '{"prompt": "a", "stesp": 1}',
    ):  # by the model, and by the file alone
        file.write_text(f'{line}\n{{"prompt": "b", "stesp": 1, "id": "y"}}\n')
        drawn, planned = sana(*words), sana(*words, "--dry-run")
        told = [(each["line"], each["id"]) for each in drawn.told("error")]
        assert (drawn.code, planned.code, told) == (2, 2, [(1, None), (2, "y")])
        assert drawn.documents[-1]["error"]["message"].endswith("(and 1 more line)")
        assert [each["line"] for each in planned.documents[0]["errors"]] == [1, 2]
        assert planned.documents[0]["to_draw"] == 0


def test_a_batch_that_grows(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    """A tenth line gives all names another zero, an inserted one other numbers; neither draws the others again."""
    file, lines = tmp_path / "p.txt", [f"line {letter}" for letter in "abcdefghi"]
    words = ("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL, "--json")
    for drawn in (9, 1, 1):
        file.write_text("\n".join(lines))
        assert len(sana(*words).told("drawn")) == drawn
        lines.insert(0, f"new {len(lines)}")
    assert len(names(out)) == 11


def test_ids_in_names(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    file = tmp_path / "p.jsonl"
    ids = ["cat/01", "../up", "42", "हिन्दी"]
    file.write_text("\n".join(json.dumps({"prompt": "a", "id": each}) for each in ids))
    words = ("generate", "--prompts", file, "-m", tiny_model, *SMALL, "--json")
    result = sana(*words, "-o", out / "{id}.png")
    assert names(out) == ["42.png", "cat-01.png", "up.png", "हिन्दी.png"]
    assert [told["id"] for told in result.told("drawn")] == ids
    file.write_text('{"prompt": "a"}')
    result = sana(*words, "-o", out / "{id}.png")
    assert (
        result.code,
        "picture 1 has no id\nhint: use {index} or {slug}" in result.err,
    ) == (ExitCode.USAGE, True)
    assert (
        sana("generate", "a", "-m", tiny_model, *SMALL, "-o", out / "{id}.png").code
        == ExitCode.USAGE
    )


@pytest.mark.parametrize("many", [True, False])
def test_a_folder_that_is_written_with_a_slash_is_made(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, many: bool
) -> None:
    file = tmp_path / "p.txt"
    file.write_text("a fox\nan owl\n")
    asked = ("--prompts", file) if many else ("a fox", "--count", 2)
    words = ("generate", *asked, "-m", tiny_model, *SMALL, "--grid")
    result = sana(*words, "--dry-run", "-o", f"{tmp_path}/new/inner/")
    assert (result.code, (tmp_path / "new").exists()) == (0, False), result.err
    assert sana(*words, "-o", f"{tmp_path}/new/inner/").code == 0
    assert len(names(tmp_path / "new/inner")) == 3
    assert sana(*words, "-o", f"{tmp_path}/p.txt/").code == ExitCode.USAGE
    result = sana(*words, "-o", f"{tmp_path}/p.txt/inner/")
    assert (result.code, "is no folder" in result.err) == (ExitCode.ENVIRONMENT, True)


def test_a_dry_run_counts(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    file = tmp_path / "p.txt"
    file.write_text("a\nb\n")
    words = ("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL)
    assert sana(*words).code == 0
    file.write_text('a\nb\n{"prompt": "c", "size": "64x64"}\nd\n')
    told = sana(*words, "--dry-run")
    assert told.code == 0
    assert told.out.startswith("4 pictures, 2 done, 2 to draw\nthe largest:\n")
    document = sana(*words, "--dry-run", "--json").document
    assert (document["pictures"], document["done"], document["to_draw"]) == (4, 2, 2)
    assert (document["largest"]["size"], document["largest"]["count"]) == ("64x64", 2)
    assert document["version"] == 1
    assert len(names(out)) == 2
    file.write_text('a\n{"prompt": "c", "size": "65x64"}\n')
    result = sana(*words, "--dry-run", "--json")
    assert result.code == ExitCode.USAGE
    assert [each["line"] for each in result.documents[0]["errors"]] == [2]


def test_an_interrupted_batch_tells_how_many_are_done(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    out: Path,
    before_computing: Callable[..., Any],
) -> None:
    file = tmp_path / "p.txt"
    file.write_text("a\nb\nc\n")
    words = ("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL)
    for done in (1, 2):

        def interrupt(done: int = done) -> None:
            if len(list(out.glob("*.png"))) == done:
                raise KeyboardInterrupt

        with before_computing("denoise", interrupt):
            result = sana(*words, "--json")
        assert result.code == ExitCode.INTERRUPTED
        assert (
            f"error: interrupted: {done} of 3 pictures are done\nhint: the same command"
            in result.err
        )
        assert [i["index"] for i in result.documents if "index" in i][-1] == done


def test_a_killed_batch_has_told_what_it_drew(tiny_model: Path, tmp_path: Path, out: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("\n".join(map(str, range(200))))
    words = ["generate", "--prompts", file, "-m", tiny_model, *SMALL, "-o", out, "--json"]
    process = forked_sana(*words)
    told = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    told += process.communicate()[0].splitlines()
    drawn = [Path(each["path"]) for each in map(json.loads, told) if each.get("status") == "drawn"]
    assert 3 <= len(drawn) < 200
    assert set(drawn) <= set(out.glob("*.png"))
    assert len(list(out.glob("*.png"))) - len(drawn) <= 1, "one may be saved and not told yet"


def test_words_of_other_programs_are_noted_once(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, out: Path
) -> None:
    file = tmp_path / "p.txt"
    file.write_text("a <lora:x:1> cat\na (red:1.3) cat\na cat (16:9)\n#1 cat\n")
    batch = sana("generate", "--prompts", file, "-m", tiny_model, "-o", out, *SMALL)
    single = sana("generate", "a (red:1.3) cat", "-m", tiny_model, "-o", f"{out}/x/", *SMALL)
    for result, shown in ((batch, "<lora:x:1>, (red:1.3); --lora"), (single, "(red:1.3)")):
        notes = [line for line in result.err.splitlines() if "as plain words" in line]
        assert [shown in note for note in notes] == [True]
    assert "1 line of" in batch.err
    assert len(batch.out.splitlines()) == 3, "a line a picture"
