"""Change single values of the user's TOML file; comments and order in it stay. No torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError

from quant.files import changing, new_file, read_small_text
from sana_cli.config.places import config_path
from sana_cli.config.user_settings import LARGEST_CONFIG, Value, unreadable_toml
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.text import one_line


def set_value(key: str, value: Value) -> Path:
    """Write one setting and return the file, which is made if it is not there; SanaError for what it cannot hold."""
    if isinstance(value, str) and one_line(value) != value:  # broken UTF-8, too
        raise usage_error(f"{key} cannot be {value!r}", "it should be text in UTF-8, on one line")
    with _changed() as document:
        document[key] = value
    return config_path()


def unset_value(key: str) -> bool:
    """Remove one setting, or a key that is none; False if the file does not have it."""
    with _changed() as document:
        return document.pop(key, None) is not None


@contextmanager
def _changed() -> Iterator[tomlkit.TOMLDocument]:
    """The file's content; what the block changes is saved. Other processes that change it wait."""
    try:
        path = config_path().resolve()  # a link, as keepers of dotfiles have, stays one
        with changing(path):
            document = _read(path)
            before = tomlkit.dumps(document)
            yield document
            if (after := tomlkit.dumps(document)) != before:
                with new_file(path, overwrite=True) as file:
                    file.write(after.encode())
    except (OSError, RuntimeError) as error:  # the second is for links in a circle
        reason = error.strerror if isinstance(error, OSError) else error
        raise SanaError(
            f"the settings are not saved: {config_path()}: {reason}",
            hint="SANA_CONFIG=FILE names another file",
            code=ExitCode.ENVIRONMENT,
        ) from error


def _read(path: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(read_small_text(path, LARGEST_CONFIG))
    except FileNotFoundError:
        return tomlkit.document()
    except (ValueError, RecursionError, TOMLKitError) as error:
        raise unreadable_toml(path, error) from error
