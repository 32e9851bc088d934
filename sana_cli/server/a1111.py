"""AUTOMATIC1111's API, `/sdapi/v1/`, as far as its clients use it to draw: txt2img, img2img, progress, interrupt, and what there is.

Samplers of other models have no meaning here: names other than ours are the model's own. What would change a picture
and is not known (scripts, ControlNet, another model or prompt for hires fix) is refused.
"""

import asyncio
import base64
import json
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sana_cli.config.choices import Scheduler
from sana_cli.config.generation import GenerationOptions
from sana_cli.images.parameters import parameters_text
from sana_cli.server.desk import Wanted
from sana_cli.server.jobs import Job
from sana_cli.server.png_info import png_info_of
from sana_cli.server.problems import Problem, validation_problem
from sana_cli.server.requests import (
    client_of,
    decoded_or_problem,
    desk_of,
    is_own,
    json_body,
    wait_for,
)

_SAMPLERS = tuple(Scheduler)
_Text = Annotated[str, Meta(max_length=200)]


class Txt2Img(msgspec.Struct, kw_only=True):
    """The fields that mean something here; others are taken and ignored."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    batch_size: Annotated[int, Meta(ge=1, le=10_000)] = 1
    n_iter: Annotated[int, Meta(ge=1, le=10_000)] = 1
    sampler_name: _Text | None = None
    sampler_index: _Text | None = None
    override_settings: dict[str, Any] | None = None
    send_images: bool = True
    denoising_strength: float | None = None
    enable_hr: bool = False
    hr_scale: float = 2.0
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_checkpoint_name: _Text | None = None
    script_name: _Text | None = None
    alwayson_scripts: dict[str, Any] | None = None


class Img2Img(Txt2Img, kw_only=True):
    """Fields of a picture that begins with another one."""

    init_images: Annotated[list[str], Meta(min_length=1, max_length=1)]
    mask: str | None = None
    inpainting_mask_invert: int = 0


class PngInfo(msgspec.Struct):
    """A picture in base64."""

    image: str


async def txt2img(request: Request) -> Response:
    """POST /sdapi/v1/txt2img"""
    return await _draw(request, await _body(request, Txt2Img))


async def img2img(request: Request) -> Response:
    """POST /sdapi/v1/img2img"""
    asked = await _body(request, Img2Img)
    if asked.enable_hr:
        raise Problem(422, "img2img has no enable_hr", "send width and height, or draw by /v1/jobs")
    if asked.inpainting_mask_invert:
        raise Problem(422, "inpainting_mask_invert is not known here", "send the inverted mask")
    files = {"image": ("init_image.png", decoded_or_problem(asked.init_images[0], "init_images"))}
    if asked.mask:
        files["mask"] = ("mask.png", decoded_or_problem(asked.mask, "mask"))
    return await _draw(request, asked, files=files, strength=asked.denoising_strength)


def _upscaled(asked: Txt2Img) -> tuple[float | None, float | None]:
    """Factor and strength of the second drawing; None without hires fix. Raises Problem for what has no meaning here."""
    if not asked.enable_hr:
        return None, None
    same = ("", "Use same checkpoint")
    for name, is_known, hint in (
        ("hr_second_pass_steps", asked.hr_second_pass_steps in (0, asked.steps), "omit it: both drawings have the same steps"),
        ("hr_resize_x", not asked.hr_resize_x, "send hr_scale"),
        ("hr_resize_y", not asked.hr_resize_y, "send hr_scale"),
        ("hr_prompt", asked.hr_prompt in ("", asked.prompt), "omit it: both drawings have the same prompt"),
        ("hr_negative_prompt", asked.hr_negative_prompt in ("", asked.negative_prompt), "omit it: both drawings have the same one"),
        ("hr_checkpoint_name", (asked.hr_checkpoint_name or "") in same, "omit it: one model draws both"),
    ):  # fmt: skip
        if not is_known:
            raise Problem(422, f"{name} is not known here", hint)
    return asked.hr_scale, asked.denoising_strength


async def _body(request: Request, kind: Any) -> Any:
    try:
        return msgspec.json.decode(await json_body(request), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = validation_problem(str(error))
        problem.status = 422  # as FastAPI answers
        raise problem from error


async def _draw(
    request: Request, asked: Txt2Img, *, files: dict[str, tuple[str, bytes]] | None = None,
    strength: float | None = None,
) -> Response:  # fmt: skip
    for name in ("script_name", "alwayson_scripts"):
        if getattr(asked, name):
            raise Problem(422, f"{name} is not known here", f"omit {name}")
    upscale, upscale_strength = _upscaled(asked)
    override = (asked.override_settings or {}).get("sd_model_checkpoint")
    model = override if isinstance(override, str) and override else request.app.state.a1111_model
    sampler = asked.sampler_name or asked.sampler_index
    options = GenerationOptions(
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        model=model,
        seed=None if asked.seed == -1 else asked.seed,
        steps=asked.steps,
        guidance_scale=asked.cfg_scale,
        width=asked.width,
        height=asked.height,
        count=asked.batch_size * asked.n_iter,
        scheduler=sampler if sampler in _SAMPLERS else None,
        strength=strength,
        upscale=upscale,
        upscale_strength=upscale_strength if upscale != 1 else None,
    )
    wanted = Wanted(
        options=options, client=client_of(request), dialect="a1111", files=files, previews=True,
        is_own=is_own(request),
    )  # fmt: skip
    job = await desk_of(request).submit(wanted)
    await wait_for(request, job)
    if job.error is not None:
        raise Problem.of(job.error)
    pngs = [await asyncio.to_thread(picture.read) for picture in job.pictures]
    if job.status == "cancelled" and job.last_preview is not None:
        pngs.append(job.last_preview)  # an interrupted picture is shown as far as it came
    return JSONResponse({
        "images": [base64.b64encode(png).decode() for png in pngs] if asked.send_images else [],
        "parameters": msgspec.to_builtins(asked),
        "info": json.dumps(_info(job)),
    }, headers={"X-Sana-Job": job.id})  # fmt: skip


def _info(job: Job) -> dict[str, Any]:
    """Describe a job as the web UI does."""
    first, params = job.work.pictures[0], job.work.pictures
    size = first.upscale or first  # of the first drawing, as the web UI
    return {
        "prompt": first.prompt,
        "all_prompts": [p.prompt for p in params],
        "negative_prompt": first.negative_prompt,
        "all_negative_prompts": [p.negative_prompt for p in params],
        "seed": first.seed,
        "all_seeds": [p.seed for p in params],
        "width": size.width,
        "height": size.height,
        "sampler_name": first.scheduler,
        "cfg_scale": first.guidance_scale,
        "steps": first.steps,
        "batch_size": len(params),
        "sd_model_name": job.work.checkpoint.name,
        "infotexts": [parameters_text(p.facts["settings"]) for p in job.pictures],
        "interrupted": job.status == "cancelled",
    }


def _running(request: Request) -> Job | None:
    """The job that is drawn now, else the first that waits."""
    desk = desk_of(request)
    return desk.engine.current or next(iter(desk.jobs.open()), None)


async def progress(request: Request) -> Response:
    """GET /sdapi/v1/progress, with the preview of the running picture."""
    job, skip = _running(request), request.query_params.get("skip_current_image", "").lower()
    done = 0.0
    if job is not None and job.steps:
        done = (len(job.pictures) + job.step / job.steps) / len(job.work.pictures)
    image = job.preview if job is not None and skip not in ("true", "1") else None
    return JSONResponse({
        "progress": round(min(done, 0.99), 4),
        "eta_relative": 0.0 if job is None else round(desk_of(request).engine.seconds * (1 - done), 2),
        "state": {
            "skipped": False,
            "interrupted": job is not None and job.is_stopped,
            "stopping_generation": False,
            "job": job.id if job else "",
            "job_count": len(desk_of(request).jobs.open()),
            "job_timestamp": "0",
            "job_no": len(job.pictures) if job else 0,
            "sampling_step": job.step if job else 0,
            "sampling_steps": job.steps if job else 0,
        },
        "current_image": base64.b64encode(image).decode() if image else None,
        "textinfo": None,
    })  # fmt: skip


async def interrupt(request: Request) -> Response:
    """POST /sdapi/v1/interrupt: stop the running picture, if it was asked for by this API."""
    job = desk_of(request).engine.current
    if job is not None and job.dialect == "a1111":
        desk_of(request).cancel(job)
    return JSONResponse({})


async def models(request: Request) -> Response:
    """GET /sdapi/v1/sd-models"""
    return JSONResponse([
        {
            "title": served.name, "model_name": served.name, "hash": None, "sha256": None,
            "filename": served.name, "config": None,
        }
        for served in desk_of(request).models.names()
    ])  # fmt: skip


async def samplers(request: Request) -> Response:
    """GET /sdapi/v1/samplers"""
    return JSONResponse([{"name": name, "aliases": [], "options": {}} for name in _SAMPLERS])


async def options(request: Request) -> Response:
    """GET /sdapi/v1/options"""
    return JSONResponse(
        {"sd_model_checkpoint": request.app.state.a1111_model or desk_of(request).models.default}
    )


async def set_options(request: Request) -> Response:
    """POST /sdapi/v1/options: `sd_model_checkpoint` is the model of requests that name none; others are ignored."""
    said = await _body(request, dict[str, Any])
    name = said.get("sd_model_checkpoint")
    if name is not None:
        known = [served.name for served in desk_of(request).models.names()]
        if name not in known:
            raise Problem(
                404, f"this server has no model {str(name)[:80]!r}", f"it has: {', '.join(known)}"
            )
        request.app.state.a1111_model = name
    return JSONResponse(None)


async def png_info(request: Request) -> Response:
    """POST /sdapi/v1/png-info"""
    asked = await _body(request, PngInfo)
    content = decoded_or_problem(asked.image, "image")
    return JSONResponse(await asyncio.to_thread(png_info_of, content))


def _always(document: Any) -> Any:
    async def answer(request: Request) -> Response:
        return JSONResponse(document)

    return answer


_NOTHING: dict[str, Any] = {  # lists that clients ask for before they draw
    "cmd-flags": {}, "scripts": {"txt2img": [], "img2img": []}, "loras": [], "upscalers": [], "embeddings": {
        "loaded": {}, "skipped": {},
    }, "hypernetworks": [], "face-restorers": [], "prompt-styles": [], "sd-vae": [],
    "schedulers": [{"name": "automatic", "label": "Automatic"}],
}  # fmt: skip
_AT = "/sdapi/v1"
ROUTES = [
    Route(f"{_AT}/txt2img", txt2img, methods=["POST"]),
    Route(f"{_AT}/img2img", img2img, methods=["POST"]),
    Route(f"{_AT}/progress", progress, methods=["GET"]),
    Route(f"{_AT}/interrupt", interrupt, methods=["POST"]),
    Route(f"{_AT}/sd-models", models, methods=["GET"]),
    Route(f"{_AT}/samplers", samplers, methods=["GET"]),
    Route(f"{_AT}/options", options, methods=["GET"]),
    Route(f"{_AT}/options", set_options, methods=["POST"]),
    Route(f"{_AT}/png-info", png_info, methods=["POST"]),
    *(Route(f"{_AT}/{name}", _always(said), methods=["GET"]) for name, said in _NOTHING.items()),
]
