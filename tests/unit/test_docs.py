"""Documents say what is so: their commands parse, their links lead somewhere, and their error messages are ours."""

import ast
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from sana_cli.cli import app
from sana_cli.commands import verbs
from sana_cli.terminal.help_groups import EXAMPLES, FIRST_STEPS, GROUPS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [path for path in DOCUMENTS if path.name != "cli.md"]  # that one is generated
UsageError: Any = typer.BadParameter.__mro__[1]
NOT_OURS = {"Killed"}  # what a shell says


def parse(words: list[str]) -> None:
    """As `sana` itself would, up to calling the command; raises for what it would refuse."""
    command: Any = typer.main.get_command(app)
    name, context = "sana", None
    while True:
        context = command.make_context(name, list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        words = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, words)


def complaint(words: list[str]) -> str:
    try:
        parse(words)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_commands_parse(documents: Any, document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    commands = documents.sana_commands(documents.in_blocks(text))
    if document.name in ("README.md", "recipes.md", "safety.md", "memory.md"):
        assert len(commands) >= 3
    for words in commands:
        assert complaint(words) == "", words
    for words in documents.sana_commands(documents.inline(text)):
        # Text may name a command without what it needs.
        assert re.match(r"$|Missing |.* requires an argument", complaint(words)), words


def test_what_is_found_in_a_document(documents: Any) -> None:
    text = '`sana info x`\n```\nA=1 .venv/bin/sana pull "a b" | tee > f && sana models # no\n```\n'
    assert documents.sana_commands(documents.inline(text)) == [["info", "x"]]
    assert documents.sana_commands(documents.in_blocks(text)) == [["pull", "a b"], ["models"]]
    assert "--stesp" in complaint(["generate", "x", "--stesp", "3"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (document.parent / target.partition("#")[0]).exists(), target


# Files and folders of the source. What sana writes (`manifest.json`) is not among them.
OF_SOURCE = re.compile(
    r"[\w/.-]+\.py|(?:[a-z_]+/)+|benchmarks/results/[\w.-]+\.\w+|\w+(?:-\w+)*\.md"
)
WRITTEN_BY_SANA = {"prompts/", "pictures/", "benchmarks/results/busy.json"}
# Modules that docs/architecture.md announces; remove each once it is there.


def missing_files(text: str, files: list[str]) -> list[str]:
    """List names in inline code that are the end of no file's path, or no folder on it."""
    words = re.findall(r"`([^`\s]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    named = {word for word in words if OF_SOURCE.fullmatch(word)} - WRITTEN_BY_SANA
    return [
        name for name in sorted(named)
        if not any(f"/{file}".endswith(f"/{name}") or (name[-1] == "/" and f"/{name}" in f"/{file}") for file in files)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name
)
def test_files_that_are_named_exist(document: Path) -> None:
    tops = ("sana_cli", "quant", "calibration", "benchmarks", "training", "tests", "docs")
    files = [
        path.relative_to(ROOT).as_posix() for top in tops for path in (ROOT / top).rglob("*.*")
    ]
    files += [path.name for path in ROOT.glob("*.md")]
    assert missing_files(document.read_text(encoding="utf-8"), files) == []


def test_missing_files_are_found() -> None:
    files = ["sana_cli/memory/plans.py", "docs/memory.md"]
    text = "`memory/plans.py` `plans.py` `sana_cli/memory/` `memory/` `memory.md` `manifest.json` `a.py x`"
    assert missing_files(text, files) == []
    assert missing_files("`memory/choose.py` `engine/` `lans.py`", files) == [
        "engine/",
        "lans.py",
        "memory/choose.py",
    ]


def test_examples_draw_well_with_the_default_model() -> None:
    """The built-in one draws known things, without a colour word, best."""
    from sana_cli.checkpoints.opening import open_checkpoint

    own = open_checkpoint("builtin").own
    prompts = [
        shlex.split(command)[2] for command, _ in (*EXAMPLES["generate"], *FIRST_STEPS)
        if "--model" not in command and 'generate "' in command
    ]  # fmt: skip
    assert len(prompts) > 2
    for prompt in prompts:
        assert own.knows_any_thing(prompt), prompt
        assert not own.colours_in_vain(prompt), prompt


def test_help_is_whole(sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in sana("--help").out.partition("Commands:")[2]


@pytest.mark.parametrize("name", GROUPS)
def test_help_lists_each_option_once_in_a_group(
    name: str, sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = sana(name, "--help").out
    listed = re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown, re.MULTILINE)
    params = {str(param.name): param for param in verbs.command(name).params}
    wanted = {max(param.opts, key=len) for param in params.values() if "-" in param.opts[0]}
    assert sorted(listed) == sorted(wanted | {"--help"}), "each once"
    grouped = [each for names in GROUPS[name].values() for each in names]
    assert sorted(set(grouped)) == sorted(grouped)
    assert set(params) - set(grouped) <= {"offline", "yes"}, "options that no group names"
    assert set(grouped) <= set(params), "groups name options that are gone"
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", verbs.VERBS)
def test_help_speaks_of_values_not_of_types(name: str, sana: Callable[..., Any]) -> None:
    for shown in (sana(name, "--help").out, *_help_of_parts(name, sana)):
        assert "int>" not in shown
        assert "float>" not in shown
        assert "{" not in shown.partition("\n")[0], "a required argument in braces"


def _help_of_parts(name: str, sana: Callable[..., Any]) -> list[str]:
    parts = getattr(verbs.command(name), "commands", {})
    return [sana(name, part, "--help").out for part in parts]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_help_parse(
    name: str, sana: Callable[..., Any], documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = sana(name, "--help").out.partition("Examples:")[2].splitlines()
    # What an example means stands after two spaces.
    lines = [line.strip().partition("  ")[0] for line in shown]
    examples = documents.sana_commands(lines)
    assert len(examples) == len(EXAMPLES[name])
    assert [complaint(words) for words in examples] == [""] * len(examples)
    assert max(map(len, shown)) <= 80


def test_sana_alone_shows_three_lines(sana: Callable[..., Any], documents: Any) -> None:
    alone = sana()
    assert alone.code == 0
    assert len(alone.out.splitlines()) == 3
    lines = [line.strip().partition("  ")[0] for line in alone.out.splitlines()]
    assert [complaint(words) for words in documents.sana_commands(lines[:2])] == [""] * 2
    assert sana(*lines[2].split()[1:]).out.startswith("Usage: sana")


def messages() -> str:
    """Every text in the source; "\\0" where a value is put in, and between two of them a line end."""
    found = []
    for path in [*(ROOT / "sana_cli").rglob("*.py"), *(ROOT / "calibration").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_troubleshooting_quotes_real_messages() -> None:
    headings = re.findall(
        r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE
    )
    assert len(headings) > 30
    source = messages()
    for heading in headings:
        for fragment in heading.split("..."):
            for words in fragment.strip(" :,;").split(", "):  # a message may be put together
                assert heading in NOT_OURS or words in source, f"{words!r} of {heading!r}"
