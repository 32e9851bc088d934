"""Files of prompts in every form that people have them, and what is said of those that cannot be read."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from sana_cli.config.generation import FIELDS
from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.prompt_file import PromptFile, read_prompt_file

OBJECTS = '{"prompt": "a cat", "seed": 1}\n{"prompt": "an owl", "seed": 2}\n'
ARRAY = json.dumps([{"prompt": "a cat", "seed": 1}, {"prompt": "an owl", "seed": 2}])
COMMAS = 'Prompt,Seed\na cat,1\n"an owl",2\n'
OPTIONS = '--prompt "a cat" --seed 1\n--seed=2 --prompt an owl\n'


def read(folder: Path, content: str | bytes, name: str = "p.txt") -> PromptFile:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_prompt_file(str(folder / name))


def said(found: PromptFile) -> list[dict[str, Any]]:
    """What the lines say, by the words that users have for it."""
    return [
        {
            field.word: value
            for field in FIELDS.values()
            if (value := getattr(line.options, field.name)) is not None
        }
        for line in found.lines
    ]


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.ndjson", "p.json", "p.prompts", "p"])
@pytest.mark.parametrize(
    "content",
    [
        OBJECTS,
        OBJECTS.replace("\n", "\r\n"),
        OBJECTS.replace("\n", "\r"),
        ARRAY,
        json.dumps(json.loads(ARRAY), indent=2),
        json.dumps({"prompts": json.loads(ARRAY)}),
        json.dumps({str(n): value for n, value in enumerate(json.loads(ARRAY))}),
        f"\ufeff\n# mine\n{OBJECTS}",
        OBJECTS.encode("utf-16"),
    ],
    ids=["lines", "crlf", "cr", "array", "indented", "prompts", "by id", "comment", "utf-16"],
)
def test_json_under_any_name(tmp_path: Path, content: str | bytes, name: str) -> None:
    expected = [{"prompt": "a cat", "seed": 1}, {"prompt": "an owl", "seed": 2}]
    assert said(read(tmp_path, content, name)) == expected


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_by_their_column(tmp_path: Path, delimiter: str, name: str) -> None:
    found = read(tmp_path, COMMAS.replace(",", delimiter), name)
    assert said(found) == [{"prompt": "a cat", "seed": 1}, {"prompt": "an owl", "seed": 2}]
    assert [str(line.place) for line in found.lines] == ["line 2", "line 3"]


def test_a_table_of_one_column(tmp_path: Path) -> None:
    assert said(read(tmp_path, "prompt\na cat\n", "p.csv")) == [{"prompt": "a cat"}]


def test_cells_of_tables(tmp_path: Path) -> None:
    """Quoted commas and line ends belong to the cell, empty cells say nothing, switches are words."""
    text = 'id,prompt,Negative Prompt,steps,enhance,category\n7,"a cat,\nasleep",dog,3.0,no,x\n\n8,an owl,,,,\n'
    found = read(tmp_path, text, "p.csv")
    assert said(found) == [
        {"prompt": "a cat,\nasleep", "negative": "dog", "steps": 3, "enhance": False},
        {"prompt": "an owl"},
    ]
    assert [line.id for line in found.lines] == ["7", "8"]
    assert [str(line.place) for line in found.lines] == ["line 2", "line 5"]
    assert ["category" in notice for notice in found.notices] == [True]
    quotes = read(tmp_path, 'Prompt\tNote\n"Stop" on a sign\tx\n', "p.tsv")
    assert said(quotes) == [{"prompt": '"Stop" on a sign'}]


def test_lines_of_options(tmp_path: Path) -> None:
    found = read(tmp_path, OPTIONS)
    assert said(found) == [{"prompt": "a cat", "seed": 1}, {"prompt": "an owl", "seed": 2}]
    line = '--prompt a "big" cat --negative_prompt "a dog" --cfg_scale 7 --seed -1 --size 64x32 --no-enhance --tiling'
    found = read(tmp_path, f"{line}\nplain words\n")
    assert said(found) == [
        {"prompt": "a big cat", "negative": "a dog", "guidance": 7, "width": 64, "height": 32, "enhance": False},
        {"prompt": "plain words"},
    ]  # fmt: skip
    assert ["tiling" in notice for notice in found.notices] == [True]


@pytest.mark.parametrize(
    "prompt",
    [
        "{red|blue} cat", "[cat] in a hat", "[[cat]]", "a prompt, a note", "- a cat", "-- a cat",
        "a cat --ar 16:9", "a cat\u2028on a mat", "a cat\x85on a mat", "a cat\x0con a mat", '"a cat"', "猫",
    ],
)  # fmt: skip
def test_what_stays_words(tmp_path: Path, prompt: str) -> None:
    assert said(read(tmp_path, f"{prompt}\nan owl\n")) == [{"prompt": prompt}, {"prompt": "an owl"}]


def test_null_is_not_said(tmp_path: Path) -> None:
    found = read(
        tmp_path, '{"prompt": "a cat", "seed": null, "negative": null, "size": null, "id": null}'
    )
    assert said(found) == [{"prompt": "a cat"}]
    assert found.lines[0].id is None


def test_whole_numbers_as_data_frames_write_them(tmp_path: Path) -> None:
    assert said(read(tmp_path, '{"prompt": "a", "seed": 3.0, "steps": 4.0, "guidance": 2}')) == [
        {"prompt": "a", "seed": 3, "steps": 4, "guidance": 2}
    ]


@pytest.mark.parametrize(
    "key", ["tag", "include", "category", "image_id", "prompt_id", "class", "style"]
)
def test_keys_of_others_are_noted_once(tmp_path: Path, key: str) -> None:
    line = json.dumps({"prompt": "a cat", key: [1]})
    found = read(tmp_path, f"{line}\n{line}\n")
    assert len(found.lines) == 2
    assert len(found.notices) == 1
    assert key in found.notices[0]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("stesp", "steps"),
        ("seeds", "seed"),
        ("images", "image"),
        ("Guidence", "guidance"),
        ("loras", "lora"),
    ],
)
def test_keys_that_resemble_ours_are_refused(tmp_path: Path, key: str, meant: str) -> None:
    with pytest.raises(SanaError, match=f"unknown key '{key}', did you mean '{meant}'"):
        read(tmp_path, json.dumps({"prompt": "a cat", key: 1}))
    with pytest.raises(SanaError, match=f"unknown key '{key}', did you mean '{meant}'"):
        read(tmp_path, f"prompt\t{key}\na cat\t1\n")


@pytest.mark.parametrize("key", ["model", "count", "output", "max_memory"])
def test_options_of_the_whole_batch_are_no_keys(tmp_path: Path, key: str) -> None:
    option = key.replace("_", "-")
    with pytest.raises(SanaError, match=f"'{key}', which holds for all pictures: give --{option}"):
        read(tmp_path, json.dumps({"prompt": "a cat", key: "x"}))


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "p.txt", "holds no prompts"),
        ("[]", "p.txt", "holds no prompts"),
        ("# only\n", "p.txt", "holds no prompts"),
        ("prompt\tnote\n", "p.tsv", "holds no prompts"),
        ("words\na cat\n", "p.csv", "no column `prompt`"),
        ('"prompt","note"\n"a cat', "p.csv", "no readable|not a readable"),
        ("prompt,note\na cat, asleep,x\n", "p.csv", "line 2 has 3 columns"),
        ('[{"prompt": "a cat"},]', "p.txt", "is not JSON"),
        ("['a cat', 'an owl']", "p.txt", "is not JSON"),
        ('{\n  "prompt": "a cat",\n}\n', "p.txt", "is not JSON: .*line 3"),
        ("{'prompt': 'a cat'}", "p.txt", "line 1 is not JSON"),
        ("a cat", "p.json", "is not JSON"),
        ('"a cat"', "p.json", "is JSON, but neither a list nor an object"),
        ("5", "p.json", "is JSON, but neither a list nor an object"),
        ("a cat", "p.jsonl", "line 1 is not JSON"),
        ('{"prompt": "a", "guidance": NaN}', "p.txt", "is not JSON"),
        ('{"prompt": "a"' + "[" * 100_000, "p.txt", "is not JSON"),
        ('{"prompt": "a", "steps": true}', "p.txt", "unusable 'steps'"),
        ('{"prompt": "a", "negative": "\\u0000"}', "p.txt", "'negative' that is not valid text"),
        ('{"prompt": "\\ud83d"}', "p.txt", "'prompt' that is not valid text"),
        ('{"prompt": "a", "id": ""}', "p.txt", "an id of 0 characters"),
        ('[{"prompt": "a"}, 7]'.replace('{"prompt": "a"}', "6"), "p.json", "item 1 is no object"),
        ('--prompt "a cat', "p.txt", "line 1 is no line of options"),
        ("--prompt a --steps many", "p.txt", "unusable 'steps': 'many'"),
        ("--steps 3", "p.txt", "has no prompt"),
        (b"a\0cat\n", "p.txt", "holds NUL characters"),
        (b"caf\xe9\n", "p.txt", "it is not UTF-8 text"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: str | bytes, name: str, message: str) -> None:
    with pytest.raises(SanaError, match=message) as caught:
        read(tmp_path, content, name)
    assert caught.value.code == ExitCode.USAGE


def test_a_bad_line_does_not_hide_the_others(tmp_path: Path) -> None:
    found = read(tmp_path, '{"prompt": "a"}\n{"promt": "b", "id": 7}\n{"prompt": "c"}\nnonsense\n')
    assert [line.options.prompt for line in found.lines] == ["a", "c"]
    assert [str(problem.place) for problem in found.problems] == ["line 2", "line 4"]
    assert found.problems[0].id == "7"
    with pytest.raises(
        SanaError, match=r"line 2 is no object with a .prompt., did you mean that by 'promt'"
    ):
        _ = found.only_lines


def test_ids_name_one_line_each(tmp_path: Path) -> None:
    found = read(
        tmp_path, '{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}\n{"prompt": "c"}\n'
    )
    assert [line.id for line in found.lines] == ["1", None]
    assert "line 2 has the id of line 1" in found.problems[0].error.message


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("an owl\n")
    (tmp_path / "a.txt").write_text("a cat\n")
    (tmp_path / "c.jsonl").write_text('{"prompt": "a dog"}\n{"prompt": "a cow", "id": "cow"}\n')
    (tmp_path / "picture.png").write_bytes(b"x")
    (tmp_path / ".hidden.txt").write_text("no\n")
    (tmp_path / "inner").mkdir()
    found = read_prompt_file(str(tmp_path))
    assert [line.options.prompt for line in found.lines] == ["a cat", "an owl", "a dog", "a cow"]
    assert [line.id for line in found.lines] == ["a", "b", None, "cow"]
    assert str(found.lines[3].place) == "c.jsonl, line 2"
    names, folders = found.notices
    assert names == f"1 file in {tmp_path} holds no prompts by its name: picture.png"
    assert folders == f"folders in {tmp_path} are not read: inner/"
    (tmp_path / "d.txt").write_bytes(b"caf\xe9")
    with pytest.raises(SanaError, match=r"cannot read .*d.txt: it is not UTF-8"):
        read_prompt_file(str(tmp_path))


def test_a_file_without_end(tmp_path: Path) -> None:
    with (tmp_path / "p.txt").open("wb") as file:
        file.truncate(2**31)  # a hole: it takes no space
    with pytest.raises(SanaError, match="it is larger than 256 MiB"):
        read_prompt_file(str(tmp_path / "p.txt"))


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SanaError, match="cannot read standard input: it is closed"):
        read_prompt_file("-")


def test_comments_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, "#1 best cat\n#selfie of an owl\na cat\n")
    assert said(found) == [{"prompt": "a cat"}]
    assert found.notices == (
        f"2 lines of {tmp_path / 'p.txt'} begin with # and are not drawn: #1 best cat, #selfie of an owl",
    )


@pytest.mark.parametrize(
    "content",
    ["prompt\n" + "x" * 140_000, "\t" * 140_000 + "y" * 140_000, 'prompt\ta\n"' + "z" * 140_000],
)
def test_a_cell_without_end(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.tsv"
    path.write_text(content)
    with pytest.raises(SanaError):
        read_prompt_file(str(path))


def test_a_pipe_that_nothing_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It looks like a program that hangs, so it is said; what comes later is read all the same."""
    pipe = tmp_path / "p"
    os.mkfifo(pipe)
    late = threading.Timer(1.9, pipe.write_text, ["a cat\n"])
    late.start()
    assert [line.options.prompt for line in read_prompt_file(str(pipe)).lines] == ["a cat"]
    assert capsys.readouterr().err == f"note: waiting for prompts from {pipe}; Ctrl-C ends it\n"
    late.join()
    threading.Timer(0.0, pipe.write_text, ["an owl\n"]).start()
    assert len(read_prompt_file(str(pipe)).lines) == 1
    assert not capsys.readouterr().err
