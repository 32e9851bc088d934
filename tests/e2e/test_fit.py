"""What is judged, planned and asked before gigabytes are fetched or a stage runs, beside a hub on the loopback."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from sana_cli.config.variants import VARIANTS
from sana_cli.errors import ExitCode

REPO = "some-one/tiny"
PUBLISHED = VARIANTS["sana-0.6b"].repo
LARGE_FILE = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def served(pipelines: Any) -> dict[str, bytes]:
    """The files of a tiny model. Read once: the hub knows the digest of bytes that it has seen."""
    folder = pipelines.folder("plain")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def repo(
    hub: Any, served: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """A hub with one foreign repository, asked by this process, whose settings and caches are its own."""
    from huggingface_hub import constants

    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.setattr(constants, name, str(hub.cache / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("SANA_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.chdir(tmp_path)
    hub.repos[REPO] = dict(served)
    return hub


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download counts as a large one."""
    monkeypatch.setattr("sana_cli.checkpoints.obtaining.LARGE", 1)


def edit(name: str, **changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files[name] = json.dumps(json.loads(files[name]) | changes).encode()

    return change


def as_sdxl(files: dict[str, bytes]) -> None:
    edit("model_index.json", _class_name="StableDiffusionXLPipeline")(files)
    for name in [name for name in files if name.startswith("transformer/")]:
        files[name.replace("transformer/", "unet/")] = files.pop(name)


# How parts do not fit, and what is said of it; all kinds: `tests/unit/checkpoints/test_opening.py`.
MISFITS: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "vocabulary": (edit("text_encoder/config.json", vocab_size=77), "embed_tokens"),
    "another layout": (as_sdxl, "StableDiffusionXLPipeline"),
}


@pytest.mark.parametrize("misfit", ["vocabulary", "another layout"])
@pytest.mark.parametrize(
    "words", [("generate", "x", "-m"), ("pull", "-y"), ("info",)], ids=" ".join
)
def test_an_unfit_repository_is_refused_before_its_weights_are_fetched(
    sana: Callable[..., Any], repo: Any, words: tuple[str, ...], misfit: str
) -> None:
    change, said = MISFITS[misfit]
    change(repo.repos[REPO])
    result = sana(*words, REPO)
    assert result.code == ExitCode.CHECKPOINT, result.err
    assert said in result.err
    assert "/tmp/" not in result.err
    assert not repo.gets("/cdn/")
    assert not (repo.cache / "hub").exists()


@pytest.mark.parametrize("misfit", ["vocabulary"])
@pytest.mark.parametrize(
    "words",
    [
        ("generate", "x", "-m"), ("generate", "x", "--dry-run", "-m"), ("info",), ("default",),
        ("config", "set", "model"), ("quantize", "-q"), ("bench", "-m"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_unfit_folder_is_refused_by_every_command(
    sana: Callable[..., Any], repo: Any, tmp_path: Path, words: tuple[str, ...], misfit: str
) -> None:
    """Before torch, which no stage runs without, is even asked."""
    change, said = MISFITS[misfit]
    files = repo.repos[REPO]
    change(files)
    folder = written(files, tmp_path / "unfit")
    result = sana(*words, folder, *(["out"] if words[0] == "quantize" else []))
    assert result.code == ExitCode.CHECKPOINT, result.err
    assert said in result.err
    assert not (tmp_path / "config.toml").exists()


def written(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("part", ["vae", "transformer", "text_encoder"])
def test_an_unfit_quantized_folder(
    sana: Callable[..., Any], quantized: Callable[..., Path], tmp_path: Path, repo: Any, part: str
) -> None:
    folder = Path(shutil.copytree(quantized("w8a8", "builtin"), tmp_path / "small"))
    depth = {
        "vae": {"attention_head_dim": 16},
        "transformer": {"num_layers": 7},
        "text_encoder": {"num_hidden_layers": 1, "layer_types": None},
    }[part]
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | depth))
    for words in (("info",), ("generate", "x", "--dry-run", "-m")):
        result = sana(*words, folder)
        assert result.code == ExitCode.CHECKPOINT, result.err
        assert part in result.err or "manifest names" in result.err


def test_a_default_that_no_longer_fits_is_told_by_doctor(
    sana: Callable[..., Any], examined: Callable[..., Any], repo: Any, tmp_path: Path
) -> None:
    folder = written(repo.repos[REPO], tmp_path / "mine")
    assert sana("default", folder).code == 0
    path = folder / "vae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_head_dim": 16}))
    findings = examined("settings", json=True).document["findings"]
    assert any("vae: " in found["text"] and found["state"] == "problem" for found in findings)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_dry_run_reads_headers_and_no_weights(
    sana: Callable[..., Any], repo: Any, tmp_path: Path, ranges: bool
) -> None:
    """It tells what it tells of the same files when they are here."""
    repo.ignore_range = not ranges
    words = ("generate", "x", "--size", "64x64", "--device", "cpu", "--dry-run", "--json")
    planned = sana(*words, "-m", REPO)
    assert planned.code == 0, planned.err
    assert not any("/cdn/" in r.path and not r.excerpt for r in repo.requests)
    assert not (repo.cache / "hub").exists()
    assert planned.document["download_bytes"] == sum(
        len(data) for name, data in repo.repos[REPO].items() if not name.endswith(".md")
    )
    local = sana(*words, "-m", written(repo.repos[REPO], tmp_path / "here"))
    assert local.document["stages"] == planned.document["stages"]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_published_model_is_planned_for_without_the_hub(
    sana: Callable[..., Any], repo: Any, name: str
) -> None:
    words = ("generate", "x", "--size", "512x512", "--device", "cpu", "-m", name, "--dry-run")
    result = sana(*words, "--json", "--offline")
    assert result.code == 0, result.err
    document = result.document
    assert document["download_bytes"] == sum(VARIANTS[name].download_bytes.values())
    weights = {stage["stage"]: stage["weights"] for stage in document["stages"]}
    assert weights["denoise"] > 0
    assert not repo.requests


