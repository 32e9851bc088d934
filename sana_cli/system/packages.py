"""Commands that install optional packages, in versions that were tried. No torch."""

import sys
from importlib import metadata
from pathlib import Path
from shlex import quote

INSTALL_AGAIN = "install sana again, in its clone: pip install --force-reinstall ."


def pip_install(*names: str, prefix: Path | None = None) -> str:
    """Return a command that adds these packages to the environment of this sana, wherever it is typed.

    `sana-cli` itself is on no index, so its extras cannot be named. pipx and `uv tool` keep sana in an environment
    (`prefix`: sys.prefix) that a plain `pip` does not reach.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        declared = [Requirement(text) for text in metadata.requires("sana-cli") or []]
    except metadata.PackageNotFoundError:
        declared = []
    specifiers = {canonicalize_name(found.name): found.specifier for found in declared}
    words = [f"{name}{specifiers.get(canonicalize_name(name), '')}" for name in names]
    return f"{_installer(prefix or Path(sys.prefix))} " + " ".join(
        f'"{word}"' if set(word) & set("<>=,[") else word for word in words
    )


def _installer(prefix: Path) -> str:
    if (prefix / "pipx_metadata.json").is_file():
        return f"pipx inject {prefix.name}"
    if (prefix / "uv-receipt.toml").is_file():
        return f"uv pip install --python {quote(str(prefix))}"
    return "pip install"
