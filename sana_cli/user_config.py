"""The user's own settings: `config.toml` in the platform's folder for such files. No torch."""

import difflib
import os
import tomllib
from pathlib import Path

from sana_cli.errors import ExitCode, SanaError

BUILTIN = "builtin"
_KNOWN = {"model": str}


def config_path() -> Path:
    """Where the file is looked for, whether it exists or not; SANA_CONFIG names another one."""
    named = os.environ.get("SANA_CONFIG")
    if named:
        return Path(named).expanduser()
    from platformdirs import user_config_path

    return user_config_path("sana") / "config.toml"


def cache_folder() -> Path:
    """Where what can be found out again is kept; SANA_CACHE names another one."""
    named = os.environ.get("SANA_CACHE")
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("sana")


def read_config_file() -> dict[str, str]:
    """The settings that the user made; {} without a file. SanaError for what we do not know."""
    path = config_path()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unusable(path, f"is not readable TOML: {error}") from error
    for key, value in values.items():
        if key not in _KNOWN:
            close = difflib.get_close_matches(key, _KNOWN, n=1)
            meant = f", did you mean {close[0]!r}?" if close else ""
            raise _unusable(path, f"has an unknown key {key!r}{meant}")
        if not isinstance(value, _KNOWN[key]) or not value:
            raise _unusable(path, f"has an unusable value for {key!r}: {value!r}")
    return values


def default_model() -> tuple[str, str]:
    """The model of a run that names none, and where that was said.

    SANA_MODEL, else the config file's, else the built-in.
    """
    from_environment = os.environ.get("SANA_MODEL")
    if from_environment:
        return from_environment, "SANA_MODEL"
    from_file = read_config_file().get("model")
    if from_file:
        return from_file, str(config_path())
    return BUILTIN, ""


def _unusable(path: Path, problem: str) -> SanaError:
    known = ", ".join(_KNOWN)
    return SanaError(f"{path} {problem}", hint=f"known keys: {known}", code=ExitCode.USAGE)
