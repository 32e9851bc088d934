import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sana_cli.commands.verbs import VERBS, command


@pytest.mark.parametrize("name", VERBS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    built = command(name)
    assert built.name == name
    assert built.get_short_help_str(1000) == VERBS[name].help
    assert type(built) is VERBS[name].shape or name == "config"


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [(["--help"], set()), (["no-such"], set()), (["help"], {"help"}), (["history", "--help"], {"history", "remember"})],
)  # fmt: skip
def test_only_the_command_that_is_called_is_imported(
    arguments: list[str], imported: set[str]
) -> None:
    program = (
        "import sys\nfrom sana_cli.cli import main\n"
        f"main({arguments!r})\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    modules = done.stderr.split("\n")[-2].split()
    package = "sana_cli.commands."
    assert imported | {"verbs", "tree"} == {
        name.removeprefix(package) for name in modules if name.startswith(package)
    }


def test_an_unknown_name(sana: Callable[..., Any]) -> None:
    shown = sana("generat", "x")
    assert shown.code == 2
    assert "did you mean `sana generate`?" in shown.err
