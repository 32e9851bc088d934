"""Commands that install optional packages, in versions that were tried. No torch."""

from importlib import metadata

INSTALL_AGAIN = "install sana again, in its clone: pip install --force-reinstall ."


def pip_install(*names: str) -> str:
    """Return a command by which pip finds these packages, wherever it is typed.

    `sana-cli` itself is on no index, so its extras cannot be named.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        declared = [Requirement(text) for text in metadata.requires("sana-cli") or []]
    except metadata.PackageNotFoundError:
        declared = []
    specifiers = {canonicalize_name(found.name): found.specifier for found in declared}
    words = [f"{name}{specifiers.get(canonicalize_name(name), '')}" for name in names]
    return "pip install " + " ".join(
        f'"{word}"' if set(word) & set("<>=,") else word for word in words
    )
