"""The `parameters` text: names that galleries look up models and LoRAs by."""

from sana_cli.images.parameters import parameters_text, settings_json

SETTINGS = {
    "prompt": "a fox", "negative_prompt": "", "seed": 7, "steps": 20, "guidance": 4.5, "scheduler": "flow-dpm",
    "size": "512x512", "model": "sana-0.6b", "model_hash": "0123456789", "strength": 0.6,
    "loras": ["~/a, b.safetensors:0.8", "style:1.safetensors:1.0"], "lora_digests": ["a" * 64, "b" * 64], "version": "1",
}  # fmt: skip


def test_hashes_and_strength() -> None:
    assert parameters_text(SETTINGS).splitlines() == [
        "a fox",
        "Steps: 20, Sampler: flow-dpm, CFG scale: 4.5, Seed: 7, Size: 512x512, Model hash: 0123456789, "
        'Model: sana-0.6b, Denoising strength: 0.6, Lora hashes: "a- b: aaaaaaaaaa, style-1: bbbbbbbbbb", Version: 1',
    ]


def test_a_picture_that_was_enlarged() -> None:
    """As the web UI tells hires fix: the size is the first drawing's."""
    enlarged = {**SETTINGS, "upscale": 2.0, "upscale_strength": 0.35, "upscaled_from": "256x256"}
    drawn = {k: v for k, v in enlarged.items() if k != "strength"}
    told = "Denoising strength: 0.35, Hires upscale: 2, Hires steps: 20, Hires upscaler: Lanczos,"
    assert told in parameters_text(drawn)
    assert "Size: 256x256" in parameters_text(drawn)
    given = parameters_text({**drawn, "image": "a.png"})
    assert "Size: 512x512" in given
    assert "Denoising strength: 0.35," in given
    assert "Hires" not in given
    assert "Denoising strength: 0.6," in parameters_text({**enlarged, "image": "a.png"})


def test_what_is_not_known_is_not_said() -> None:
    plain = {k: v for k, v in SETTINGS.items() if k not in ("model_hash", "strength", "loras")}
    assert "hash" not in parameters_text(plain)
    assert "Denoising" not in parameters_text(plain)
    assert "Lora" not in parameters_text({**SETTINGS, "lora_digests": []})


def test_names_that_are_no_utf8_are_escaped() -> None:
    assert settings_json({"a": "狐"}) == '{"a": "狐"}'
    assert settings_json({"a": "\udcff"}) == '{"a": "\\udcff"}'
