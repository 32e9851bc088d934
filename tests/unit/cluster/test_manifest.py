"""A manifest holds a row a picture, also after a kill, and gives an earlier run's rows to the next one."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sana_cli.cluster.locations import unreachable
from sana_cli.cluster.manifest import COLUMNS, Manifest, RemoteManifest, manifest_path
from sana_cli.cluster.output import UrlOutput
from sana_cli.errors import ExitCode, SanaError

ROW = {
    "index": 1, "status": "drawn", "path": "/out/a.png", "seed": 2**32, "sha256": "ab", "seconds": 1.5,
    "settings": {"prompt": "a fox"},
}  # fmt: skip
NEEDS_ARROW = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs pyarrow")
FAILED = {"index": 2, "status": "error", "path": "/out/b.png", "error": {"code": 3, "message": "x"}}


def full(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in COLUMNS}


def test_rows_are_on_disk_when_they_are_added(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest(path)
    manifest.begin(iter([FAILED]))
    manifest.add(ROW)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [full(FAILED), full(ROW)]
    assert all(tuple(row) == COLUMNS for row in rows)


def test_a_line_that_a_kill_has_cut_off_is_none(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(full(ROW)) + "\n" + json.dumps(full(FAILED))[:30])
    assert Manifest(path).earlier() == {"/out/a.png": full(ROW)}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("m.jsonl", b'{"prompt": "a fox"}\n', "line 1 is not a row of one"),
        ("m.jsonl", b"[1]\n", "line 1 is not a row of one"),
        ("m.jsonl", b"one line without its end", "line 1 is not JSON"),
        ("m.jsonl", json.dumps(full(ROW)).encode() + b"\nand a note", "line 2 is not JSON"),
        ("m.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("m.jsonl", json.dumps(full(ROW)).encode() + b"\n\x00\x00\n", "line 2 is not JSON"),
        ("m.parquet", b"PAR1 and nothing else", "magic bytes"),
        ("m.parquet", None, "its columns are others"),
    ],
    ids=[
        "other lines",
        "no objects",
        "no end",
        "a note",
        "deep",
        "damaged",
        "damaged Parquet",
        "other Parquet",
    ],
)
def test_a_file_that_is_no_manifest_is_not_replaced(
    tmp_path: Path, name: str, content: bytes | None, why: str
) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        parquet = pytest.importorskip("pyarrow.parquet")
        if content is None:
            arrow = pytest.importorskip("pyarrow")
            parquet.write_table(arrow.table({"prompt": ["a fox"]}), path)
    if content is not None:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(SanaError, match="is no manifest that could be continued") as error:
        Manifest(path).earlier()
    assert why.lower() in str(error.value).lower()
    assert (error.value.code, path.read_bytes()) == (ExitCode.USAGE, before)


@pytest.mark.parametrize("name", ["m.jsonl", pytest.param("m.parquet", marks=NEEDS_ARROW)])
def test_one_command_at_a_time_writes_a_manifest(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with Manifest(path) as manifest:
        manifest.begin(iter([ROW]))
        with pytest.raises(SanaError, match="another command writes"), Manifest(path):
            pass
        manifest.add(FAILED)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert set(Manifest(path).earlier()) == {"/out/a.png", "/out/b.png"}


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "m.parquet"
    manifest = Manifest(path)
    manifest.begin(iter([ROW]))
    manifest.add(FAILED)
    manifest.add({"index": 3, "status": "error", "error": {"code": 2, "message": "line 3"}})
    assert not path.exists()
    assert set(Manifest(path).earlier()) == {"/out/a.png", "/out/b.png"}, "of a run that was killed"
    manifest.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.parquet"]
    assert parquet.read_table(path).column("seed").to_pylist() == [2**32, None, None]
    found = Manifest(path).earlier()
    assert found["/out/a.png"]["settings"] == ROW["settings"]
    assert found["/out/b.png"]["error"] == FAILED["error"]


def test_behind_a_url(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    output = UrlOutput("memory://manifests/run")
    manifest = RemoteManifest(output, "manifest.jsonl", tmp_path / "here", every=1)
    assert manifest.earlier() == {}
    manifest.begin(iter([]))
    manifest.add(ROW)
    assert json.loads(output.read("manifest.jsonl") or b"")["index"] == 1, "sent before the end"
    manifest.add(FAILED)
    manifest.close()
    again = RemoteManifest(output, "manifest.jsonl", tmp_path / "here", every=1)
    assert set(again.earlier()) == {"/out/a.png", "/out/b.png"}
    assert output.names() == ["manifest.jsonl"]


def test_a_url_that_fails_half_way_loses_no_row(tmp_path: Path) -> None:
    class Unsteady(UrlOutput):
        fails = False

        def write(self, data: bytes, name: str, *, overwrite: bool) -> None:
            if self.fails:
                raise unreachable(self.url, ConnectionResetError("reset by peer"))
            super().write(data, name, overwrite=overwrite)

    (tmp_path / "here").mkdir()
    output = Unsteady(f"file://{tmp_path}/remote")
    manifest = RemoteManifest(output, "manifest.jsonl", tmp_path / "here", every=1)
    manifest.begin(iter([]))
    output.fails = True
    manifest.add(ROW)
    output.fails = False
    manifest.add(FAILED)
    assert len((output.read("manifest.jsonl") or b"").splitlines()) == 2, "sent with the next"
    output.fails = True
    with pytest.raises(SanaError, match="cannot write the manifest: cannot reach"):
        manifest.close()


@pytest.mark.parametrize("name", ["rows.csv", "rows", "rows.json"])
def test_other_forms_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SanaError, match="JSON lines or Parquet"):
        manifest_path(str(tmp_path / name), tmp_path)
