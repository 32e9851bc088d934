"""Find what is meant as more than words in a prompt: other programs' instructions, and names of files. No torch."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from shlex import quote

_SYNTAX = (
    r"<(?:lora|lyco|hypernet|embedding):[^<>]*>",
    r"\([^()]+:\s*(?:\d?\.\d+|[0-2])\s*\)",  # emphasis: (word:1.3)
    r"\[[^\[\]:]*:[^\[\]:]*:\s*\d*\.?\d+\s*\]",  # a change on the way: [cat:dog:0.5]
    r"\{[^{}|]+\|[^{}]+\}",  # one of several: {red|blue}
    r"\{prompt\}",  # where a style puts the prompt
    r"\(\([^()]+\)+",  # more emphasis: ((word))
    r"\([^()]+\)[+-]+",  # and (a word)++
    r"\S+::-?\d*\.?\d+",  # and word::2
    r"\bembedding:[\w.-]+",
    r"__[\w/-]+__",  # a line of a file: __animals__
    r"(?<=\s)(?:BREAK|AND)(?=\s)(?![^a-z]*$)",  # parts of a prompt; in capitals throughout they are words
    r"^(?:[-*\u2022]|\d+[.)])\s",  # an item of a list
    r"(?<=\s)--[a-z][\w-]*(?:\s+[\d.:]+)?",  # an option within the text
)
_ANY = re.compile("|".join(_SYNTAX))
_SHOWN = 3


def tell_foreign_syntax(prompts: Iterable[str], plain: Collection[str] = ()) -> str | None:
    """Return one notice for all prompts, with some examples; None if they are words alone.

    Of the prompts in `plain` the user said that choices are words.
    """
    prompts = list(prompts)
    if len(prompts) == 1 and (mistaken := _mistaken(prompts[0])):
        return mistaken
    found: dict[str, None] = {}
    for prompt in prompts:
        said = (match[0] for match in _ANY.finditer(prompt))
        found |= dict.fromkeys(m for m in said if prompt not in plain or not _is_choice(m))
        if len(found) > _SHOWN:
            break
    if not found:
        return None
    shown = ", ".join(list(found)[:_SHOWN])
    choices = any(map(_is_choice, found))
    wildcards = "; --wildcards chooses among {a|b} and __name__" if choices else ""
    lora = "; --lora FILE:SCALE uses a LoRA" if any(each.startswith("<") for each in found) else ""
    return (
        f"drawn as plain words, since sana has no such syntax in prompts: {shown}{wildcards}{lora}"
    )


def _is_choice(text: str) -> bool:
    return text.startswith("__") or (text.startswith("{") and "|" in text)


def _mistaken(prompt: str) -> str:
    """Return a notice for a prompt that was probably meant to be a command's word or a file, else ""."""
    if prompt.strip().lower() in ("help", "?", "usage", "options"):
        return f"{prompt!r} is drawn as a prompt; the options: sana generate --help"
    name = prompt.removeprefix("@")
    path = Path(name)
    if " " in name or not path.suffix or not _is_file(path):
        return ""
    option = "--from" if path.suffix.lower() == ".png" else "--prompts"
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        option = "PROMPT --image"
    return f"{prompt!r} is drawn as a prompt; to use the file: sana generate {option} {quote(name)}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
