"""`sana quantize` with calibration: what it writes, resumes, refuses, and that folders draw what was calibrated."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_forward_pre_hook

from calibration.calibrator import Calibrator, Options
from calibration.collect import draw_latents, encode_texts, plan_drawings
from calibration.safe_decoder import pays
from quant.convert import quantized_layer
from quant.layers import QuantEmbedding
from quant.manifest import read_manifest
from sana_cli import quantize_checkpoint
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.errors import ExitCode
from sana_cli.loading.load import TOKEN_CONVS, load_prompt_encoder, load_transformer, load_vae
from sana_cli.models.text_encoder import FileEmbedding
from sana_cli.pipeline.decode import decode
from sana_cli.quantize_checkpoint import ComponentPlan, quantize_folder
from sana_cli.terminal.progress_bars import ConsoleReporter

FAST = ("--samples", "2", "--steps", "2", "--device", "cpu", "--quiet")
STORED = ("--vae", "w8a16")  # the decoder is not calibrated
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def calibrated(
    sana: Callable[..., Any], pipelines: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The plain tiny model, calibrated, every part quantized; the folder and what was printed."""
    target = tmp_path_factory.mktemp("calibrated") / "w8a8"
    result = sana("quantize", pipelines.folder("plain"), target, *FAST, "--vae", "w8a8", "--json")
    assert result.code == 0, result.err
    return target, result.document


def schemes(folder: Path, component: str) -> dict[str, str]:
    layers = read_manifest(folder).components[component].layers
    return {path: str(config) for path, config in layers.items() if config}


def test_document(calibrated: tuple[Path, dict[str, Any]]) -> None:
    folder, document = calibrated
    assert document["calibration"]["samples"] == 2
    assert document["calibration"]["steps"] == 2
    assert len(document["comparison"]["psnr_db"]) == 4
    assert min(document["comparison"]["psnr_db"]) > 10
    for name, part in document["components"].items():
        assert {path: one["scheme"] for path, one in part["layers"].items()} == schemes(
            folder, name
        )
        assert min(one["sqnr_db"] for one in part["layers"].values()) == part["sqnr_db_worst"]
    for name, part in document["components"].items():
        outputs = [one["sqnr_of"] == "output" for one in part["layers"].values()]
        assert part["layers_calibrated"] == sum(outputs)
        assert all(outputs) == (name == "transformer")
    table = document["components"]["text_encoder"]["layers"]["embed_tokens"]
    assert table["sqnr_of"] == "weight", "rows are only read: there is no output"
    kept = document["components"]["transformer"]["kept"]
    assert all(kept.values())
    assert "patch_embed.proj" in kept


def test_folder(calibrated: tuple[Path, dict[str, Any]]) -> None:
    folder, document = calibrated
    with Image.open(folder / document["comparison"]["file"]) as picture:
        assert picture.size == (3 * 128, 24 + 4 * (128 + 24)), "titles and captions"
    assert [path.name for path in folder.parent.iterdir()] == ["w8a8"], "nothing else stays"
    assert not list(folder.rglob("done.json"))
    assert "w4a16-g64" in schemes(folder, "text_encoder").values()


