"""Pictures of other programs: what `info` and `--from` make of them."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_cli.images.foreign_settings import ForeignSettings
from sana_cli.images.picture_file import read_foreign_settings
from sana_cli.images.png import save_preview

A1111 = (
    "a lighthouse, (storm:1.2)\nat night\nNegative prompt: fog, \nblurry\n"
    'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, Model: sd15, Lora hashes: "a: 1, b: 2"'
)
GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["10", 0], "negative": ["7", 0]}},
    "10": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["8", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog"}},
    "8": {"class_type": "String", "inputs": {"value": "a lighthouse"}},
}  # fmt: skip


def picture(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, value)
    Image.new("RGB", (64, 32)).save(path, pnginfo=info)
    return path


def test_parameters(tmp_path: Path) -> None:
    found = read_foreign_settings(picture(tmp_path / "a.png", parameters=A1111))
    assert found is not None
    assert found.prompt == "a lighthouse, (storm:1.2)\nat night"
    assert found.negative_prompt == "fog,\nblurry"
    assert found.size == "512x768"
    assert (found.seed, found.steps, found.guidance, found.model) == (42, 20, 7, "sd15")
    assert found.others["Lora hashes"] == "a: 1, b: 2"


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_parameters_of_photos(tmp_path: Path, suffix: str, order: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode(order)
    Image.new("RGB", (64, 32)).save(tmp_path / f"a.{suffix}", exif=exif)
    found = read_foreign_settings(tmp_path / f"a.{suffix}")
    assert found is not None
    assert found.prompt.startswith("a lighthouse")


def test_graph_before_parameters(tmp_path: Path) -> None:
    texts = {"prompt": json.dumps(GRAPH), "parameters": A1111}
    assert read_foreign_settings(picture(tmp_path / "a.png", **texts)) == ForeignSettings(
        program="ComfyUI", prompt="a lighthouse", negative_prompt="fog", size="64x32", seed=1
    )


CHECKPOINT = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}}
WORKFLOW = {
    "1": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1}},
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": ["9", 0], "steps": 25, "cfg": 6.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1,
            "model": ["4", 0], "positive": ["1", 0], "negative": ["1", 1], "latent_image": ["5", 0],
        },
    },
    "4": CHECKPOINT,
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 832, "height": 1216, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["4", 1]}},
    "9": {"class_type": "PrimitiveInt", "inputs": {"value": 77}},
}  # fmt: skip
ADVANCED = {
    "10": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["11", 0], "guider": ["12", 0], "sampler": ["13", 0], "sigmas": ["14", 0], "latent_image": ["15", 0]}},
    "11": {"class_type": "RandomNoise", "inputs": {"noise_seed": 77}},
    "12": {"class_type": "CFGGuider", "inputs": {"cfg": 6.5, "positive": ["6", 0], "negative": ["7", 0], "model": ["4", 0]}},
    "13": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "14": {"class_type": "BasicScheduler", "inputs": {"steps": 25, "scheduler": "simple", "denoise": 1.0, "model": ["4", 0]}},
    "15": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 832, "height": 1216}},
    "4": {"class_type": "UNETLoader", "inputs": {"unet_name": "sdxl.safetensors"}},
    "6": WORKFLOW["6"], "7": WORKFLOW["7"],
}  # fmt: skip
WEBUI = (
    "a lighthouse\nNegative prompt: fog\nSteps: 25, Sampler: Euler, Schedule type: Normal, CFG scale: 6.5, Seed: 77, "
    "Size: 832x1216, Model hash: 6ce0161689, Model: sdxl.safetensors, Clip skip: 2, Version: v1.10.1"
)
SDNEXT = (
    "a lighthouse\nNegative prompt: fog\nSteps: 25, Size: 832x1216, Sampler: Euler, Seed: 77, CFG scale: 6.5, App: SD.Next, "
    "Version: 7c2f5a1, Pipeline: StableDiffusionXLPipeline, Operations: txt2img, Model: sdxl.safetensors"
)
INVOKE = {
    "generation_mode": "sdxl_txt2img", "positive_prompt": "a lighthouse", "negative_prompt": "fog", "width": 832,
    "height": 1216, "seed": 77, "rand_device": "cpu", "cfg_scale": 6.5, "steps": 25, "scheduler": "euler",
    "model": {"key": "1-2", "hash": "blake3:0", "name": "sdxl.safetensors", "base": "sdxl", "type": "main"},
    "loras": [], "app_version": "5.6.0",
}  # fmt: skip
OLD_INVOKE = {
    "model": "stable diffusion", "model_weights": "sdxl.safetensors", "model_hash": "cc6c", "app_version": "2.2.4",
    "image": {
        "prompt": [{"prompt": "a lighthouse [fog]", "weight": 1}], "steps": 25, "cfg_scale": 6.5, "seed": 77,
        "width": 832, "height": 1216, "sampler": "k_euler", "type": "txt2img",
    },
}  # fmt: skip
MFLUX = {
    "mflux_version": "0.13.1", "model": "sdxl.safetensors", "base_model": "None", "seed": 77, "steps": 25,
    "guidance": 6.5, "height": 1216, "width": 832, "precision": "mlx.core.bfloat16", "quantize": 8,
    "generation_time_seconds": 12.5, "created_at": "2026-01-01T00:00:00", "lora_paths": None, "prompt": "a lighthouse",
    "negative_prompt": "fog",
}  # fmt: skip
FILES: dict[str, tuple[str, dict[str, str], dict[int, Any], str]] = {
    # name: suffix, texts of a PNG, EXIF, program
    "webui png": ("png", {"parameters": WEBUI}, {}, "AUTOMATIC1111's web UI"),
    "webui jpeg": ("jpg", {}, {0x9286: b"UNICODE\0" + WEBUI.encode("utf-16-be")}, "AUTOMATIC1111's web UI"),
    "sdnext png": ("png", {"parameters": SDNEXT}, {}, "SD.Next"),
    "sdnext webp": ("webp", {}, {0x9286: b"UNICODE\0" + SDNEXT.encode("utf-16-be")}, "SD.Next"),
    "comfyui png": ("png", {"prompt": json.dumps(WORKFLOW), "workflow": "{}"}, {}, "ComfyUI"),
    "comfyui webp": ("webp", {}, {0x0110: "prompt:" + json.dumps(ADVANCED), 0x010F: "workflow:{}"}, "ComfyUI"),
    "invokeai": ("png", {"invokeai_metadata": json.dumps(INVOKE)}, {}, "InvokeAI"),
    "invokeai 2.2": ("png", {"sd-metadata": json.dumps(OLD_INVOKE)}, {}, "InvokeAI"),
    "invokeai 1": (
        "png", {"Dream": '"a lighthouse [fog]" -s 25 -S 77 -W 832 -H 1216 -C 6.5 -A k_euler'}, {}, "InvokeAI",
    ),
    "mflux png": ("png", {}, {0x9286: b"ASCII\0\0\0" + json.dumps(MFLUX).encode()}, "mflux"),
    "mflux jpeg": ("jpg", {}, {0x9286: b"ASCII\0\0\0" + json.dumps(MFLUX).encode()}, "mflux"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_other_programs_write(tmp_path: Path, name: str) -> None:
    """Eleven files in the documented formats of five programs say the same."""
    suffix, texts, tags, program = FILES[name]
    info, exif, path = PngInfo(), Image.Exif(), tmp_path / f"a.{suffix}"
    for key, value in texts.items():
        info.add_text(key, value)
    for number, tagged in tags.items():
        (exif if number < 0x8000 else exif.get_ifd(0x8769))[number] = tagged
    options = {"pnginfo": info} if suffix == "png" else {}
    Image.new("RGB", (832, 1216)).save(path, exif=exif.tobytes(), **options)
    found = read_foreign_settings(path)
    assert found is not None
    assert (found.program, found.prompt, found.negative_prompt) == (program, "a lighthouse", "fog")
    assert (found.size, found.seed, found.steps, found.guidance) == ("832x1216", 77, 25, 6.5)
    assert found.model == ("" if name == "invokeai 1" else "sdxl.safetensors")
    assert found.others or name.startswith("comfyui webp")


LOOP: dict[str, Any] = {
    "1": {"inputs": {"positive": ["2", 0], "negative": ["2", 0]}},
    "2": {"inputs": {"text": ["3", 0]}},
    "3": {"inputs": {key: ["2", 0] for key in ("text", "string", "prompt", "value", "positive")}},
}


@pytest.mark.parametrize(
    "texts",
    [
        {"prompt": "a fox"},
        {"prompt": "[" * 10**5},
        {"prompt": "9" * 5000},
        {"prompt": json.dumps(LOOP)},
        {"prompt": json.dumps({"1": {"inputs": {"positive": ["9", 0], "negative": [[], 0]}}})},
        {"prompt": json.dumps({"1": 5, "2": {"inputs": [1]}})},
        {"prompt": json.dumps([1])},
        {"parameters": "words"},
        {"parameters": ""},
        {"parameters": "a " * 10**5},
        {"parameters": "a:" * 10**5},
        {"parameters": '"' * 10**5},
        {"Description": "a"},
        {"invokeai_metadata": "{"},
        {"invokeai_metadata": '{"seed": 1}'},
        {"sd-metadata": '{"image": {"prompt": [1, {}]}}'},
        {"Dream": "no quotes"},
        {"Dream": '"" -s'},
        {"parameters": '{"sui_image_params": 5}'},
        {"parameters": "{" * 10**5},
    ],
    ids=lambda texts: str(texts)[:30],
)
def test_what_says_nothing(sana: Callable[..., Any], tmp_path: Path, texts: dict[str, str]) -> None:
    path = picture(tmp_path / "a.png", **texts)
    assert read_foreign_settings(path) is None
    result = sana("info", path)
    assert (result.code, "carries no settings" in result.err) == (2, True)


def test_info(sana: Callable[..., Any], tmp_path: Path) -> None:
    """The command at the end draws something like it."""
    path = picture(tmp_path / "a.png", parameters=A1111)
    lines = sana("info", path).out.splitlines()
    assert lines[0] == "drawn by: another program (parameters)"
    command = shlex.split(lines[-1].removeprefix("something like it: ").replace("$'", "'"))
    assert command[:2] == ["sana", "generate"]
    assert command[-8:-6] == ["--size", "512x768"]
    document = sana("info", path, "--json").document
    assert document["foreign"]["others"]["Sampler"] == "Euler a"
    assert document["settings"] == {}


def test_from(sana: Callable[..., Any], tmp_path: Path) -> None:
    """What means the same is used, and the rest is named."""
    path = picture(tmp_path / "a.png", parameters=A1111)
    result = sana("generate", "--from", path, "--steps", 1, "-o", tmp_path / "b.png", "--json")
    assert result.code == 0, result.err
    told = result.document["images"][0]["settings"]
    assert told["prompt"] == "a lighthouse, (storm:1.2)\nat night"
    assert told["negative_prompt"] == "fog,\nblurry"
    assert (told["seed"], told["steps"], told["guidance"], told["size"]) == (42, 1, 7, "512x768")
    assert "left out: model, Sampler, Lora hashes" in result.err


def test_previews(sana: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "so-far.png"
    save_preview(Image.new("RGB", (64, 32)), path, step=3, steps=20)
    assert (
        sana("info", path).out
        == "preview: step 3 of 20; the finished picture carries the settings\n"
    )
    assert sana("info", path, "--json").document["preview"] == "step 3 of 20"
    result = sana("generate", "--from", path)
    assert (result.code, "is a preview, step 3 of 20" in result.err) == (2, True)


@pytest.mark.parametrize("suffix", ["heic", "gif", "tiff", "svg"])
def test_info_of_what_cannot_carry_settings(
    sana: Callable[..., Any], tmp_path: Path, suffix: str
) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    result = sana("info", tmp_path / f"a.{suffix}")
    assert (result.code, "HEIC" in result.err, "convert" in result.err) == (2, True, True)
