"""An index of drawn pictures in one SQLite file, for `sana history`. No torch, no Pillow until pictures are read.

Pictures carry everything that the index says, so `rebuild` can make it of them. It is on this machine only; nothing is sent
anywhere. A picture that cannot be remembered is no reason to fail.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.files import in_utf8

_PATIENCE_S = 2.0  # for other processes that write
_TABLE = """
create table if not exists pictures (
    number integer primary key autoincrement, path text not null unique, drawn_at text not null,
    prompt text not null, model text not null, seed text not null, settings text not null
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A picture of the index."""

    number: int
    path: Path
    drawn_at: str  # UTC, ISO 8601, to the second
    settings: Mapping[str, Any]

    @property
    def is_there(self) -> bool:
        return self.path.is_file()


class PictureIndex:
    """The index in a file, which is made when the first picture is remembered."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def remember(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Add a picture, or replace the one of its path. Errors are logged only."""
        try:
            with self._open(make=True) as database:
                _add(database, path, settings, datetime.now(UTC))
        except (OSError, sqlite3.Error, ValueError) as error:
            import logging  # seldom needed

            logging.getLogger("sana.history").warning(
                "%s is not remembered: %s", in_utf8(str(path)), error
            )

    def find(
        self,
        words: Sequence[str] = (),
        *,
        model: str = "",
        seed: int | None = None,
        since: str = "",
        until: str = "",
        limit: int = -1,
    ) -> list[Remembered]:
        """List pictures, the newest first, whose prompt has all words, in any case. Dates are ISO 8601, `until` inclusive.

        SanaError if the index cannot be read.
        """  # fmt: skip
        conditions = ["prompt like ? escape '\\'"] * len(words)
        values: list[Any] = [f"%{_literal(word)}%" for word in words]
        for condition, value in (
            ("model like ? escape '\\'", f"%{_literal(model)}%" if model else None),
            ("seed = ?", None if seed is None else str(seed)),
            ("drawn_at >= ?", since or None),
            ("substr(drawn_at, 1, ?) <= ?", until or None),
        ):
            if value is not None:
                conditions.append(condition)
                values += [len(until), until] if condition.startswith("substr") else [value]
        where = f" where {' and '.join(conditions)}" if conditions else ""
        query = f"select number, path, drawn_at, settings from pictures{where} order by number desc limit ?"
        return self._rows(query, [*values, min(limit, 2**63 - 1)])

    def picture(self, number: int) -> Remembered | None:
        """Return one picture by its number; None for a number that no picture has. SanaError as for `find`."""
        if not 0 < number < 2**63:
            return None
        query = "select number, path, drawn_at, settings from pictures where number = ?"
        return next(iter(self._rows(query, [number])), None)

    def rebuild(self, folders: Sequence[Path] = ()) -> int:
        """Make the index again from the pictures in the folders that it knows, and in others; return their number.

        Pictures keep their order by date; their numbers begin with 1 again. SanaError if the index cannot be written.
        """
        from sana_cli.images.picture_file import settings_of

        known = {each.path.parent for each in self.find()} | {
            folder.absolute() for folder in folders
        }
        found = []
        for folder in sorted(known):
            for path in folder.glob("*") if folder.is_dir() else ():
                settings = settings_of(path)
                if settings is not None:
                    found.append((path.stat().st_mtime, path, settings))
        try:
            with self._open(make=True) as database:
                database.execute("delete from pictures")
                database.execute("delete from sqlite_sequence where name = 'pictures'")
                for changed, path, settings in sorted(found, key=lambda each: each[:2]):
                    _add(database, path, settings, datetime.fromtimestamp(changed, UTC))
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        return len(found)

    def _rows(self, query: str, values: Sequence[Any]) -> list[Remembered]:
        if not self.file.exists():
            return []
        try:
            with self._open(make=False) as database:
                rows = database.execute(query, values).fetchall()
            return [
                Remembered(
                    number=number, path=Path(path), drawn_at=at, settings=json.loads(settings)
                )
                for number, path, at, settings in rows
            ]
        except (OSError, sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from error

    @contextmanager
    def _open(self, *, make: bool) -> Iterator[sqlite3.Connection]:
        if make:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.file, timeout=_PATIENCE_S)) as database, database:
            database.execute(_TABLE)
            yield database

    def _unusable(self, error: Exception) -> SanaError:
        return SanaError(
            f"cannot use the index of pictures {self.file}: {error}",
            hint="remove it, then `sana history --rebuild --folder FOLDER` makes it again of the pictures",
            code=ExitCode.ENVIRONMENT,
        )


def _add(
    database: sqlite3.Connection, path: Path, settings: Mapping[str, Any], when: datetime
) -> None:
    database.execute("delete from pictures where path = ?", (str(path.absolute()),))
    database.execute(
        "insert into pictures (path, drawn_at, prompt, model, seed, settings) values (?, ?, ?, ?, ?, ?)",
        (
            str(path.absolute()), when.strftime("%Y-%m-%dT%H:%M:%SZ"), str(settings.get("prompt", "")),
            str(settings.get("model", "")), str(settings.get("seed", "")), json.dumps(dict(settings)),
        ),
    )  # fmt: skip


def _literal(text: str) -> str:
    """A text in a `like` pattern, where % and _ stand for themselves."""
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def require_date(text: str, option: str) -> str:
    """Return a date as it is compared: 2026-11-29, 2026-11 or 2026. SanaError (usage) for anything else."""
    for form in ("%Y-%m-%d", "%Y-%m", "%Y"):
        try:
            return datetime.strptime(text, form).strftime(form)
        except ValueError:
            continue
    raise usage_error(
        f"{option} {text!r} is no date", f"write {option} 2026-11-29, or a month or year"
    )
