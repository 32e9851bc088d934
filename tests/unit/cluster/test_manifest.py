"""A manifest holds a row a picture, also after a kill, and gives an earlier run's rows to the next one."""

import json
from pathlib import Path

import pytest

from sana_cli.cluster.manifest import COLUMNS, Manifest, RemoteManifest, manifest_path
from sana_cli.cluster.output import UrlOutput
from sana_cli.errors import SanaError

ROW = {
    "index": 1, "status": "drawn", "path": "/out/a.png", "seed": 2**32, "sha256": "ab", "seconds": 1.5,
    "settings": {"prompt": "a fox"},
}  # fmt: skip
FAILED = {"index": 2, "status": "error", "path": "/out/b.png", "error": {"code": 3, "message": "x"}}


def test_rows_are_on_disk_when_they_are_added(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest(path)
    manifest.begin(iter([FAILED]))
    manifest.add(ROW)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["index"] for row in rows] == [2, 1]
    assert all(tuple(row) == COLUMNS for row in rows)
    assert rows[1]["settings"] == ROW["settings"]


def test_a_line_that_a_kill_has_cut_off_is_none(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(FAILED)[:30])
    assert Manifest(path).earlier() == {"/out/a.png": ROW}


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


@pytest.mark.parametrize("name", ["rows.csv", "rows", "rows.json"])
def test_other_forms_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SanaError, match="JSON lines or Parquet"):
        manifest_path(str(tmp_path / name), tmp_path)
