"""Clients that are not ours: OpenAI's package, an A1111 client, curl."""

import base64
import io
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:  # each worker collects this file, and one runs it
    import openai
    import webuiapi

OURS = {"seed": 3, "steps": 2}
SIZE = "64x64"


@pytest.fixture
def ai(server: Any) -> "openai.OpenAI":
    import openai

    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def webui(server: Any) -> "webuiapi.WebUIApi":
    import webuiapi

    port = int(server.url.rpartition(":")[2])
    return webuiapi.WebUIApi(host="127.0.0.1", port=port)


def file_of(image: Image.Image, name: str = "cat.png") -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format="PNG")
    file.seek(0)
    file.name = name
    return file


def pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).convert("RGB").tobytes()


def test_openai_generates(ai: "openai.OpenAI", expected: Callable[..., bytes]) -> None:
    done = ai.images.generate(
        model="gpt-image-1", prompt="a cat", n=2, size=SIZE, quality="high", extra_body=OURS
    )
    assert done.data
    pictures = [base64.b64decode(item.b64_json or "") for item in done.data]
    assert pictures == [expected("a cat", seed=3), expected("a cat", seed=4)]


def test_openai_edits_one_image(ai: "openai.OpenAI") -> None:
    """None of several is dropped in silence."""
    import openai

    files = [file_of(Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue")]
    with pytest.raises(openai.BadRequestError, match="image is said twice"):
        ai.images.edit(image=files, prompt="a cat", size=SIZE)


def test_openai_gets_an_address(
    ai: "openai.OpenAI", server: Any, expected: Callable[..., bytes]
) -> None:
    done = ai.images.generate(
        prompt="a cat", size=SIZE, response_format="url", extra_body=OURS | {"negative_prompt": "x"}
    )
    assert done.data
    with server.client() as client:
        content = client.get(done.data[0].url).content
    assert content == expected("a cat", seed=3, negative_prompt="x")


def test_openai_streams(ai: "openai.OpenAI", expected: Callable[..., bytes]) -> None:
    extra = OURS | {"steps": 8}
    events = list(ai.images.generate(
        model="builtin", prompt="a cat", size=SIZE, stream=True, partial_images=2, extra_body=extra
    ))  # fmt: skip
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert base64.b64decode(events[-1].b64_json) == expected("a cat", seed=3, steps=8)


def test_openai_edits_where_the_mask_is_transparent(ai: "openai.OpenAI") -> None:
    original = Image.linear_gradient("L").convert("RGB").resize((64, 64))
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    done = ai.images.edit(
        image=file_of(original), mask=file_of(mask, "mask.png"), prompt="a tree", extra_body=OURS
    )
    assert done.data
    drawn = Image.open(io.BytesIO(base64.b64decode(done.data[0].b64_json or "")))
    right = (32, 0, 64, 64)
    assert drawn.crop(right).tobytes() == original.crop(right).tobytes()
    assert drawn.tobytes() != original.tobytes()


def test_openai_lists_models_and_gets_errors(ai: "openai.OpenAI") -> None:
    import openai

    assert [model.id for model in ai.models.list()] == ["builtin"]
    assert ai.models.retrieve("builtin").owned_by == "sana"
    with pytest.raises(openai.NotFoundError, match="no model"):
        ai.images.generate(model="nonesuch", prompt="a cat")
    with pytest.raises(openai.BadRequestError, match="100x100"):
        ai.images.generate(prompt="a cat", size="100x100")
    with pytest.raises(openai.BadRequestError, match="steps"):
        ai.images.generate(prompt="a cat", extra_body={"steps": "many"})


def test_a1111_draws_and_reads_what_it_drew(
    webui: "webuiapi.WebUIApi", expected: Callable[..., bytes]
) -> None:
    done = webui.txt2img(
        prompt="a cat", seed=3, steps=2, cfg_scale=4.5, width=64, height=64, batch_size=2
    )
    want = [expected("a cat", seed=seed, guidance_scale=4.5) for seed in (3, 4)]
    assert [image.tobytes() for image in done.images] == [pixels(png) for png in want]
    assert done.info["all_seeds"] == [3, 4]
    found = webui.png_info(done.image)
    assert "Seed: 3" in found.info
    assert found.info == done.info["infotexts"][0]


def test_a1111_draws_from_a_picture(webui: "webuiapi.WebUIApi") -> None:
    original = Image.linear_gradient("L").convert("RGB").resize((64, 64))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    done = webui.img2img(
        images=[original], mask_image=mask, prompt="a tree", seed=3, steps=4, width=64, height=64,
        denoising_strength=0.75,
    )  # fmt: skip
    right = (32, 0, 64, 64)
    assert done.image.crop(right).tobytes() == original.crop(right).tobytes()


def test_a1111_watches_and_interrupts(webui: "webuiapi.WebUIApi") -> None:
    drawn: list[Any] = []
    drawing = threading.Thread(
        target=lambda: drawn.append(webui.txt2img(prompt="a cat", steps=200, width=256, height=256))
    )
    drawing.start()
    seen = webui.get_progress()
    while drawing.is_alive() and not seen["state"]["sampling_step"]:
        time.sleep(0.02)
        seen = webui.get_progress()
    assert 0 < seen["progress"] < 1
    assert seen["state"]["sampling_steps"] == 200
    webui.interrupt()
    drawing.join(60)
    assert drawn[0].info["interrupted"] is True
    assert webui.get_progress()["state"]["job_count"] == 0


def test_a1111_asks_what_there_is(webui: "webuiapi.WebUIApi") -> None:
    assert [model["title"] for model in webui.get_sd_models()] == ["builtin"]
    assert "flow-dpm" in [sampler["name"] for sampler in webui.get_samplers()]
    webui.set_options({"sd_model_checkpoint": "builtin"})
    assert webui.get_options()["sd_model_checkpoint"] == "builtin"
    for wish in (
        {"alwayson_scripts": {"controlnet": {"args": [{}]}}},
        {"enable_hr": True, "hr_second_pass_steps": 7},
        {"enable_hr": True, "hr_resize_x": 128},
        {"enable_hr": True, "hr_prompt": "a dog"},
        {"enable_hr": True, "hr_checkpoint_name": "another"},
    ):
        with pytest.raises(RuntimeError, match="is not known here"):
            webui.txt2img(prompt="a cat", **wish)
    with pytest.raises(RuntimeError, match='"errors":"upscale 99 is out of range'):
        webui.txt2img(prompt="a cat", enable_hr=True, hr_scale=99, steps=2)


def test_a1111_enlarges(webui: "webuiapi.WebUIApi", expected: Callable[..., bytes]) -> None:
    done = webui.txt2img(
        prompt="a cat", seed=3, steps=2, cfg_scale=4.5, width=64, height=64, enable_hr=True,
        hr_scale=2, denoising_strength=0.5,
    )  # fmt: skip
    want = expected("a cat", seed=3, guidance_scale=4.5, upscale=2, upscale_strength=0.5)
    assert done.image.tobytes() == pixels(want)
    assert (done.info["width"], done.image.width) == (64, 128)
    told = "Size: 64x64, Model: builtin, Denoising strength: 0.5, Hires upscale: 2, Hires steps: 2"
    found = webui.png_info(done.image).info
    assert re.sub(r"Model hash: \w+, ", "", found).splitlines()[-1].find(told) > 0, found


def test_curl(server: Any, expected: Callable[..., bytes]) -> None:
    body = json.dumps({"prompt": "a cat", "size": SIZE, **OURS})
    done = subprocess.run(
        ["curl", "-sS", f"{server.url}/v1/images/generations", "-H", "Content-Type: application/json", "-d", body],
        capture_output=True, check=True,
    )  # fmt: skip
    data = json.loads(done.stdout)["data"]
    assert base64.b64decode(data[0]["b64_json"]) == expected("a cat", seed=3)
