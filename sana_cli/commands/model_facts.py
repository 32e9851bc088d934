"""Describe a model for `sana info`: one document of numbers and stable keys, and lines for people.

docs/json.md describes the document. Every key is always there; null where nothing is known.
"""

import json
from typing import TYPE_CHECKING, Any

from quant.files import read_small_text
from quant.manifest import REPORT
from sana_cli.errors import ExitCode, SanaError
from sana_cli.text import readable_bytes

if TYPE_CHECKING:
    from sana_cli.checkpoints.checkpoint import Checkpoint
    from sana_cli.config.variants import Variant

_KEYS = (
    "model", "downloaded", "description", "folder", "repository", "revision", "on_disk_bytes", "download_bytes",
    "components", "quantized", "num_layers", "inner_dim", "native_size", "steps", "guidance", "scheduler",
    "flow_shift", "precision", "memory", "licence", "licence_url", "vocabulary",
)  # fmt: skip


def model_document(model: str) -> dict[str, Any]:
    """All that is known of a model, here or not; SanaError for one that cannot be read or is not known."""
    facts = _known(model)
    return {key: facts.get(key) for key in _KEYS}


def _known(model: str) -> dict[str, Any]:
    from sana_cli.checkpoints.model_names import looks_like_repo
    from sana_cli.checkpoints.opening import open_checkpoint, open_snapshot
    from sana_cli.config.variants import find_variant
    from sana_cli.files import local_path

    variant = None if local_path(model).exists() else find_variant(model)
    if variant or (looks_like_repo(model) and not local_path(model).exists()):
        from sana_cli.checkpoints import hub_cache

        repo_id, weight_variant = (
            (variant.repo, variant.weight_variant) if variant else (model, None)
        )
        cached = hub_cache.find(repo_id, weight_variant=weight_variant)
        if cached is None or cached.snapshot is None or not cached.complete:
            size = cached.size_bytes if cached else None
            return {**_absent(model, variant), "on_disk_bytes": size}
        checkpoint = open_snapshot(model, cached.snapshot, variant)
        facts = {**_local(checkpoint), "on_disk_bytes": cached.size_bytes}
        return {**facts, **(_published(variant) if variant else {})}
    return _local(open_checkpoint(model, offline=True))


def _absent(model: str, variant: "Variant | None") -> dict[str, Any]:
    """Describe a model that is not here: a published one without the network, another by its files' headers."""
    from sana_cli.checkpoints.obtaining import Access
    from sana_cli.checkpoints.opening import open_checkpoint, open_published
    from sana_cli.config.user_settings import preferences

    if variant:
        return {**_configuration(open_published(variant)), **_published(variant)}
    try:
        access = Access(offline=preferences().is_offline(None), planning=True)
        checkpoint = open_checkpoint(model, access)
    except SanaError as error:
        if error.code == ExitCode.ENVIRONMENT:
            error.message = f"{model} is not in the local cache: {error.message}"
            error.hint = (
                f"`sana pull {model}` downloads it; is it the path of a file? there is none"
            )
        raise
    size = checkpoint.absent.download_bytes if checkpoint.absent else None
    return {**_configuration(checkpoint), "download_bytes": size}


def _published(variant: "Variant") -> dict[str, Any]:
    return {
        "repository": variant.repo,
        "download_bytes": sum(variant.download_bytes.values()),
        "native_size": variant.native_size,
        "steps": variant.steps,
        "guidance": variant.guidance,
        "scheduler": variant.scheduler,
        "precision": variant.precision,
        "licence": variant.license,
        "licence_url": variant.license_url,
    }


def _local(checkpoint: "Checkpoint") -> dict[str, Any]:
    from sana_cli.checkpoints.installed import size_on_disk

    components = _components(checkpoint)
    on_disk = sum(part["bytes"] for part in components.values())
    if checkpoint.pth is None:  # whose folder is no model's
        on_disk = max(on_disk, size_on_disk(checkpoint.folder))  # links count as what they lead to
    return {
        **_configuration(checkpoint),
        "description": checkpoint.own.description or None,
        "folder": str(checkpoint.folder),
        "on_disk_bytes": on_disk,
        "components": components,
        "quantized": _quantized(checkpoint),
        "vocabulary": dict(checkpoint.own.vocabulary or {}) or None,
    }


