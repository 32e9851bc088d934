"""Read options after a prompt of `sana repl`, as contact sheets caption pictures: `a cat --seed 4`."""

import re

from sana_cli.errors import ExitCode, SanaError

_OPTION = re.compile(r"(?:^|\s)--([a-z][a-z-]*)(?:[ =]|$)")


class OptionError(SanaError):
    """An error about an option after a prompt, which is written with dashes, not as a command."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint=hint, code=ExitCode.USAGE)


def split_options(line: str) -> tuple[str, list[tuple[str, str]]]:
    """Split a line into the prompt and its options as commands with values: `[("/seed", "4")]`.

    A value reaches to the next option; "" where there is none. Raises SanaError (usage) for options without a prompt.
    """
    found = list(_OPTION.finditer(line))
    if not found:
        return line, []
    prompt = line[: found[0].start()].strip()
    if not prompt:
        raise OptionError(
            "there is no prompt before the options", "to set a value for all: /seed 4"
        )
    ends = [match.start() for match in found[1:]] + [len(line)]
    options = []
    for match, end in zip(found, ends, strict=True):
        options.append((f"/{match[1]}", line[match.end() : end].strip().strip("\"'")))
    return prompt, options
