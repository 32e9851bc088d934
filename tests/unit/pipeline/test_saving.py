"""Pictures in files: latents are kept until a picture is there, and a picture is finished from them to the byte."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.picture_file import read_settings
from sana_cli.pipeline import latents_file
from sana_cli.pipeline.latents_file import HowToFinish, KeptLatents
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.pipeline.saving import (
    draw_to_file,
    finish,
    keeping,
    model_reference,
    saying_how_to_finish,
)
from sana_cli.pipeline.watching import Watching
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.request.runtime import RuntimeOptions
from tests.pictures import names

Params = Callable[..., GenerationParams]
KEPT = "a.png.latents.safetensors"
HOW = HowToFinish(
    model="builtin", vae_precision="fp32", device="cpu", backend="auto", decode="auto", tile=None
)
SOME = KeptLatents(
    latents=torch.ones(1, 32, 2, 2),
    settings={
        "prompt": "a cat", "seed": 7, "steps": 2, "guidance": 4.5, "scheduler": "flow-dpm",
        "size": "64x64", "drawn_size": "64x64", "model": "builtin", "version": "1",
    },
    how=HOW,
)  # fmt: skip


def finished(file: Path, checkpoint: Checkpoint, told: Any, **changes: Any) -> Any:
    usual: dict[str, Any] = {
        "output": file.with_name("b.png"), "device": torch.device("cpu"), "mode": "auto", "tile": None,
        "max_memory": None, "cap_source": "", "overwrite": False, "reporter": told,
    }  # fmt: skip
    return finish(file, latents_file.read(file), checkpoint, **{**usual, **changes})


# -- keeping ---------------------------------------------------------------------------------------


def test_the_file_is_there_while_the_block_runs(tmp_path: Path, told: Any) -> None:
    with keeping(tmp_path / "a.png", SOME, told):
        assert names(tmp_path) == [KEPT]
        assert torch.equal(latents_file.read(tmp_path / KEPT).latents, SOME.latents)
    assert names(tmp_path) == []
    assert told.notices == []


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "the finished latents are kept: sana decode "),
        (SanaError("full", hint="x", code=ExitCode.ENVIRONMENT), ExitCode.ENVIRONMENT, "x; the finished latents are kept: "),
        (SanaError("full"), ExitCode.FAILURE, "the finished latents are kept: "),
    ],
    ids=["interrupt", "error with a hint", "error"],
)  # fmt: skip
def test_a_failure_names_the_command_that_resumes(
    tmp_path: Path, told: Any, error: BaseException, code: ExitCode, hint: str
) -> None:
    with (
        pytest.raises(SanaError) as caught,
        keeping(tmp_path / "a.png", SOME, told),
    ):
        raise error
    assert caught.value.code == code
    assert caught.value.hint.startswith(hint)
    assert caught.value.hint.endswith(f"sana decode {tmp_path / KEPT}")
    assert names(tmp_path) == [KEPT]


def test_a_bug_stays_a_bug(tmp_path: Path, told: Any) -> None:
    with pytest.raises(ZeroDivisionError), keeping(tmp_path / "a.png", SOME, told):
        _ = 1 / 0
    assert names(tmp_path) == [KEPT], "and loses nothing either"


def test_latents_that_cannot_be_kept_spoil_nothing(tmp_path: Path, told: Any) -> None:
    ran = []
    (tmp_path / "file").touch()
    with keeping(tmp_path / "file/a.png", SOME, told):
        ran.append(1)
    assert ran == [1]
    [notice] = told.notices
    assert notice.startswith("finished latents are not kept: ")


def test_latents_that_cannot_be_removed_spoil_nothing(tmp_path: Path, told: Any) -> None:
    with keeping(tmp_path / "a.png", SOME, told):
        (tmp_path / KEPT).unlink()
        (tmp_path / KEPT).mkdir()
    [notice] = told.notices
    assert notice.startswith(f"{tmp_path / KEPT} is no longer needed and cannot be removed: ")


def test_somebody_removed_them_already(tmp_path: Path, told: Any) -> None:
    with keeping(tmp_path / "a.png", SOME, told):
        (tmp_path / KEPT).unlink()
    assert told.notices == []


def test_without_an_error_nothing_is_said(tmp_path: Path) -> None:
    with saying_how_to_finish(tmp_path / KEPT):
        pass


# -- drawing ---------------------------------------------------------------------------------------


def test_a_picture_and_nothing_else(
    opened: Callable[..., SanaPipeline], params: Params, tmp_path: Path
) -> None:
    saved = draw_to_file(opened(), params(), tmp_path / "a.png", overwrite=False)
    assert names(tmp_path) == ["a.png"]
    assert saved.path == tmp_path / "a.png"
    assert saved.seconds["save"] > 0
    assert read_settings(saved.path) == saved.settings


def test_a_name_that_was_taken_meanwhile(
    opened: Callable[..., SanaPipeline], params: Params, tmp_path: Path
) -> None:
    """The picture is not lost: its latents stay."""
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    with pytest.raises(SanaError, match="exists") as caught:
        draw_to_file(opened(), params(), path, overwrite=False)
    assert "sana decode" in caught.value.hint
    assert (names(tmp_path), path.read_bytes()) == (["a.png", KEPT], b"mine")
    assert draw_to_file(opened(), params(), path, overwrite=True).path == path
    assert names(tmp_path) == ["a.png"]


def test_the_preview_is_another_file(
    opened: Callable[..., SanaPipeline], params: Params, told: Any, tmp_path: Path
) -> None:
    pipeline, path = opened(), tmp_path / "a.png"
    pipeline.watching = Watching(show=lambda *_: None, every=1, file=path)
    with pytest.raises(SanaError):
        draw_to_file(pipeline, params(), path, overwrite=True)
    assert told.stages == [], "before anything is drawn"


# -- finishing -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(
    builtin: Checkpoint, before_computing: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """A folder with a whole picture, and the latents of one of the same seed whose decoding was interrupted."""

    def stop() -> None:
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("drawn")
    runtime = RuntimeOptions(precision="fp32")
    options = GenerationOptions(prompt="a cat", width=64, height=64, steps=2, seed=1)
    params = resolve(options, builtin)
    with SanaPipeline(builtin, runtime, device=torch.device("cpu")) as pipeline:
        draw_to_file(pipeline, params, folder / "whole.png", overwrite=False)
        with before_computing("decode", stop), pytest.raises(SanaError, match="interrupted"):
            draw_to_file(pipeline, params, folder / "a.png", overwrite=False)
    return folder


@pytest.fixture
def kept(drawn: Path, tmp_path: Path) -> Path:
    """A copy of both; the path of the latents."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return tmp_path / KEPT