def _configuration(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Describe a model whose weights may not be here."""
    from sana_cli.terminal.memory_needs import memory_needs

    defaults, config = checkpoint.defaults, checkpoint.transformer
    return {
        "model": checkpoint.name,
        "downloaded": checkpoint.absent is None,
        "revision": checkpoint.revision or None,
        "memory": memory_needs(checkpoint),
        "num_layers": config.num_layers,
        "inner_dim": config.inner_dim,
        "native_size": defaults.native_size,
        "steps": defaults.steps,
        "guidance": defaults.guidance_scale,
        "scheduler": defaults.scheduler,
        "flow_shift": defaults.flow_shift,
        "precision": checkpoint.trained_precision,
    }


def _components(checkpoint: "Checkpoint") -> dict[str, dict[str, Any]]:
    from sana_cli.checkpoints.checkpoint import weight_files

    report = _report(checkpoint).get("components", {})
    parts: dict[str, dict[str, Any]] = {}
    for component in checkpoint.parts:
        part: dict[str, Any] = {"parameters": None, "dtype": None, "schemes": []}
        if component == "transformer" and checkpoint.pth is not None:
            part |= {"bytes": checkpoint.pth.stat().st_size, "file": str(checkpoint.pth)}
        elif checkpoint.manifest is not None:
            stored = checkpoint.manifest.components[component]
            schemes = sorted({str(config) for config in stored.layers.values() if config})
            size = (checkpoint.folder / stored.file).stat().st_size
            measured = report.get(component, {})
            decibels = {key: measured.get(key) for key in ("sqnr_db_worst", "sqnr_db_median")}
            part |= {"bytes": size, "schemes": schemes, **decibels}
        else:
            files = weight_files(checkpoint, component)
            part |= {
                "bytes": files.total_bytes, "parameters": files.parameters, "dtype": str(files.dtype),
            }  # fmt: skip
        parts[component] = part
    return parts


def _quantized(checkpoint: "Checkpoint") -> dict[str, Any] | None:
    """Return the origin of a quantized folder; facts that older versions did not write are null."""
    manifest = checkpoint.manifest
    if manifest is None:
        return None
    report = _report(checkpoint)
    calibration = report.get("calibration") or {}
    return {
        "base_model": manifest.base_model,
        "base_revision": manifest.base_revision or None,
        "recipe": manifest.recipe,
        "written_by": manifest.written_by,
        "written_at": report.get("written_at"),
        "samples": calibration.get("samples", 0 if report else None),
        "seed": calibration.get("seed"),
        "psnr_db": (report.get("comparison") or {}).get("psnr_db"),
    }


def _report(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Read the report that `sana quantize` wrote next to the weights; {} if it is missing or
    unreadable: nothing depends on it.
    """
    try:
        report = json.loads(read_small_text(checkpoint.folder / REPORT))
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(report, dict) and all(
        isinstance(report.get(key, {}), dict) for key in ("components", "calibration", "comparison")
    )
    return report if known else {}


def for_people(document: dict[str, Any]) -> dict[str, Any]:
    """The same in words, without what is not known."""
    from sana_cli.terminal.memory_needs import memory_in_words

    size = document["native_size"]
    shown = {
        "model": document["model"],
        **({} if document["downloaded"] else {"downloaded": False}),
        "on disk": _bytes(document["on_disk_bytes"]),
        **{key: document[key] for key in ("description", "folder", "revision")},
        **{name: _part_in_words(part) for name, part in (document["components"] or {}).items()},
        **_origin_in_words(document["quantized"] or {}),
        "blocks": document["num_layers"] and f"{document['num_layers']} of width {document['inner_dim']}",
        "native size": f"{size}x{size}",
        **{key: document[key] for key in ("steps", "guidance", "scheduler")},
        "flow shift": document["flow_shift"],
        "precision": document["precision"],
        "memory": memory_in_words(document["memory"]),
        "repository": document["repository"],
        "download": _bytes(document["download_bytes"]),
        "licence": document["licence"],
        "licence text": document["licence_url"],
        "vocabulary": document["vocabulary"],
    }  # fmt: skip
    return {key: value for key, value in shown.items() if value is not None}


def _part_in_words(part: dict[str, Any]) -> str:
    size = readable_bytes(part["bytes"])
    if part.get("file"):
        return f"{part['file']}, {size}"
    if part["parameters"] is not None:
        return f"{part['parameters'] / 1e6:,.1f} M parameters, {part['dtype']}, {size}"
    schemes = " and ".join(part["schemes"]) or "not quantized"
    median, worst = part["sqnr_db_median"], part["sqnr_db_worst"]
    numbers = isinstance(median, float) and isinstance(worst, float)
    return f"{schemes}, {size}" + (
        f", SQNR {median:.1f} dB (median), {worst:.1f} dB (worst layer)" if numbers else ""
    )


def _origin_in_words(origin: dict[str, Any]) -> dict[str, Any]:
    if not origin:
        return {}
    revision = f" at {origin['base_revision']}" if origin["base_revision"] else ""
    samples = origin["samples"]
    return {
        "quantized from": f"{origin['base_model']}{revision}",
        "recipe": origin["recipe"],
        "written": ", ".join(filter(None, (origin["written_at"], origin["written_by"]))),
        "calibrated with": "no data" if samples == 0 else samples and f"{samples} pictures",
        "PSNR against the float model": origin["psnr_db"]
        and ", ".join(f"{value} dB" for value in origin["psnr_db"]),
    }


def _bytes(count: int | None) -> str | None:
    return None if count is None else readable_bytes(count)