def test_convolutions_have_stored_scales(calibrated: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = calibrated
    found = schemes(folder, "vae")
    static = {path for path, scheme in found.items() if scheme == "w8a8-static"}
    assert static
    assert all(path.startswith("decoder.") for path in static), "a picture is only decoded"
    stored = load_file(folder / "vae/model.safetensors")
    assert all(stored[f"{path}.act_scale"] > 0 for path in static)


def test_the_table(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    result = sana("quantize", tiny_model, tmp_path / "out", *FAST, "--recipe", "mixed")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    parts = ["part", "transformer", "vae", "text_encoder", "kept:"]
    assert [line.split()[0] for line in lines[:5]] == parts
    assert not [line for line in lines[5:] if "floating point" in line], (
        "report.json has the reasons"
    )
    assert f"{tmp_path / 'out' / 'report.json'}; SQNR: " in lines[4]
    assert "comparison.png: PSNR against the float model" in result.out
    found = list(schemes(tmp_path / "out", "transformer").values())
    half = sum(scheme.startswith("w8a8") for scheme in found)
    assert half == round(len(found) / 2)
    assert sum(scheme.startswith("w4a16-g64") for scheme in found) == len(found) - half


# -- the folder draws what was calibrated ------------------------------------------------------


class Kept(Calibrator):
    """A calibrator that remembers its plans."""

    plans: dict[str, ComponentPlan | None]

    def plan(self, component: str) -> ComponentPlan | None:
        self.plans[component] = super().plan(component)
        return self.plans[component]


def apply_(model: torch.nn.Module, plan: ComponentPlan) -> None:
    """Quantize a loaded float model in memory, as planned."""
    # Out of the mapped file, whose alignment the last bit of a float product depends on.
    own = {
        name: plan.replaced.get(name, tensor).clone() for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(own, assign=True)
    for report in plan.layers:
        if report.config is not None:
            module = model.get_submodule(report.path)
            layer = plan.finished.get(report.path)
            if isinstance(module, FileEmbedding):
                factor = model.config.hidden_size**0.5  # type: ignore[union-attr,operator]
                ids = list(range(model.config.vocab_size))  # type: ignore[union-attr,arg-type]
                table = module.rows_of(ids) / factor  # exact: the factor is a power of two
                layer = QuantEmbedding.from_weight(table, multiplier=factor)
            model.set_submodule(
                report.path,
                layer or quantized_layer(module, report.config, TOKEN_CONVS),  # type: ignore[arg-type]
            )


def test_saved_equals_in_memory(tiny_model: Path, tmp_path: Path) -> None:
    """Text, latents and picture are bit-equal, folds and stored factors included."""
    checkpoint = open_checkpoint(str(tiny_model))
    wanted = {"transformer": "w8a8", "vae": "w8a8", "text_encoder": "w4a16-g64"}
    options = Options(prompts=("a fox", "the sea"), samples=2, steps=2, compare=False)
    with ConsoleReporter(quiet=True) as reporter:
        kept = Kept(checkpoint, wanted, options, device=CPU, reporter=reporter)
        kept.plans = {}
        quantize_folder(checkpoint, tmp_path / "out", wanted, recipe="test", calibration=kept)
    assert any(kept.plans["transformer"].replaced), "something was folded"  # type: ignore[union-attr]
    drawing = plan_drawings(checkpoint, ["a red fox"], first_seed=5, steps=2)
    pictures = []
    for model in (checkpoint, open_checkpoint(str(tmp_path / "out"))):
        encoder = load_prompt_encoder(model, dtype="fp32", device=CPU)
        transformer = load_transformer(model, dtype="fp32", device=CPU)
        vae = load_vae(model, dtype="fp32", device=CPU, halves=("encoder", "decoder"))
        if model is checkpoint:
            for name, module in (
                ("text_encoder", encoder.model),
                ("transformer", transformer),
                ("vae", vae),
            ):
                plan = kept.plans[name]
                assert plan is not None
                apply_(module, plan)
        texts = encode_texts(encoder, drawing)
        pictures.append(decode(vae, draw_latents(transformer, texts[0], drawing[0])))
    assert torch.equal(*pictures)


@pytest.mark.parametrize(
    ("family", "layout", "recipe"),
    [("sprint", "single", "int4"), ("qk_norm", "fp16", "w8a8"), ("flow_euler", "bf16", "mixed")],
)
def test_other_families(
    sana: Callable[..., Any], pipelines: Any, tmp_path: Path, family: str, layout: str, recipe: str
) -> None:
    """Guidance as an input, norms on q and k, another sampler; weights stored in 16 bits."""
    model, target = pipelines.folder(family, layout), tmp_path / "out"
    result = sana("quantize", model, target, *FAST, "--recipe", recipe, "--json")
    assert result.code == 0, result.err
    worst = {name: part["sqnr_db_worst"] for name, part in result.document["components"].items()}
    assert min(worst.values()) > 15, worst
    drawn = sana(
        "generate", "a fox", "-m", target, "-o", tmp_path / "a.png", "--steps", "2", "--size",
        "64x64", "--device", "cpu",
    )  # fmt: skip
    assert drawn.code == 0, drawn.err


# -- more bits for some layers -----------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "more"), [("int4", "w8a16"), ("w8a8", None)])
def test_keep(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, recipe: str, more: str | None
) -> None:
    result = sana(
        "quantize", tiny_model, tmp_path / "out", *FAST, "--recipe", recipe, "--keep", "3", "--json"
    )
    assert result.code == 0, result.err
    part = result.document["components"]["transformer"]
    alone = result.document["calibration"]["velocity_sqnr_db_of_one_layer"]
    worst = set(sorted(alone, key=alone.get)[:3])
    if more is None:
        chosen = {path for path, reason in part["kept"].items() if "most sensitive" in reason}
    else:
        chosen = {path for path, one in part["layers"].items() if one["scheme"].startswith(more)}
    assert chosen == worst
    vae = result.document["components"]["vae"]["layers"]
    decoder = result.document["calibration"].get("decoder")
    assert (decoder is not None) == pays(CPU, "fp32")
    for path in decoder["float_inputs"] if decoder else vae:
        assert vae[path]["scheme"] == "w8a16"
    drawn = sana(
        "generate", "a fox", "-m", tmp_path / "out", "-o", tmp_path / "a.png", "--steps", "2",
        "--size", "64x64", "--device", "cpu",
    )  # fmt: skip
    assert drawn.code == 0, drawn.err


def test_budget(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    arguments = ("quantize", tiny_model, tmp_path / "out", *FAST, "--recipe", "int4", "--json")
    result = sana(*arguments, "--budget-db", "100")
    assert result.code == ExitCode.USAGE
    assert "out of reach" in result.err
    assert not (tmp_path / "out").exists()
    result = sana(*arguments, "--budget-db", "0.1")
    assert result.code == 0, result.err
    layers = result.document["components"]["transformer"]["layers"]
    assert not any(one["scheme"].startswith("w8") for one in layers.values()), "needs none"


def test_keep_more_than_there_are(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    result = sana("quantize", tiny_model, tmp_path / "out", *FAST, "--keep", "999")
    assert result.code == ExitCode.USAGE
    assert "only 24 layers" in result.err


# -- interruptions -----------------------------------------------------------------------------


def test_rerun_goes_on_behind_finished_parts(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    before_opening: Callable[..., None],
) -> None:
    target, written = tmp_path / "out", []
    observed: list[int] = []

    def called(module: torch.nn.Module, inputs: Any) -> None:
        """Observers are hooks of layers while a model is calibrated."""
        if isinstance(module, torch.nn.Linear) and module._forward_pre_hooks:
            observed.append(1)

    def fail_first_in_vae(path: Path, mode: str) -> None:
        if (path.suffix, mode) == (".safetensors", "wb"):
            written.append(path.parent.name)
            if path.parent.name == "vae" and written.count("vae") == 1:
                raise KeyboardInterrupt

    before_opening(fail_first_in_vae)
    with register_module_forward_pre_hook(called):
        stopped = sana("quantize", tiny_model, target, *FAST, *STORED)
    assert stopped.code == ExitCode.INTERRUPTED
    assert observed
    assert not target.exists()
    assert "transformer" in written
    written[:] = ["vae"]
    observed.clear()
    with register_module_forward_pre_hook(called):
        result = sana("quantize", tiny_model, target, *FAST, *STORED, "--json")
    assert result.code == 0, result.err
    assert observed == [], "no linear layer is calibrated again"
    assert written == ["vae", "vae"], "once more"
    layers = result.document["components"]["transformer"]["layers"]
    assert {path: one["scheme"] for path, one in layers.items()} == schemes(target, "transformer")


@pytest.mark.parametrize(
    "change",
    [("--seed", "1"), ("--samples", "3"), ("--steps", "3"), ("--keep", "1"), ("--samples", "0")],
    ids=" ".join,
)
def test_a_rerun_with_other_options_begins_again(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str],
) -> None:
    """Whatever decides a result is part of what a finished component is known by."""
    asked: list[list[Any]] = []

    class Stop(Exception):
        pass

    def note(*arguments: Any) -> Any:
        raise Stop

    options = dict(zip(FAST[:-1:2], FAST[1:-1:2], strict=True))
    for more in ({}, dict([change])):
        merged = {**options, **more}
        if merged["--samples"] == "0":
            merged = {"--samples": "0"}
        monkeypatch.setattr(
            quantize_checkpoint, "_quantize_component",
            lambda checkpoint, component, scheme, working, calibration, advance: (
                asked.append(calibration.key(component) if calibration else []) or note()
            ),
        )  # fmt: skip
        with pytest.raises(Stop):
            sana(
                "quantize", tiny_model, tmp_path / "out",
                *(word for pair in merged.items() for word in pair), "--quiet",
            )  # fmt: skip
    assert json.dumps(asked[0]) != json.dumps(asked[1])


def test_interrupted_while_drawing(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    before_computing: Callable[..., Any],
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with before_computing("denoise", interrupt):
        result = sana("quantize", tiny_model, tmp_path / "out", *FAST)
    assert result.code == ExitCode.INTERRUPTED
    assert not (tmp_path / "out").exists()


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--samples", "-1"), "--samples -1 is out of range"),
        (("--samples", "10001"), "--samples 10001 is out of range"),
        (("--steps", "0"), "--steps 0 is out of range"),
        (("--keep", "-1"), "--keep -1 is out of range"),
        (("--seed", "-1"), "--seed -1 is out of range"),
        (("--budget-db", "0"), "--budget-db 0 is out of range"),
        (("--budget-db", "nan"), "--budget-db nan is out of range"),
        (("--budget-db", "30", "--keep", "2"), "not both"),
        (("--keep", "2", "--transformer", "none"), "no effect"),
        (("--samples", "0", "--keep", "2"), "no effect without calibration"),
        (("--samples", "0", "--steps", "2"), "no effect without calibration"),
        (("--samples", "0", "--seed", "5"), "--seed has no effect without calibration"),
        (("--samples", "0", "--device", "cuda"), "--device has no effect without calibration"),
        (("--samples", "0", "--calibration-prompts", "x.txt"), "no effect without calibration"),
        (("--samples", "0", "--recipe", "mixed"), "ranks layers by calibration"),
        (("--transformer", "w8a8-smooth"), "calibration decides"),
        (("--vae", "w8a8-static"), "calibration decides"),
        (("--calibration-prompts", "/nowhere.txt"), "cannot read /nowhere.txt"),
        (("--calibration-prompts", "~nosuchuser/x"), "'~nosuchuser/x' cannot be a path"),
    ],
)  # fmt: skip
def test_bad_options(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, options: Any, message: str
) -> None:
    result = sana("quantize", tiny_model, tmp_path / "out", *options)
    assert result.code == ExitCode.USAGE, result.err
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_prompts_beyond_the_samples(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    before_opening: Callable[..., None],
) -> None:
    def interrupt(path: Path, mode: str) -> None:
        if path.suffix == ".safetensors":
            raise KeyboardInterrupt

    before_opening(interrupt)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\na cat\na hen\n")
    options = ("--samples", "2", "--device", "cpu", "--calibration-prompts", prompts)
    result = sana("quantize", tiny_model, tmp_path / "out", *options)
    assert result.code == ExitCode.INTERRUPTED
    assert f"only the first 2 of the 3 prompts in {prompts} are used" in result.err


def test_a_model_that_draws_nothing(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    """Its numbers are finite, and what it computes of them is not."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    path = next((model / "transformer").glob("*.safetensors"))
    tensors = load_file(path)
    save_file(tensors | {"proj_out.bias": tensors["proj_out.bias"] + 3e38}, path)
    result = sana("quantize", model, tmp_path / "out", *FAST)
    assert result.code == ExitCode.CHECKPOINT
    assert "cannot calibrate: NaN" in result.err
    assert "--samples 0" in result.err
