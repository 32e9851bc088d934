"""Files that hold no prompts in a form that is read are refused by name: none of their lines is drawn as words."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.prompt_file import read_prompt_file


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("mimetype", "application/vnd.oasis.opendocument.text")
    return file.getvalue()


API = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 5}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {}},
}
PAGE = {"nodes": [{"type": "CLIPTextEncode", "widgets_values": ["a cat"]}], "links": []}
REFUSED = {
    "office document": ("p.odt", archive(), "an archive or an office document"),
    "old office document": ("p.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an office document"),
    "gzip": ("p.jsonl.gz", gzip.compress(b'{"prompt": "a cat"}'), "a gzip archive"),
    "parquet": ("p", b"PAR1" + bytes(9) + b"PAR1", "a Parquet file"),
    "picture": ("p.txt", b"\x89PNG\r\n\x1a\n", "a picture"),
    "web page": ("p.txt", "<ul><li>a cat</li></ul>", "a web page"),
    "program": ("p", 'PROMPTS = ["a cat"]', "a line of a program"),
    "program by its name": ("p.py", "def draw(): ...", "a program"),
    "variable": ("p.env", 'PROMPT="a cat"', "a line of a program"),
    "commands": ("p", 'sana generate "a cat"\nsana generate "an owl"', "a list of commands"),
    "other commands": ("p.txt", "python sample.py --prompt 'a cat'", "a list of commands"),
    "options of one letter": ("p.txt", '-p "a cat" -s 3', "write --prompt"),
    "settings": ("p.txt", "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler, Seed: 3", "AUTOMATIC1111"),
    "settings alone": ("p.txt", "a cat\nSteps: 20, Sampler: Euler", "AUTOMATIC1111"),
    "subtitles": ("p.txt", "1\n00:00:01,000 --> 00:00:02,000\na cat", "a file of subtitles"),
    "workflow": ("p.json", json.dumps(API), "a workflow of ComfyUI"),
    "workflow of the page": ("p", json.dumps(PAGE, indent=1), "a workflow of ComfyUI"),
}  # fmt: skip


def written(folder: Path, name: str, content: bytes | str) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("kind", REFUSED)
def test_other_formats_are_named(tmp_path: Path, kind: str) -> None:
    name, content, what = REFUSED[kind]
    with pytest.raises(SanaError) as caught:
        read_prompt_file(written(tmp_path, name, content))
    assert caught.value.code == ExitCode.USAGE
    assert what in caught.value.message
    assert "which is not read" in caught.value.message
    assert "one prompt a line" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        (
            "p.txt",
            "python in the grass\nsana, a word\nsd card on a table",
            3,
        ),  # words, not commands
        ("p.txt", "a cat\r\nan owl\r\n\x1a", 2),  # DOS ends a file so
        ("p.txt", "\u200b\na cat\n\ufeff\n\u2060 \n", 1),  # lines that nobody sees
        ("p.txt", "\U0001f469\u200d\U0001f680", 1),
        ("p.csv", "sep=;\r\nprompt;seed\r\na cat;3\r\n", 1),  # Excel
        ("p.md", "| prompt | name |\n|:---|---:|\n| a cat | x |", 1),
        ("p.csv", "\ufeffPrompt;Seed\r\na cat;3\r\nan owl;4\r\n", 2),
    ],
)
def test_what_looks_like_another_format_is_read(
    tmp_path: Path, name: str, content: str, prompts: int
) -> None:
    found = read_prompt_file(written(tmp_path, name, content))
    assert (len(found.lines), found.problems) == (prompts, ())


@pytest.mark.parametrize("key", ["caption", "text", "Description"])
def test_a_key_of_data_sets_is_suggested(tmp_path: Path, key: str) -> None:
    with pytest.raises(SanaError, match=f"did you mean that by '{key}'"):
        read_prompt_file(written(tmp_path, "p.jsonl", json.dumps({key: "a cat"})))
