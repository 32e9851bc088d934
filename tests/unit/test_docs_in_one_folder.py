"""A reader may type every page, line by line, in one folder: no command is stopped by another one's file, or lacks one."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "cli.md"),
]
READ_BY = ("--prompts", "--wildcards-folder", "--image", "--mask", "--control", "--from")
# Pictures that only the reader can have; the pages say so.
YOURS = {"photo.jpg", "room.png", "sofa.png", "sketch.png", "old.png", "webui.png"}


def commands(documents: Any, page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each line of the page's blocks with each of its commands."""
    for line in documents.in_blocks(page.read_text(encoding="utf-8")):
        for words in documents.sana_commands([line]) or [[]]:
            yield line, words


def written(words: list[str]) -> list[str]:
    """Names, as they are given, of files and folders that a command refuses to write where they exist."""
    if words[:1] == ["quantize"]:
        return [word for word in words[2:3] if word[0] != "-"]
    named = [after for word, after in pairwise(words) if word in ("-o", "--output")]
    free = {"--force", "--dry-run", "--prompts"} & set(words)  # a rerun of prompts continues
    return [name for name in named if "." in name and not free]


def read(words: list[str]) -> list[str]:
    """Names of files in the working folder that a command reads; `photo.jpg:0.7` is `photo.jpg`."""
    names = [after.partition(":")[0] for word, after in pairwise(words) if word in READ_BY]
    return [name for name in names if not name.isdecimal() and name[0] != "/" and name != "s3"]


def missing(documents: Any, page: Path) -> list[str]:
    """Files that a line reads and no earlier line of its page makes."""
    made, found = set(YOURS), []
    for line, words in commands(documents, page):
        for name in read(words):
            first = re.split(r"-|\.", name)[0]  # `lion-7.png` is one of `-o lion.png --count 4`
            if name not in made and f"{first}.png" not in made:
                found.append(f"{name}: {line}")
        made |= set(re.findall(r"(?:> *|mkdir )([^\s;]+)", line))
        made |= {after for word, after in pairwise(words) if word in ("-o", "--output")}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_makes_what_it_reads(documents: Any, page: Path) -> None:
    assert missing(documents, page) == []


FOR_GOOD = {"safety_model"}  # where files are


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_leaves_no_setting(documents: Any, page: Path) -> None:
    """It would change what the next pages draw."""
    left: set[str] = set()
    for _, words in commands(documents, page):
        if words[:2] == ["config", "set"]:
            left.add(words[2])
        elif words[:2] == ["config", "unset"]:
            left.discard(words[2])
    assert left <= FOR_GOOD


def test_what_is_missing_is_found(documents: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```\nsana generate --prompts p.txt -o x/\nprintf 'a cat' > p.txt\nsana generate --prompts p.txt\n```\n"
    )
    assert missing(documents, page) == ["p.txt: sana generate --prompts p.txt -o x/"]


def test_no_page_writes_the_file_of_another(documents: Any) -> None:
    """Nothing is overwritten without --force: a name that two commands give would stop the reader."""
    writers: dict[str, list[str]] = {}
    for page in PAGES:
        for _, words in commands(documents, page):
            for name in written(words):
                writers.setdefault(name, []).append(f"{page.name}: {shlex.join(words)}")
        for name in re.findall(r'\.save\("([^"{}]+)"\)', page.read_text(encoding="utf-8")):
            writers.setdefault(name, []).append(f"{page.name}: save")
    assert len(writers) > 20
    assert {name: by for name, by in writers.items() if len(by) > 1} == {}
