"""docs/json.md describes the documents that `--json` prints: the page is compared with real ones."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs/json.md"


def section(title: str) -> tuple[set[str], set[str]]:
    """The keys that a document always has, and those that it may have, as paths."""
    page = re.sub(r"\n###? ", "\n## ", PAGE.read_text(encoding="utf-8"))
    text = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    always, perhaps = {"version"}, set()
    for keys, meaning in re.findall(r"^\| (`.*?) \| (.*) \|$", text, re.MULTILINE):
        (perhaps if meaning.startswith("*if*") else always).update(re.findall(r"`([^`]+)`", keys))
    return always, perhaps


def paths(value: Any, known: set[str], path: str = "") -> Iterator[str]:
    """Every key of a document, down to what the page describes; lists as [], free names as NAME."""
    if isinstance(value, list) and any(key.startswith(f"{path}[]") for key in known):
        for each in value:
            yield from paths(each, known, f"{path}[]")
        return
    below = [key for key in known if key.startswith(f"{path}.")] if path else ["."]
    if not isinstance(value, dict) or not below:
        yield path
        return
    if path in known:
        yield path
    free = any(key.startswith(f"{path}.NAME.") for key in known)
    for key, each in value.items():
        name = "NAME" if free else key
        yield from paths(each, known, f"{path}.{name}" if path else name)


def compare(title: str, document: dict[str, Any]) -> None:
    always, perhaps = section(title)
    found = set(paths(document, always | perhaps))
    assert document["version"] == 1
    assert found - always - perhaps == set(), "on the page"
    # Of an object that is null nothing is found below it.
    empty = {key for key in found if key in always and is_null(document, key)}
    missing = {key for key in always - found if not any(key.startswith(f"{e}.") for e in empty)}
    assert missing == set(), "in the document"


def is_null(document: dict[str, Any], path: str) -> bool:
    return "." not in path and document.get(path) is None


@pytest.fixture(scope="module")
def picture(sana: Callable[..., Any], pipelines: Any, tmp_path_factory: Any) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("json") / "a.png"
    words = ("-m", pipelines.folder("plain"), "--size", 64, "--steps", 1, "-o", path, "--json")
    return path, sana("generate", "a cat", *words).document


@pytest.fixture(scope="module")
def folder(sana: Callable[..., Any], pipelines: Any, tmp_path_factory: Any) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("json") / "q"
    words = (pipelines.folder("plain"), path, "--samples", 0, "--quiet", "--json")
    return path, sana("quantize", *words).document


def test_generate(picture: tuple[Path, Any]) -> None:
    compare("`sana generate`", picture[1])


def test_a_file_of_prompts(sana: Callable[..., Any], pipelines: Any, tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text('a cat\n{"prompt": "an owl", "size": "1x1"}\n{"prompt": "a dog", "id": "x"}\n')
    words = (
        "generate",
        "--prompts",
        file,
        "-m",
        pipelines.folder("plain"),
        "--steps",
        1,
        "--size",
        64,
    )
    plan = sana(*words, "-o", tmp_path, "--json", "--dry-run").documents[0]
    compare("`sana generate --prompts --dry-run`", plan)
    compare("`sana generate --dry-run`", {"version": 1, "dry_run": True, **plan["largest"]})
    for status, title in (
        ("drawn", "A picture that is drawn"),
        ("done", "A picture that was there before"),
    ):
        result = sana(*words, "-o", tmp_path, "--grid", "--json")
        for document in result.told(status):
            compare(title, document)
        compare("A line that is not drawn", result.told("error")[0])
        compare("The sheet of `--grid`", result.told("grid")[0])
        compare("An error", result.documents[-1])
        assert len(result.documents) == 5


def test_quantize(folder: tuple[Path, Any]) -> None:
    compare("`sana quantize`", folder[1])


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("An error", ("info", "nowhere")),
        ("`sana info MODEL`", ("info", "builtin")),
        ("`sana info MODEL`", ("info", "sana-0.6b")),
        ("`sana models`", ("models",)),
        ("`sana config show`", ("config", "show")),
        ("`sana config get`", ("config", "get", "steps")),
        ("`sana generate --dry-run`", ("generate", "a cat", "--dry-run")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_document(sana: Callable[..., Any], title: str, words: tuple[str, ...]) -> None:
    compare(title, sana(*words, "--json").document)


def test_info(
    sana: Callable[..., Any], picture: tuple[Path, Any], folder: tuple[Path, Any]
) -> None:
    compare("`sana info PICTURE`", sana("info", picture[0], "--json").document)
    compare("`sana info FOLDER`", sana("info", picture[0].parent, "--json").document)
    compare("`sana history`", sana("history", "--json").document)
    compare("`sana info MODEL`", sana("info", folder[0], "--json").document)


def test_compare(sana: Callable[..., Any], picture: tuple[Path, Any], pipelines: Any) -> None:
    model = pipelines.folder("plain")
    words = ("--size", "64x64", "--steps", 1, "-p", "a cat", "-o", picture[0].with_name("b.png"))
    compare("`sana compare`", sana("compare", model, model, *words, "--json").document)


def test_doctor(
    examined: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "none"))
    document = examined("versions", "settings", "disk", "models", json=True).document
    compare("`sana doctor`", document)
    facts = {finding["topic"]: finding["facts"] for finding in document["findings"]}
    assert facts["disk"]["free_bytes"] > 0
    assert facts["models"]["total_bytes"] == 0


@pytest.mark.parametrize("extra", [{"surprise": 1}, {"error": {"code": 1}}])
def test_the_comparison_finds_what_is_wrong(extra: dict[str, Any]) -> None:
    whole = {"version": 1, "error": {"code": 1, "message": "", "hint": ""}}
    compare("An error", whole)
    with pytest.raises(AssertionError):
        compare("An error", whole | extra)
