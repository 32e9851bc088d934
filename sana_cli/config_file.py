"""Change single values of the user's TOML file; comments and order in it stay. No torch."""

from pathlib import Path

import tomlkit
from tomlkit.exceptions import ParseError

from sana_cli.errors import ExitCode, SanaError
from sana_cli.files import new_file
from sana_cli.user_config import Value, config_path


def set_value(key: str, value: Value) -> Path:
    """Write one setting and return the file, which is made if it is not there."""
    document = _read()
    document[key] = value
    return _write(document)


def unset_value(key: str) -> bool:
    """Remove one setting, or a key that is none; False if the file does not have it."""
    document = _read()
    if key not in document:
        return False
    del document[key]
    _write(document)
    return True


def _read() -> tomlkit.TOMLDocument:
    path = config_path()
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # the second is told when it is written
        return tomlkit.document()
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise SanaError(
            f"{path} is not readable TOML: {error}", hint="mend or remove it", code=ExitCode.USAGE
        ) from error


def _write(document: tomlkit.TOMLDocument) -> Path:
    path = config_path().resolve()  # a link, as keepers of dotfiles have, stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, overwrite=True) as file:
            file.write(tomlkit.dumps(document).encode())
    except (OSError, SanaError) as error:
        reason = error.message if isinstance(error, SanaError) else f"{path}: {error.strerror}"
        raise SanaError(
            f"the settings are not saved: {reason}",
            hint="SANA_CONFIG=FILE names another file",
            code=ExitCode.ENVIRONMENT,
        ) from error
    return config_path()