def test_the_same_picture(kept: Path, builtin: Checkpoint, told: Any) -> None:
    saved, components = finished(kept, builtin, told)
    assert saved.path.read_bytes() == kept.with_name("whole.png").read_bytes(), "settings too"
    assert names(kept.parent) == ["b.png", "whole.png"]
    assert (saved.seconds["denoise"], saved.passes) == (0, None)
    assert components.planning.cap.asked is False
    assert told.stages == ["load decoder", "decode", "save"], "nothing else is loaded"


def test_in_tiles(kept: Path, builtin: Checkpoint, told: Any) -> None:
    saved, _ = finished(kept, builtin, told, mode="exact-tiles", tile=32)
    assert saved.settings["decode"] == "exact-tiles 32"
    with Image.open(kept.with_name("whole.png")) as whole:
        pairs = zip(saved.image.tobytes(), whole.convert("RGB").tobytes(), strict=True)
        assert max(abs(one - other) for one, other in pairs) <= 1


@pytest.mark.parametrize("failure", ["taken", "cap", "interrupt", "memory"])
def test_what_cannot_be_finished_stays(
    kept: Path, builtin: Checkpoint, told: Any, failure: str
) -> None:
    changes: dict[str, Any] = {}
    if failure == "taken":
        kept.with_name("b.png").write_bytes(b"mine")
    elif failure == "cap":
        changes = {"max_memory": 2**20, "cap_source": "a file"}
    else:
        told.failures["load decoder"] = KeyboardInterrupt() if failure == "interrupt" else OSError("No such device")  # fmt: skip
    before = kept.read_bytes()
    with pytest.raises((SanaError, OSError)) as caught:
        finished(kept, builtin, told, **changes)
    assert kept.read_bytes() == before
    if failure in ("taken", "interrupt"):
        assert isinstance(caught.value, SanaError)
        assert caught.value.hint.endswith(f"sana decode {kept}")
    if failure == "cap":
        assert "set by a file" in str(caught.value)
    again, _ = finished(kept, builtin, told, output=kept.with_name("c.png"))
    assert again.path.read_bytes() == kept.with_name("whole.png").read_bytes()


def test_values_that_break_fall_back_to_fp32(kept: Path, builtin: Checkpoint, told: Any) -> None:
    """Of latents that were drawn in 16 bits; the picture says what it was decoded in."""
    content = latents_file.read(kept)
    how = replace(content.how, vae_precision="fp16")  # overflows with values like these
    huge = replace(content, latents=content.latents * 3e4, how=how)
    latents_file.write(kept, huge, overwrite=True)
    saved, components = finished(kept, builtin, told)
    assert any("trying once more in fp32" in line for line in told.notices)
    assert (saved.settings["precision"], components.dtypes.vae) == ("fp32", "fp32")


def test_a_backend_of_another_version_is_chosen_anew(
    kept: Path, builtin: Checkpoint, told: Any
) -> None:
    content = latents_file.read(kept)
    changed = replace(content, how=replace(content.how, backend="of 2031"))
    latents_file.write(kept, changed, overwrite=True)
    assert finished(kept, builtin, told)[1].runtime.backend == "auto"


# -- which model -----------------------------------------------------------------------------------


def test_how_a_model_is_opened_again(
    builtin: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name where a name will do, else by its place from any folder."""
    folder = Path(shutil.copytree(builtin.folder, tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    assert model_reference(builtin) == "builtin"
    assert model_reference(open_checkpoint("./mine")) == str(folder)
    hub = replace(builtin, name="Somebody/Sana", revision="a" * 40)
    assert model_reference(hub) == "Somebody/Sana"
    pth = replace(builtin, name="x", pth=Path("mine/x.pth"))
    assert model_reference(pth) == str(folder / "x.pth")
