"""Commands that install optional packages, in versions that were tried. No torch."""

import sys
from importlib import metadata
from pathlib import Path
from shlex import quote
from shutil import which

_OF_PIPX, _OF_UV = (
    "pipx_metadata.json",
    "uv-receipt.toml",
)  # files in the environments that these keep


def install_again(prefix: Path | None = None) -> str:
    """Return a hint for a broken installation, with the command that mends it in this environment (`prefix`)."""
    prefix = prefix or Path(sys.prefix)
    if (prefix / _OF_PIPX).is_file():
        command = "pipx install --force ."
    elif (prefix / _OF_UV).is_file():
        command = "uv tool install --force ."
    else:
        command = f"{_installer(prefix)} --force-reinstall ."
    return f"install sana again, in its clone: {command}"


def pip_install(*names: str, prefix: Path | None = None, again: bool = False) -> str:
    """Return a command that adds these packages to the environment of this sana, wherever it is typed.

    `again`: in place of those that are there.

    `sana-cli` itself is on no index, so its extras cannot be named. A plain `pip` reaches the environment (`prefix`:
    sys.prefix) only where it is the active one: never that of pipx or `uv tool`, nor a sana that is run by its path.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        declared = [Requirement(text) for text in metadata.requires("sana-cli") or []]
    except metadata.PackageNotFoundError:
        declared = []
    specifiers = {canonicalize_name(found.name): found.specifier for found in declared}
    words = [
        f"{name}{specifiers.get(canonicalize_name(Requirement(name).name), '')}" for name in names
    ]
    installer = _installer(prefix or Path(sys.prefix))
    if again:
        installer += " --force" if installer.startswith("pipx") else " --force-reinstall"
    return f"{installer} " + " ".join(
        f'"{word}"' if set(word) & set("<>=,[") else word for word in words
    )


def _installer(prefix: Path) -> str:
    if (prefix / _OF_PIPX).is_file():
        return f"pipx inject {prefix.name}"
    if (prefix / _OF_UV).is_file():
        return f"uv pip install --python {quote(str(prefix))}"
    if _is_found_first(prefix):
        return "pip install"
    return f"{quote(sys.executable)} -m pip install"


def _is_found_first(prefix: Path) -> bool:
    """Return whether the `pip` that a shell finds is that of the environment `prefix`."""
    found = which("pip")
    return found is not None and Path(found).parent.parent.resolve() == prefix.resolve()
