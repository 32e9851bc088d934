"""Contenders of `sana bench`: models by every name, called apart, drawing the same picture."""

from pathlib import Path
from typing import Any

import pytest

from sana_cli.bench import runner
from sana_cli.bench.contenders import Contender, parse_decoders, parse_peers
from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.errors import SanaError


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that is known by its name, as `sana quantize` makes it."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/small-w8a8").symlink_to(BUILTIN_FOLDER, target_is_directory=True)
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))
    return "small-w8a8"


def test_every_name_that_a_model_has(kept: str, tmp_path: Path) -> None:
    names = ["builtin", kept, str(BUILTIN_FOLDER), "sana-0.6b", "somebody/sana-fine-tuned"]
    assert parse_peers(",".join(names)) == names


@pytest.mark.parametrize("name", ["sana-0.7b", "no/such/folder/at-all", "/"])
def test_what_is_no_model(name: str) -> None:
    with pytest.raises(SanaError, match="cannot compare with") as caught:
        parse_peers(name)
    assert "diffusers" in caught.value.hint


def workload(**values: Any) -> Any:
    given: dict[str, Any] = {"size": None, "steps": None, "timed_steps": None}
    return runner.workload(batch=1, device="cpu", prompt=None, **(given | values))


def test_all_draw_the_size_and_steps_of_the_first() -> None:
    plan = runner.BenchOptions(
        model="builtin", random=None, schemes=["auto"], peers=[], decoders=["full"], base=None, workload=workload(),
        runs=1, warmup=0, devices=[], subject=None,
    )  # fmt: skip
    found = runner._check(plan, open_checkpoint("builtin"))
    assert (found.width, found.height, found.steps) == (256, 256, 20)


def test_names_of_their_own() -> None:
    def contender(name: str, model: str) -> Contender:
        return Contender(name=name, kind="sana", model=model)

    same = [contender("sana", "builtin"), contender("sana", "a/sana"), contender("sana", "b/sana")]
    found = runner._with_names_of_their_own(same)
    assert [(c.name, c.model) for c in found] == [
        ("sana", "builtin"), ("sana-2", "a/sana"), ("sana-3", "b/sana"),
    ]  # fmt: skip


def test_every_scheme_with_every_decoder() -> None:
    scheme = Contender(name="sana-fp32", kind="sana", model="builtin")
    assert parse_decoders("full, tiny,/x/mine.pth") == ["full", "tiny", "/x/mine.pth"]
    drawn = [runner._drawing_with(scheme, decoder) for decoder in ("full", "tiny", "/x/mine.pth")]
    assert [c.name for c in drawn] == ["sana-fp32", "sana-fp32-tiny", "sana-fp32-mine"]
    assert [c.decoder for c in drawn] == ["full", "tiny", "/x/mine.pth"]
    with pytest.raises(SanaError, match="--decoder ',' names nothing"):
        parse_decoders(",")
