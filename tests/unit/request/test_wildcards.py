"""Alternatives and wildcards: the grammar, its errors, and choices that are the same everywhere."""

import contextlib
import random
import time
from pathlib import Path

import pytest

from sana_cli.errors import ExitCode, SanaError
from sana_cli.request.wildcards import MOST_CHARACTERS, expand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "animals": "cat\n# no animal\n\n  dog  \n3::fox\n", "colours/warm": "red\n{light|dark} orange\n",
        "colours/cold": "blue\n", "itself": "x __itself__\n", "twice": "__twice__ __twice__\n", "empty": "# nothing\n",
        "scene": "a __colours/*__ __animals__\n", "broken": "{a\n",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def results(template: str, folder: Path | None = None, seeds: int = 300) -> set[str]:
    return {expand(template, seed, folder) for seed in range(seeds)}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a fox", {"a fox"}),
        ("{a|b}", {"a", "b"}),
        ("x {a|} y", {"x a y", "x  y"}),
        ("{a|{b|c}}", {"a", "b", "c"}),
        ("{2$$a|b|c}", {"a, b", "b, a", "a, c", "c, a", "b, c", "c, b"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$+$$a|b}", {"a", "b", "a+b", "b+a"}),
        ("{2-$$+$$a|b}", {"a+b", "b+a"}),
        ("{-1$$a|b}", {"", "a", "b"}),
        ("{5$$+$$a|b}", {"a+b", "b+a"}),
        ("{2$$ | $$a|b}", {"a | b", "b | a"}),
        ("{0::a|b}", {"b"}),
        ("{0::a|0::b}", {"a", "b"}),
        (r"\{a|b\} \\ \| \__x\__", {r"{a|b} \ | __x__"}),
        (r"{a\|b|c\}}", {"a|b", "c}"}),
        ("50 % of $5 # no comment, a_b __ c____", {"50 % of $5 # no comment, a_b __ c____"}),
        ("(word:1.3) [a:b:0.5] <lora:x:1> C:\\dir", {"(word:1.3) [a:b:0.5] <lora:x:1> C:\\dir"}),
        ("狐 {犬|猫}", {"狐 犬", "狐 猫"}),
    ],
)  # fmt: skip
def test_alternatives(template: str, expected: set[str]) -> None:
    assert results(template) == expected


def test_weights() -> None:
    drawn = [expand("{3::a|b}", seed, None) for seed in range(2000)]
    assert 0.70 < drawn.count("a") / len(drawn) < 0.80


def test_wildcards(folder: Path) -> None:
    assert results("__animals__", folder) == {"cat", "dog", "fox"}
    assert results("__colours/cold__", folder) == {"blue"}
    assert results("__colours/*__", folder) == {"red", "light orange", "dark orange", "blue"}
    assert results("{a|the} __ANIMALS__", folder) == {
        f"{a} {b}" for a in ("a", "the") for b in ("cat", "dog", "fox")
    }
    assert len(results("__scene__", folder)) == 12


def test_choices_are_the_same_on_every_machine(folder: Path) -> None:
    """Recorded; another result would draw other pictures than before."""
    found = [
        expand("a {red|green|blue} __animals__, {2$$day|dusk|night}", seed, folder)
        for seed in (1, 2, 2**64 - 1)
    ]
    assert found == RECORDED


RECORDED = ["a blue fox, night, dusk", "a green fox, day, night", "a green fox, day, dusk"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{a", "the brace at character 1 has no partner: {a"),
        ("ab}", "the brace at character 3 has no partner: }"),
        ("{a|{b}", "the brace at character 1 has no partner"),
        ("${x}", "knows no variables"),
        ("__animal__", "there is no wildcard __animal__ in .*, did you mean __animals__"),
        ("__itself__", "nested more than 60 deep"),
        ("__twice__", "nested more than 60 deep"),
        ("__empty__", "has no lines to choose from"),
        ("__broken__", "__broken__: the brace at character 1"),
        ("{" * 70 + "a" + "}" * 70, "nested more than 60 deep"),
        ("{a|b}" * 3000, "more than 2,000 choices"),
    ],
    ids=lambda text: text[:30],
)
def test_errors(folder: Path, template: str, message: str) -> None:
    with pytest.raises(SanaError, match=message) as caught:
        expand(template, 1, folder)
    assert caught.value.code == ExitCode.USAGE
    assert caught.value.hint


def test_without_a_folder(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "none"):
        with pytest.raises(SanaError, match="__x__ cannot be looked up"):
            expand("__x__", 1, folder)


def test_no_file_outside_of_the_folder(folder: Path) -> None:
    (folder / "in").mkdir()
    with pytest.raises(SanaError, match="there is no wildcard"):
        expand("__a/../../animals__", 1, folder / "in")
    for name in ("../animals", "./animals", "/etc/passwd"):
        assert expand(f"__{name}__", 1, folder / "in") == f"__{name}__", "plain text"


def test_texts_that_grow(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * 1500)
    with pytest.raises(SanaError, match=f"more than {MOST_CHARACTERS:,} characters"):
        expand("__long__" * 20, 1, tmp_path)


def test_odd_templates_end(folder: Path) -> None:
    """400 made of the grammar's own pieces: each becomes a text or one clear error, at once."""
    chance = random.Random(5)
    pieces = [
        "{", "}", "|", "$$", "2$$", "1-3$$", "::", "0.5::", "__", "__animals__", "__scene__", "__*__", "\\", "$", "${", "a",
        " and ", "-", "999999999999", "狐", "\n", "#", "_", "__itself__", "%{", "{a|b}", "{{a|b}|c}",
    ]  # fmt: skip
    texts = 0
    for _ in range(400):
        template = "".join(chance.choices(pieces, k=chance.randint(1, 25)))
        start = time.process_time()
        with contextlib.suppress(SanaError):
            assert len(expand(template, chance.randrange(2**64), folder)) <= MOST_CHARACTERS
            texts += 1
        assert time.process_time() - start < 5, template
    assert texts > 20


def test_as_dynamicprompts_does() -> None:
    """What its users write becomes one of the same texts. It joins with a comma alone where blanks are missing."""
    pytest.importorskip(
        "dynamicprompts", reason="dynamicprompts is not installed: pip install dynamicprompts"
    )
    from dynamicprompts.generators import CombinatorialPromptGenerator

    for template in (
        "a {red|green} fox",
        "{2$$ and $$a|b|c}",
        "{a|{b|c} d}",
        "{2$$, $$x|y}",
        "{1-2$$+$$a|b}",
    ):
        theirs = set(CombinatorialPromptGenerator().generate(template, 50))
        assert results(template) >= theirs, template
