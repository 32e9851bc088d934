"""Which pictures of a batch are done, and what the others are called, after its file was edited."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError
from sana_cli.images.png import save_png
from sana_cli.pipeline.batch import Batch, plan_batch
from sana_cli.request.prompt_file import read_prompt_file

LINES = [f"line {letter}" for letter in "abcdefghi"]
Edit = Callable[[list[str]], list[str]]


@pytest.fixture
def plan(tiny_model: Path, tmp_path: Path) -> Callable[..., Batch]:
    """Plan the pictures of some lines; `draw=True` puts pictures where they would be drawn."""
    checkpoint = open_checkpoint(str(tiny_model))
    (tmp_path / "out").mkdir()

    def run(lines: list[str], pattern: str = "", *, draw: bool = False, **common: int) -> Batch:
        file = tmp_path / "p.txt"
        file.write_text("\n".join(lines))
        options = GenerationOptions(
            output=f"{tmp_path}/out/{pattern}", width=32, height=32, **common
        )
        batch = plan_batch(read_prompt_file(str(file)), options, checkpoint, overwrite=False)
        for job in batch.pending if draw else ():
            settings = {**job.wanted, "version": "x"}
            save_png(Image.new("RGB", (32, 32)), job.path, settings=settings)
        return batch

    return run


@pytest.mark.parametrize(
    "pattern", ["", "{index}.png", "{slug}-{index:02}.png", "{index}/{slug}.png"]
)
@pytest.mark.parametrize(
    ("edit", "drawn"),
    [
        (lambda lines: [*lines, "a tenth"], 1),
        (lambda lines: ["a first", *lines], 1),
        (lambda lines: [*lines[:4], "another", *lines[5:]], 1),
        (lambda lines: [*lines[:4], *lines[5:]], 0),
        (lambda lines: lines[::-1], 0),
        (lambda lines: [*lines, lines[0]], 1),
        (lambda lines: [lines[0], *lines], 1),
        (lambda lines: [lines[0].upper(), *lines[1:]], 1),
        (lambda lines: [*lines[:8], '{"prompt": "line i", "steps": 3}'], 1),
        (lambda lines: [lines[8], '{"prompt": "line a", "steps": 3}', *lines[:8]], 1),
        (lambda lines: [*lines, *map("number {}".format, range(100))], 100),
    ],
    ids=[
        "appended", "inserted", "edited", "removed", "turned round", "repeated", "repeated first", "same slug",
        "other settings", "other settings first", "two more zeros",
    ],
)  # fmt: skip
def test_only_new_lines_are_drawn(
    plan: Callable[..., Batch], tmp_path: Path, pattern: str, edit: Edit, drawn: int
) -> None:
    """Whatever the numbers and their zeros; what is there stays as it is."""
    if "/" in pattern:  # folders of a pattern are not made
        for number in range(1, 110):
            for zeros in range(3):
                (tmp_path / f"out/{number:0{zeros + 1}}").mkdir(exist_ok=True)
    plan(LINES, pattern, draw=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert len(before) == len(LINES)
    batch = plan(edit(LINES), pattern, draw=True)
    assert len(batch.pending) == drawn
    assert len({job.path for job in batch.jobs}) == len(batch.jobs) == len(edit(LINES))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert plan(edit(LINES), pattern).pending == [], "and they are found the next time"


def test_settings_that_changed_for_all_lines(plan: Callable[..., Batch], tmp_path: Path) -> None:
    """As for a line that is edited: all are drawn next to the earlier ones, and found the next time."""
    plan(LINES, draw=True)
    batch = plan(LINES, steps=7, draw=True)
    assert len(batch.renamed) == len(batch.pending) == len(LINES)
    assert len(list((tmp_path / "out").glob("*.png"))) == 2 * len(LINES)
    assert not plan(LINES, steps=7).pending
    assert not plan(LINES).pending


@pytest.mark.parametrize("content", [b"somebody's picture", b""])
def test_files_of_others_are_never_passed_by(
    plan: Callable[..., Batch], tmp_path: Path, content: bytes
) -> None:
    plan(LINES, draw=True)
    (tmp_path / "out/10-new.png").write_bytes(content)
    with pytest.raises(SanaError, match=r"10-new.png is another picture"):
        plan([*LINES, "new"])


def test_other_patterns_have_other_pictures(plan: Callable[..., Batch]) -> None:
    """A picture under a name that the pattern cannot give is not this one."""
    plan(LINES, draw=True)
    assert len(plan(LINES, "{slug}-x-{index}.png").pending) == len(LINES)


def test_a_damaged_picture_is_not_done(plan: Callable[..., Batch], tmp_path: Path) -> None:
    plan(LINES, draw=True)
    first = tmp_path / "out/1-line-a.png"
    first.write_bytes(first.read_bytes()[:-80])
    with pytest.raises(SanaError, match=r"1-line-a.png is another picture"):
        plan(LINES)


def test_an_error_in_a_line_names_the_setting(tmp_path: Path) -> None:
    """Only where the value is a setting's: a line that says it itself is to blame itself."""
    file = tmp_path / "p.txt"
    common = GenerationOptions(scheduler="scm", sources={"scheduler": "config.toml"})
    for line, told in (
        ("a cat", "line 1: scheduler scm does not fit builtin (scheduler is set by config.toml)"),
        ('{"prompt": "a cat", "scheduler": "scm"}', "line 1: scheduler scm does not fit builtin"),
    ):
        file.write_text(line)
        with pytest.raises(SanaError) as caught:
            plan_batch(
                read_prompt_file(str(file)), common, open_checkpoint("builtin"), overwrite=False
            )
        assert caught.value.message == told
