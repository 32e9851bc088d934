"""Folders and files of this user: settings, caches, models, what is remembered. No torch, and no platformdirs where Linux says it itself."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

from sana_cli.errors import ExitCode, SanaError

# Of the XDG Base Directory Specification, version 0.8: variable, and the folder in HOME without it.
_XDG = {
    "config": ("XDG_CONFIG_HOME", ".config"),
    "cache": ("XDG_CACHE_HOME", ".cache"),
    "data": ("XDG_DATA_HOME", ".local/share"),
    "state": ("XDG_STATE_HOME", ".local/state"),
}


def config_path() -> Path:
    """Path of the settings file, which may not exist; SANA_CONFIG names another one. Raises SanaError without a home."""
    return _place("SANA_CONFIG", "config", "config.toml")


def cache_folder() -> Path:
    """Folder of the cache, which may be deleted; SANA_CACHE names another one. Errors as for `config_path`."""
    return _place("SANA_CACHE", "cache")


def runtime_folder() -> Path:
    """Folder of what lasts as long as a process; SANA_RUNTIME names another one.

    Errors as for `config_path`, and OSError where the system's one belongs to somebody else.
    """
    return _place("SANA_RUNTIME", "runtime")


def models_folder() -> Path:
    """Folder of the models made on this machine; SANA_MODELS names another one. Errors as for `config_path`."""
    return _place("SANA_MODELS", "data", "models")


def history_file() -> Path:
    """File with the typed lines of `sana repl`; SANA_HISTORY names another one. Errors as for `config_path`."""
    return _place("SANA_HISTORY", "state", "history")


def picture_index_file() -> Path:
    """File of `sana history`; SANA_PICTURES names another one. Errors as for `config_path`."""
    return _place("SANA_PICTURES", "state", "pictures.db")


def usual_folder(kind: str) -> Path:
    """Return sana's folder of a kind, as platformdirs names it: "config", "cache", "data", "state" or "runtime".

    Importing platformdirs takes longer than reading all settings, so on Linux the plain cases are answered here. Raises
    RuntimeError without a home, OSError for a folder of somebody else.
    """
    if (known := _linux_folder(kind)) is not None:
        return Path(known, "sana")
    import platformdirs

    found: Any = getattr(platformdirs, f"user_{kind}_path")("sana")
    return Path(found)


def _linux_folder(kind: str) -> str | None:
    """Return the folder of a kind for all programs; None where platformdirs is to look closer (Android, odd values)."""
    if sys.platform != "linux" or "ANDROID_DATA" in os.environ:
        return None
    if kind == "runtime":
        return _systemds_folder()
    variable, below = _XDG[kind]
    named, home = os.environ.get(variable, ""), os.environ.get("HOME", "")
    if os.path.isabs(named):
        return named
    return os.path.join(home, below) if os.path.isabs(home) else None


def _systemds_folder() -> str | None:
    """Return the user's runtime folder where it is the one that systemd made, below folders of the system."""
    if sys.platform != "linux":
        return None
    usual = f"/run/user/{os.getuid()}"
    if os.environ.get("XDG_RUNTIME_DIR") != usual:
        return None
    try:
        folders = [os.lstat(each) for each in (usual, "/run/user", "/run")]
    except OSError:
        return None
    own, *above = folders
    is_ours = stat.S_ISDIR(own.st_mode) and own.st_uid == os.getuid()
    are_systems = all(
        stat.S_ISDIR(each.st_mode) and each.st_uid == 0 and not each.st_mode & 0o022
        for each in above
    )
    return usual if is_ours and stat.S_IMODE(own.st_mode) == 0o700 and are_systems else None


def _place(variable: str, kind: str, name: str = "") -> Path:
    """Path from a variable, else the platform's usual one. Raises SanaError (environment) without a home folder."""
    named = os.environ.get(variable)
    try:
        return Path(named).expanduser() if named else usual_folder(kind) / name
    except RuntimeError as error:
        raise SanaError(
            f"{variable} is {named!r}, and there is no such home folder"
            if named
            else "there is no home folder to keep settings and caches in",
            hint=f"set HOME, or {variable} to a path",
            code=ExitCode.ENVIRONMENT,
        ) from error