def test_a_batch_is_planned_for_without_weights(
    sana: Callable[..., Any], repo: Any, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    words = ("--prompts", "p.txt", "--size", "64x64", "--device", "cpu", "--dry-run")
    result = sana("generate", *words, "-m", REPO)
    assert result.code == 0, result.err
    assert "not here: " in result.out
    assert "2 to draw" in result.out
    assert (
        f"not measured here: `sana bench --model {REPO}` measures it after the download"
        in result.out
    )
    assert not repo.gets("/cdn/")


def test_a_plan_falls_back_where_the_hub_is_out_of_reach(
    sana: Callable[..., Any], repo: Any
) -> None:
    repo.statuses["/api/",] = (503, {})
    result = sana("generate", "x", "-m", "sana-0.6b", "--dry-run", "--device", "cpu")
    assert result.code == 0, result.err
    assert "7.7 GB to download; planned from its published configuration" in result.out
    assert "out of order" in result.out
    (time,) = (line for line in result.out.splitlines() if line.startswith("time: "))
    assert "on two CPU cores with AVX2" in time
    assert "`sana bench --random sana-0.6b` measures it with 7.7 GB of random weights" in time


def test_info_of_a_published_model_plans_without_the_hub(
    sana: Callable[..., Any], repo: Any
) -> None:
    result = sana("info", "sana-0.6b")
    assert "memory: " in result.out
    assert "at least" in result.out
    assert not repo.requests


LOADING = {
    "generate": ("generate", "x", "-m"),
    "repl": ("repl", "-m"),
    "quantize": ("quantize", "--samples", 0),
    "bench": ("bench", "--steps", 1, "--runs", 1, "--warmup", 0, "-m"),
    "bench --compare": ("bench", "--steps", 1, "--runs", 1, "--warmup", 0, "--compare"),
    "pull": ("pull",),
}


@pytest.mark.parametrize("command", LOADING)
def test_a_large_download_needs_a_yes(
    sana: Callable[..., Any], repo: Any, large: None, command: str, tmp_path: Path
) -> None:
    result = sana(*LOADING[command], REPO, *(["out"] if command == "quantize" else []))
    assert result.code == ExitCode.USAGE, result.err
    assert f"sana pull {REPO}" in result.err
    assert "--yes" in result.err
    assert not repo.gets("/cdn/")


def test_repl_asks_before_another_model_is_fetched(
    sana: Callable[..., Any], repo: Any, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = io.TextIOWrapper(io.BytesIO(f"/model {REPO}\n".encode()))
    monkeypatch.setattr("sys.stdin", typed)
    result = sana("repl")
    assert f"sana pull {REPO}" in result.err
    assert not repo.gets("/cdn/")


def test_yes_answers(sana: Callable[..., Any], repo: Any, large: None) -> None:
    words = ("--size", "64x64", "--steps", 1, "--device", "cpu", "-o", "a.png", "--yes")
    result = sana("generate", "x", "-m", REPO, *words)
    assert result.code == 0, result.err
    assert "licence" in result.err


def test_what_nobody_can_be_asked_about_is_not_fetched(repo: Any, large: None) -> None:
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.errors import SanaError

    with pytest.raises(SanaError, match="to download") as caught:
        open_checkpoint(REPO)
    assert f"sana pull {REPO}" in caught.value.hint
    assert not repo.gets("/cdn/")


def strangers_picture(path: Path, model: str) -> Path:
    settings = {
        "prompt": "a cat", "seed": 1, "size": "64x64", "drawn_size": "64x64", "steps": 1, "model": model,
    }  # fmt: skip
    info = PngInfo()
    info.add_itxt("sana", json.dumps(settings))
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    return path


def test_a_picture_does_not_choose_what_is_downloaded(
    sana: Callable[..., Any], repo: Any, tmp_path: Path
) -> None:
    picture = strangers_picture(tmp_path / "x.png", REPO)
    for words in ((), ("--yes",), ("--dry-run",)):
        result = sana("generate", "--from", picture, "-o", "a.png", *words)
        assert result.code == ExitCode.ENVIRONMENT, result.err
        assert f"sana pull {REPO}" in result.err
        assert str(picture) in result.err
        assert not repo.requests
    assert sana("pull", REPO, "--yes").code == 0
    words = ("--device", "cpu", "--force")
    assert sana("generate", "--from", picture, "-o", "a.png", *words).code == 0
    assert sana("generate", "--from", picture, "-m", REPO, "-o", "a.png", *words).code == 0


def test_latents_do_not_choose_what_is_downloaded(
    sana: Callable[..., Any], repo: Any, tmp_path: Path
) -> None:
    import torch

    from sana_cli.pipeline.latents_file import HowToFinish, KeptLatents, write_beside

    settings = {
        "prompt": "a cat", "seed": 1, "steps": 1, "guidance": 4.5, "scheduler": "flow-dpm", "size": "64x64",
        "drawn_size": "64x64", "model": "tiny", "version": "0.1",
    }  # fmt: skip
    how = HowToFinish(
        model=REPO, vae_precision="fp32", device="cpu", backend="auto", decode="auto", tile=None
    )
    kept = KeptLatents(latents=torch.zeros(1, 32, 2, 2), settings=settings, how=how)
    file = write_beside(tmp_path / "cat.png", kept)
    result = sana("decode", file, "--device", "cpu", "--yes")
    assert result.code == ExitCode.ENVIRONMENT, result.err
    assert f"sana pull {REPO}" in result.err
    assert not repo.requests


@pytest.mark.parametrize("words", [("default",), ("config", "set", "model")], ids=" ".join)
@pytest.mark.parametrize("name", ["sana-0.6b", "other/one"])
def test_choosing_a_model_that_is_not_here_says_so(
    sana: Callable[..., Any], repo: Any, words: tuple[str, ...], name: str
) -> None:
    result = sana(*words, name)
    assert result.code == 0, result.err
    assert f"`sana pull {name}`" in result.err
    assert not repo.requests


def test_a_safety_check_that_is_not_here_cannot_be_switched_on(
    sana: Callable[..., Any], repo: Any, tmp_path: Path
) -> None:
    """Every later picture would be refused for a flag that nobody typed."""
    result = sana("config", "set", "safety", "true")
    assert result.code == ExitCode.ENVIRONMENT
    assert "hf download" in result.err
    assert not (tmp_path / "config.toml").exists()
    assert sana("config", "set", "safety", "false").code == 0


def test_a_quantized_name_that_is_not_made_yet_says_how(
    sana: Callable[..., Any], repo: Any
) -> None:
    result = sana("default", "sana-0.6b-512-w8a8")
    assert result.code == ExitCode.USAGE
    assert "`sana pull sana-0.6b-512 --quantize w8a8` makes it" in result.err


def test_doctor_names_kept_models_that_no_longer_fit(
    sana: Callable[..., Any], examined: Callable[..., Any], repo: Any, tmp_path: Path
) -> None:
    made = sana("quantize", BUILTIN_FOLDER, "--samples", 0, "-q")
    assert made.code == 0, made.err
    (folder,) = (tmp_path / "models").glob("[!.]*")
    path = folder / "vae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_head_dim": 16}))
    findings = examined("models", json=True).document["findings"]
    bad = [found for found in findings if found["state"] == "problem"]
    assert [folder.name in found["text"] for found in bad] == [True]
    assert bad[0]["remedy"]
