"""Pictures behind URLs: whole or not at all, never in place of another, and found again."""

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.cluster.locations import is_url, local_prompts, open_url
from sana_cli.cluster.output import UrlOutput, split_output, stand_ins
from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.picture_file import read_settings, save_picture

SETTINGS = {"prompt": "a fox", "seed": 3, "size": "64x64"}


@pytest.fixture(params=["memory", "file"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> UrlOutput:
    """One file system that uploads whole files, and one that needs a temporary name."""
    if request.param == "file":
        return UrlOutput(f"file://{tmp_path}/remote")
    made = UrlOutput(f"memory://{tmp_path.name}/out")
    made._stores_objects = True  # as S3 does; fsspec's memory has its `create`
    return made


def picture(path: Path, seed: int = 3) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_picture(
        Image.new("RGB", (64, 64), "red"), path, settings=SETTINGS | {"seed": seed}, overwrite=True
    )
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_picture_is_published_once_and_found(
    output: UrlOutput, tmp_path: Path, suffix: str
) -> None:
    name = f"a.{suffix}"
    assert output.settings_of(name) is None
    data = picture(tmp_path / "s" / name).read_bytes()
    output.publish(tmp_path / "s" / name, name, overwrite=False)
    assert output.read(name) == data
    assert output.names() == [name]
    assert (output.settings_of(name) or {})["seed"] == 3
    with pytest.raises(SanaError, match="exists"):
        output.publish(picture(tmp_path / "s" / name, 4), name, overwrite=False)
    assert output.read(name) == data
    assert output.names() == [name], "no temporary file stays"
    output.publish(picture(tmp_path / "s" / name, 4), name, overwrite=True)
    assert (output.settings_of(name) or {})["seed"] == 4


def test_stand_ins_carry_settings_and_hold_names(output: UrlOutput, tmp_path: Path) -> None:
    output.publish(picture(tmp_path / "s/a.png"), "a.png", overwrite=False)
    output.write(b"no picture", "b.png", overwrite=False)
    output.write(b"rows", "manifest.jsonl", overwrite=False)
    folder = tmp_path / "mirror"
    folder.mkdir()
    stand_ins(output, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["a.png", "b.png"]
    assert read_settings(folder / "a.png")["seed"] == 3
    with pytest.raises(SanaError):
        read_settings(folder / "b.png")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://bucket/out/", ("s3://bucket/out", "")),
        ("s3://bucket/out", ("s3://bucket/out", "")),
        ("s3://bucket/out/{index}.png", ("s3://bucket/out", "{index}.png")),
        ("s3://bucket/out/a.webp", ("s3://bucket/out", "a.webp")),
        ("s3://bucket/{slug}/a.png", None),
    ],
)
def test_output_is_a_folder_and_a_pattern(url: str, parts: tuple[str, str] | None) -> None:
    if parts is None:
        with pytest.raises(SanaError, match="is no folder"):
            split_output(url)
    else:
        assert split_output(url) == parts


def test_prompts_behind_a_url(tmp_path: Path) -> None:
    files, path = open_url("memory://prompts/several")
    for name in ("a.txt", "b.txt", "c.csv"):
        files.pipe_file(f"{path}/{name}", name.encode())

    class Owner:
        pass

    owner: Any = Owner()
    one = Path(local_prompts("memory://prompts/several/a.txt", owner))
    assert (one.name, one.read_text()) == ("a.txt", "a.txt")
    folder = Path(local_prompts("memory://prompts/several", owner))
    assert sorted(p.name for p in folder.iterdir()) == ["a.txt", "b.txt", "c.csv"]
    some = Path(local_prompts("memory://prompts/several/*.txt", owner))
    assert sorted(p.name for p in some.iterdir()) == ["a.txt", "b.txt"]
    assert local_prompts("prompts.txt", owner) == "prompts.txt"
    for name in ("x/p.txt", "y/p.txt", "[z].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    local = Path(local_prompts(f"{tmp_path}/*/p.txt", owner))
    assert sorted(p.read_text() for p in local.iterdir()) == ["x/p.txt", "y/p.txt"]
    assert local_prompts(f"{tmp_path}/[z].txt", owner) == f"{tmp_path}/[z].txt", "it is a name"
    del owner
    assert not folder.exists(), "copies go"
    for missing in ("memory://prompts/several/none.txt", f"{tmp_path}/*.csv"):
        with pytest.raises(SanaError, match="no such file") as error:
            local_prompts(missing, Owner())
        assert error.value.code == ExitCode.USAGE


@pytest.mark.parametrize("url", ["nowhere://x/y", "s4://x/y"])
def test_what_nobody_reads_is_refused(url: str) -> None:
    with pytest.raises(SanaError, match="no package here reads") as error:
        open_url(url)
    assert error.value.code == ExitCode.ENVIRONMENT


def test_names_with_colons_are_no_urls() -> None:
    assert is_url("s3://a")
    assert not any(map(is_url, ("a:b", "C:\\x", "style.safetensors:0.8", "", None)))


def test_google_cloud_gives_up_within_seconds() -> None:
    """Without credentials pyarrow's reader tries for 15 minutes, before any work and with no word."""
    pytest.importorskip("pyarrow")
    if find_spec("gcsfs") is not None:
        pytest.skip("gcsfs reads gs:// here, not pyarrow")
    files, path = open_url("gs://bucket/out")
    assert path == "bucket/out"
    assert timedelta(seconds=20) in files.fs.__reduce__()[1][0].values()
