"""The index of pictures: searched, kept small in words, made anew of pictures, and no reason to fail."""

from pathlib import Path

import pytest
from PIL import Image

from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.picture_file import save_picture
from sana_cli.images.picture_index import PictureIndex, require_date


def drawn(path: Path, prompt: str, seed: int = 1, model: str = "sana-0.6b") -> dict[str, object]:
    settings = {"prompt": prompt, "seed": seed, "model": model, "steps": 2}
    save_picture(Image.new("RGB", (8, 8)), path, settings=settings)
    return settings


@pytest.fixture
def index(tmp_path: Path) -> PictureIndex:
    index = PictureIndex(tmp_path / "state/pictures.db")
    for number, (prompt, seed, model) in enumerate(
        [
            ("a red Fox", 1, "sana-0.6b"),
            ("a fox, 100 % blue", 2**64 - 1, "sana-1.6b"),
            ("an owl_", 3, "builtin"),
        ]
    ):
        path = tmp_path / f"{number}.{('png', 'jpg', 'webp')[number]}"
        index.remember(path, drawn(path, prompt, seed, model))
    return index


def test_searches(index: PictureIndex) -> None:
    def seeds(*words: str, **conditions: object) -> list[object]:
        return [each.settings["seed"] for each in index.find(words, **conditions)]  # type: ignore[arg-type]

    assert seeds() == [3, 2**64 - 1, 1]
    assert seeds("FOX") == [2**64 - 1, 1]
    assert seeds("fox", "blue") == [2**64 - 1]
    assert seeds("%") == [2**64 - 1], "as they are written"
    assert seeds("_") == [3]
    assert seeds(model="1.6b") == [2**64 - 1]
    assert seeds(seed=2**64 - 1) == [2**64 - 1]
    assert seeds(limit=1) == [3]
    assert seeds(since="2020") == [3, 2**64 - 1, 1]
    assert seeds(since="2999-01-01") == seeds(until="2020-01") == []
    today = index.find()[0].drawn_at[:10]
    assert len(seeds(since=today, until=today)) == 3


def test_numbers(index: PictureIndex, tmp_path: Path) -> None:
    """A picture that is drawn again at its path gets a new number; others keep theirs."""
    assert [each.number for each in index.find()] == [3, 2, 1]
    index.remember(tmp_path / "0.png", drawn(tmp_path / "again.png", "a cat"))
    assert [each.number for each in index.find()] == [4, 3, 2]
    found = index.picture(4)
    assert found is not None
    assert (found.path, found.settings["prompt"], found.is_there) == (
        tmp_path / "0.png",
        "a cat",
        True,
    )
    assert index.picture(1) is index.picture(0) is index.picture(10**30) is None


def test_pictures_make_it_again(index: PictureIndex, tmp_path: Path) -> None:
    before = {(each.path, each.settings["prompt"]) for each in index.find()}
    (tmp_path / "other").mkdir()
    drawn(tmp_path / "other/b.png", "a boat")
    Image.new("RGB", (8, 8)).save(tmp_path / "no-settings.png")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    save_picture(
        Image.new("RGB", (8, 8)), tmp_path / "sheet.png", settings={"pictures": {}, "prompt": "x"}
    )
    for _ in range(2):
        assert index.rebuild() == 3
        assert {(each.path, each.settings["prompt"]) for each in index.find()} == before
        assert [each.number for each in index.find()] == [3, 2, 1]
    index.file.unlink()
    assert index.rebuild([tmp_path, tmp_path / "other", tmp_path / "none"]) == 4
    (tmp_path / "0.png").unlink()
    assert index.rebuild() == 3, "what is gone is forgotten"


def test_without_an_index(tmp_path: Path) -> None:
    index = PictureIndex(tmp_path / "none.db")
    assert index.find() == []
    assert not index.file.exists(), "reading makes none"


def test_a_damaged_index_spoils_no_picture(tmp_path: Path) -> None:
    index = PictureIndex(tmp_path / "a.db")
    index.file.write_text("no database" * 100)
    index.remember(tmp_path / "a.png", {"prompt": "x"})
    with pytest.raises(SanaError, match="cannot use the index of pictures") as caught:
        index.find()
    assert (caught.value.code, "--rebuild" in caught.value.hint) == (ExitCode.ENVIRONMENT, True)


def test_dates() -> None:
    assert [require_date(text, "--since") for text in ("2026-1-2", "2026-11", "2026")] == [
        "2026-01-02",
        "2026-11",
        "2026",
    ]
    for text in ("yesterday", "2026-13", "01.02.2026"):
        with pytest.raises(SanaError, match="is no date"):
            require_date(text, "--since")


def test_a_name_that_is_no_text_is_logged_as_escapes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Logs go to files and streams in UTF-8."""
    PictureIndex(tmp_path / "pictures.db").remember(tmp_path / "b\udcff.png", {"prompt": "a cat"})
    assert "b\\udcff.png is not remembered" in caplog.text
    caplog.text.encode()
