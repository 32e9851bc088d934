"""What the small files of a model folder say."""

import json
from pathlib import Path
from typing import Any

import pytest

from sana_cli.checkpoints.folder_facts import (
    manifest_of,
    own_settings,
    part_config,
    run_defaults,
    trained_precision,
)
from sana_cli.config.networks import DCAEConfig, OwnSettings, TransformerConfig
from sana_cli.config.variants import VARIANTS
from sana_cli.errors import ExitCode, SanaError

SMALL = TransformerConfig.from_dict({"sample_size": 16})
FLOW = "DPMSolverMultistepScheduler"


def defaults(
    folder: Path, scheduler: dict[str, Any], config: TransformerConfig = SMALL, **more: Any
) -> Any:
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    return run_defaults(folder, config, more.get("variant"), more.get("own", OwnSettings()))


def test_a_part_is_read_if_it_is_of_its_class(folder: Path) -> None:
    config = part_config(folder, "vae", DCAEConfig.from_dict)
    assert config.latent_channels == 32
    (folder / "vae/config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(SanaError, match="its vae is a AutoencoderKL"):
        part_config(folder, "vae", DCAEConfig.from_dict)


def test_own_settings_may_be_absent(folder: Path, tmp_path: Path) -> None:
    assert own_settings(tmp_path) == OwnSettings()
    assert own_settings(folder).native_size is not None


@pytest.mark.parametrize(
    ("scheduler", "name", "shift"),
    [
        ({"_class_name": FLOW, "flow_shift": 2}, "flow-dpm", 2.0),
        ({"_class_name": FLOW}, "flow-dpm", 3.0),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 4}, "flow-euler", 4.0),
        ({"_class_name": "SCMScheduler"}, "scm", 3.0),
    ],
)
def test_schedulers(tmp_path: Path, scheduler: dict[str, Any], name: str, shift: float) -> None:
    found = defaults(tmp_path, scheduler)
    assert (found.scheduler, found.flow_shift) == (name, shift)
    assert (found.steps, found.guidance_scale, found.native_size) == (20, 4.5, 512)


@pytest.mark.parametrize(
    "scheduler",
    [
        {"_class_name": "DDIMScheduler"},
        {},
        {"_class_name": FLOW, "prediction_type": "epsilon"},
        {"_class_name": FLOW, "use_flow_sigmas": False},
    ],
    ids=str,
)
def test_schedulers_of_other_models(tmp_path: Path, scheduler: dict[str, Any]) -> None:
    with pytest.raises(SanaError, match=r"scheduler_config\.json") as caught:
        defaults(tmp_path, scheduler)
    assert caught.value.code == ExitCode.CHECKPOINT


def test_whose_word_counts(tmp_path: Path) -> None:
    """`sana.json`, then what was published, then what such models mostly need."""
    sprint = TransformerConfig.from_dict({"guidance_embeds": True})
    found = defaults(tmp_path, {"_class_name": FLOW}, sprint)
    assert (found.steps, found.scheduler) == (2, "scm")
    variant = VARIANTS["sana-1.6b"]
    found = defaults(tmp_path, {"_class_name": FLOW}, variant=variant)
    assert (found.steps, found.guidance_scale) == (variant.steps, variant.guidance)
    own = OwnSettings(steps=7, guidance=0.0, native_size=96)
    found = defaults(tmp_path, {"_class_name": FLOW}, variant=variant, own=own)
    assert (found.steps, found.guidance_scale, found.native_size) == (7, 0.0, 96)


def test_the_precision_of_training() -> None:
    """The stored type is only a guess: half models are published in fp32 files."""
    headers = {"a.weight": ("F32", (4, 4)), "b": ("BF16", (2,))}
    variant = VARIANTS["sana-0.6b"]
    assert trained_precision(headers, None, None, OwnSettings()) == "fp32"
    assert trained_precision(headers, None, None, OwnSettings(precision="bf16")) == "bf16"
    assert trained_precision(headers, None, variant, OwnSettings()) == variant.precision != "fp32"
    with pytest.raises(SanaError, match="stored in F8_E4M3"):
        trained_precision({"a": ("F8_E4M3", (4,))}, None, None, OwnSettings())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format_version": 10000}'])
def test_a_manifest_that_is_none(tmp_path: Path, content: str) -> None:
    assert manifest_of(tmp_path) is None
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(SanaError, match=r"manifest\.json") as caught:
        manifest_of(tmp_path)
    assert caught.value.code == ExitCode.CHECKPOINT
    assert "quantize the model again" in caught.value.hint
