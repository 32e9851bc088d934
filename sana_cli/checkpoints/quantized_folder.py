"""The folder that `sana quantize` makes: whether it may be made. No torch, so that a mistake is reported at once."""

from pathlib import Path

from quant.manifest import MANIFEST
from sana_cli.errors import usage_error
from sana_cli.files import no_folder


def check_target(target: Path, *, overwrite: bool) -> None:
    """SanaError (usage) for a folder that cannot be made, or is there and may not be replaced."""
    if target.name in ("", ".."):
        raise usage_error(
            f"{target} is a place, not the name of a folder to make", "write the folder's name"
        )
    if target.is_symlink():  # what it points to would stay, or be replaced where nobody looks
        raise usage_error(
            f"{target} is a symbolic link", "give the folder that it points to, or another one"
        )
    if not target.parent.is_dir():
        raise no_folder(target.parent, "folder")
    if not target.exists():
        return
    if not overwrite:
        raise usage_error(f"{target} exists", "choose another folder, or --force")
    if not (target / MANIFEST).is_file():  # --force is for our own folders, not for anything else
        raise usage_error(f"{target} exists and is no quantized model", "choose another folder")
