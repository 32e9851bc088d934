"""Commands that documents show: found in code blocks and in text."""

import re
import shlex
from pathlib import Path


def in_blocks(text: str) -> list[str]:
    """Lines for a shell: of blocks without a language, and behind the `$` of transcripts."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        line.removeprefix("$ ")
        for kind, block in blocks
        if kind in ("", "console")
        for line in block.splitlines()
        if not kind or line.startswith("$ ")
    ]


def inline(text: str) -> list[str]:
    return re.findall(r"`(sana [a-z][^`\n]*)`", text)


def sana_commands(lines: list[str]) -> list[list[str]]:
    """The words behind every `sana` that stands where a shell looks for a command."""
    found = []
    for line in lines:
        if "sana " not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words, command, redirected = list(lexer), list[str](), False
        for word in [*words, ";"]:
            if set(word) <= set("();&|"):
                while command and "=" in command[0]:
                    command = command[1:]
                if command and Path(command[0]).name == "sana":
                    found.append(command[1:])
                command = []
            elif set(word) <= set("<>"):
                redirected = True
            elif not redirected:
                command.append(word)
            else:
                redirected = False
    return found
