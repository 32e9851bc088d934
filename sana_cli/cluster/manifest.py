"""The manifest of a run: one row a picture, as JSON lines or as Parquet. No torch.

Rows are appended as pictures come, so a killed run leaves a row of all that it drew. A rerun takes over the rows of pictures
that are still there. Parquet is written at the end, from such lines; until then they are in `NAME.rows.jsonl`. A file that is
no manifest is never replaced.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self, TextIO

from filelock import Timeout

from sana_cli.cluster.output import UrlOutput
from sana_cli.errors import SanaError, usage_error
from sana_cli.files import check_writable, local_path, new_file
from sana_cli.pipeline.batch import claim

COLUMNS = (
    "index", "id", "status", "path", "seed", "settings", "sha256", "seconds", "node", "peak_memory_bytes",
    "predicted_peak_bytes", "error",
)  # fmt: skip
MANIFEST = "manifest.jsonl"  # with the pictures, unless another one is asked for
SUFFIXES = (".jsonl", ".parquet")
_ROWS_AT_ONCE = 1000  # of Parquet, that are in memory
_BEGINNING = f'{{"{COLUMNS[0]}": '.encode()  # of each line


class Manifest:
    """Writes rows as they come. `earlier` first, then `begin`, `add`, and `close` at the end."""

    def __init__(self, path: Path) -> None:
        """SanaError (usage) for a name that is neither .jsonl nor .parquet."""
        require_name(path)
        self.path = path
        is_parquet = path.suffix.lower() == ".parquet"
        self.rows = path.with_name(f"{path.name}.rows.jsonl") if is_parquet else path
        self.called = str(path)
        self._file: TextIO | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Keep other commands from writing this manifest. SanaError where one does."""
        try:
            self._held.enter_context(claim(self.rows, 0))
        except Timeout as error:
            raise usage_error(
                f"another command writes {self.called} now", "wait for its end, or name another --manifest"
            ) from error  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        with self._held:
            self.close()

    def earlier(self) -> dict[str, dict[str, Any]]:
        """Read the rows of earlier runs, by path. SanaError (usage) for a file that is no manifest, or is damaged."""
        found: dict[str, dict[str, Any]] = {}
        if self.rows != self.path and self.path.is_file():
            found |= _by_path(_of_parquet(self.path, self.called))
        if self.rows.is_file():
            found |= _by_path(_of_lines(self.rows, self.called))
        return found

    def begin(self, rows: Iterator[Mapping[str, Any]]) -> None:
        """Write the rows of pictures that are there, in place of an earlier manifest. Raises SanaError."""
        with new_file(self.rows, overwrite=True) as file:
            for row in rows:
                file.write(_line(row).encode())
        self._file = self.rows.open("a", encoding="utf-8")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is on disk when this returns."""
        assert self._file is not None
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """Finish the file. Parquet is written here; its lines go when it is there."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if self.rows != self.path:
            _to_parquet(self.rows, self.path)
            self.rows.unlink(missing_ok=True)


class RemoteManifest(Manifest):
    """A manifest at a URL: kept here, sent at the end and now and then."""

    def __init__(self, output: UrlOutput, name: str, folder: Path, *, every: int = 1000) -> None:
        super().__init__(folder / name)
        self.called = f"{output.url}/{name}"
        self.output, self._every, self._added = output, every, 0

    def earlier(self) -> dict[str, dict[str, Any]]:
        for path in {self.path, self.rows}:
            data = self.output.read(path.name)
            if data is not None:
                path.write_bytes(data)
        return super().earlier()

    def begin(self, rows: Iterator[Mapping[str, Any]]) -> None:
        super().begin(rows)
        self._send(self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        super().add(row)
        self._added += 1
        if self._added % self._every == 0:
            with suppress(SanaError):  # the next time sends these rows too; the last time raises
                self._send(self.rows)

    def close(self) -> None:
        was_open = self._file is not None
        super().close()
        if not was_open:
            return
        try:
            self._send(self.path)
        except SanaError as error:
            raise SanaError(
                f"cannot write the manifest: {error.message}",
                hint="the pictures that were reported are there; the same command writes it again",
                code=error.code,
            ) from error
        if self.rows != self.path:
            self.output.remove(self.rows.name)

    def _send(self, path: Path) -> None:
        self.output.write(path.read_bytes(), path.name, overwrite=True)


def require_name(path: Path) -> None:
    """SanaError (usage) for a manifest of another form."""
    if path.suffix.lower() not in SUFFIXES:
        raise usage_error(
            f"cannot write {path.name}: a manifest is JSON lines or Parquet",
            f"use {path.with_suffix('.jsonl').name} or {path.with_suffix('.parquet').name}",
        )


def manifest_path(text: str | None, folder: Path) -> Path:
    """Choose the file of a manifest: the one that was asked for, else `manifest.jsonl` in the pictures' folder."""
    if text is None:
        return folder / MANIFEST
    path = local_path(text)
    require_name(path)
    check_writable(path, "--manifest")
    return path


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps({name: row.get(name) for name in COLUMNS}, ensure_ascii=True) + "\n"


def _of_lines(path: Path, called: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of JSON lines, but not a last line that a kill has cut off. Raises SanaError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n") and line.startswith(_BEGINNING[: len(line)]):
                    return
                raise _no_manifest(called, f"line {number} is not JSON") from error
            if not isinstance(row, dict) or set(row) != set(COLUMNS):
                raise _no_manifest(called, f"line {number} is not a row of one")
            yield row


def _no_manifest(called: str, why: str) -> SanaError:
    return usage_error(
        f"{called} is no manifest that could be continued: {why}",
        "name another --manifest, or move this file away",
    )


def _by_path(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sort rows by picture; lines that could not be drawn have none."""
    return {row["path"]: row for row in rows if isinstance(row.get("path"), str)}


def _schema() -> Any:
    import pyarrow as pa

    kinds = {"index": pa.int64(), "seed": pa.int64(), "seconds": pa.float64(),
             "peak_memory_bytes": pa.int64(), "predicted_peak_bytes": pa.int64()}  # fmt: skip
    return pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])


def _to_parquet(rows: Path, path: Path) -> None:
    """Write lines as Parquet, a thousand at a time. `settings` and `error` are JSON in a column of text."""
    import pyarrow as pa
    from pyarrow import parquet

    def table(some: list[dict[str, Any]]) -> Any:
        flat = [
            {k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in some
        ]
        return pa.Table.from_pylist(flat, schema=_schema())

    with (
        new_file(path, overwrite=True) as target,
        parquet.ParquetWriter(target, _schema()) as writer,
    ):
        some: list[dict[str, Any]] = []
        for row in _of_lines(rows, str(rows)):
            some.append(row)
            if len(some) == _ROWS_AT_ONCE:
                writer.write_table(table(some))
                some.clear()
        writer.write_table(table(some))


def _of_parquet(path: Path, called: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file. Raises SanaError."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if set(file.schema_arrow.names) != set(COLUMNS):
                raise _no_manifest(called, "its columns are others")
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    for key in ("settings", "error"):
                        if row.get(key):
                            row[key] = json.loads(row[key])
                    yield row
    except (pa.ArrowException, OSError, ValueError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise _no_manifest(called, said) from error
