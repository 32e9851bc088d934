"""Decide what `sana quantize` writes, by running the float model part by part.

The order is that of a picture: texts, then the transformer, then the decoder; each part's results are the next
one's inputs, and only one part is loaded at a time.
"""

import gc
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calibration.collect import step_calls, text_calls
from calibration.comparison import FILE, Comparison, compare
from calibration.convolutions import calibrate_convolutions
from calibration.float_model import FloatModel
from calibration.kept_layers import choose_kept, with_kept
from calibration.linears import NEAREST, Found, Methods, calibrate_linears, groups
from calibration.observe import Call
from calibration.safe_decoder import SafeDecoder, guarded
from calibration.sensitivity import noise_of_layers, probe_calls, to_db
from quant.config import QuantConfig
from quant.convert import LayerReport, resolve
from quant.layers import QuantConv2d, QuantLinear
from quant.manifest import sha256_of
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.component_weights import component_weights
from sana_cli.config.recipes import KeepRule, component_recipe
from sana_cli.errors import ExitCode, SanaError, checkpoint_error, usage_error
from sana_cli.loading.load import empty_module, load_vae
from sana_cli.pipeline.decode import decode
from sana_cli.pipeline.recovery import translate_out_of_memory
from sana_cli.pipeline.values import BrokenValues
from sana_cli.progress import Reporter
from sana_cli.quantize_checkpoint import ComponentPlan
from sana_cli.system.torch_memory import release_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The inputs and limits of a calibration."""

    prompts: tuple[str, ...]
    samples: int  # pictures
    steps: int | None = None  # denoising steps of each; None: the model's
    seed: int = 0
    keep: KeepRule | None = None  # which of the transformer's layers get more bits
    methods: Methods = field(default_factory=Methods)
    guard_decoder: bool = False  # 8-bit inputs of the decoder only where pictures do not suffer
    compare: bool = True  # draw comparison.png


class Calibrator(FloatModel):
    """Runs the float model when a component's turn comes; `plan` is asked in the order of a picture."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        schemes: Mapping[str, str],
        options: Options,
        *,
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        prompts = [options.prompts[i % len(options.prompts)] for i in range(options.samples)]
        super().__init__(
            checkpoint, prompts, steps=options.steps, seed=options.seed, device=device,
            reporter=reporter,
        )  # fmt: skip
        self.schemes, self.options = schemes, options
        self.comparison: Comparison | None = None
        self.predicted_db: float | None = None  # SQNR of the latents, for --budget-db
        self.effects_db: dict[str, float] = {}  # SQNR of the velocity when one layer is quantized
        self.safe_decoder: SafeDecoder | None = None  # what the guard of the decoder found
        self._require_room_for_keep()

    # -- what the writer asks (quantizing.Calibration) -----------------------------------------

    def key(self, component: str) -> list[Any]:
        """Everything that decides the results: settings, prompts and the files of all parts."""
        options = asdict(self.options)
        options["prompts"] = _digest(json.dumps(self.options.prompts))
        options["loras"] = [[lora.file.digest, lora.scale] for lora in self.checkpoint.loras]
        small = sorted(self.checkpoint.folder.glob("*/*.json")) + sorted(
            self.checkpoint.folder.glob("*.json")
        )
        files = [
            component_weights(self.checkpoint, name).fingerprint for name in self.checkpoint.parts
        ]
        files += [sha256_of(path) for path in small if path.is_file()]
        return [options, self.device.type, str(self.dtypes), _digest("".join(files))]

    def plan(self, component: str) -> ComponentPlan | None:
        """Calibrate one component; None for a ControlNet. SanaError where the float model draws nothing sane."""
        # Its inputs depend on control pictures, and nobody brings any.
        if component == "controlnet":
            return None
        plans = {
            "text_encoder": self._plan_text_encoder,
            "transformer": self._plan_transformer,
            "vae": self._plan_vae,
        }
        try:
            settings = self.drawings[0].settings
            with translate_out_of_memory(settings.drawn_width, settings.drawn_height):
                return plans[component]()
        except SanaError as error:
            if error.code == ExitCode.ENVIRONMENT:
                error.hint = "close other programs; --samples 0 holds one layer in memory"
            raise
        except BrokenValues as broken:
            raise checkpoint_error(
                f"cannot calibrate: {broken} of the unquantized model",
                hint="--samples 0 quantizes without running it",
            ) from broken
        finally:
            release_memory(self.device)

    def finish(self, folder: Path) -> None:
        """Draw the comparison picture into the finished folder."""
        if not self.options.compare:
            return
        self._texts, self._latents = [], []
        gc.collect()
        self.comparison = compare(
            self.checkpoint, folder, steps=self.options.steps, device=self.device,
            reporter=self.reporter,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Return what was done and its results, as JSON. Call it after `finish`."""
        assert self.comparison is not None
        options, predicted, safe = self.options, self.predicted_db, self.safe_decoder
        effects = {path: round(value, 2) for path, value in self.effects_db.items()}
        return {
            "calibration": {
                "samples": options.samples,
                "steps": self.drawings[0].settings.steps,
                "seed": options.seed,
                "device": self.device.type,
                "precision": str(self.dtypes),
                **({"velocity_sqnr_db_of_one_layer": effects} if effects else {}),
                **({"predicted_latent_sqnr_db": round(predicted, 2)} if predicted else {}),
                **({"decoder": safe.facts()} if safe else {}),
            },
            "comparison": {"file": FILE, **asdict(self.comparison)},
        }

    # -- components ----------------------------------------------------------------------------

    def _plan_text_encoder(self) -> ComponentPlan | None:
        configs, layers = self._configs("text_encoder")
        linears = {path: config for path, config in configs.items() if config.scheme.coarse}
        if not linears:  # nothing to find for 8-bit weights alone
            return None
        encoder = self._load_encoder()
        self.encode(encoder)
        calls = text_calls(encoder, self.drawings)
        methods = replace(self.options.methods, smooth=False)
        found = self._calibrate(encoder.model, linears, calls, "text encoder", methods)
        return _finished(layers, found)

    def _plan_transformer(self) -> ComponentPlan | None:
        configs, layers = self._configs("transformer")
        if not configs:
            return None
        transformer = self._load_transformer()
        inputs = self.record(transformer)
        calls = step_calls(transformer, self._texts, inputs)
        keep = self.options.keep
        found = self._calibrate(
            transformer, configs, calls, "transformer", self.options.methods,
            spare=keep.config if keep else None,
        )  # fmt: skip
        plan = _finished(layers, found, replaced_from=transformer)
        if keep is None:
            return plan
        with self.reporter.stage("sensitivity", len(found.layers)) as advance:
            noise = noise_of_layers(transformer, found.layers, probe_calls(calls), advance=advance)
        self.effects_db = {path: to_db(value) for path, value in noise.items()}
        offset = partial(self.latent_offset_db, transformer, found.layers, sum(noise.values()))
        kept, self.predicted_db = choose_kept(keep, noise, found, offset)
        return with_kept(plan, found, kept, keep)

    def _plan_vae(self) -> ComponentPlan | None:
        configs, layers = self._configs("vae")
        kinds = {report.path: report.kind for report in layers}
        inside = {  # a picture is only decoded, so nothing is known of the encoder's inputs
            path: config
            for path, config in configs.items()
            if not config.scheme.weight_only and path.startswith("decoder.")
        }
        if not inside:
            return None
        if not self._latents:
            self.record(self._load_transformer())
        with self.reporter.stage("load decoder"):
            vae = load_vae(self.checkpoint, dtype=self.dtypes.vae, device=self.device)
        calls = [Call(lambda one=latents: decode(vae, one)) for latents in self._latents]  # type: ignore[misc]
        kernels = [p for p in inside if kinds[p].startswith("conv") and kinds[p] != "conv 1x1"]
        linears = {path: config for path, config in inside.items() if path not in kernels}
        # A picture has a million rows: Hessians would take longer than all drawing, for layers that hardly matter.
        found = self._calibrate(vae, linears, calls, "decoder", NEAREST)
        plan = _finished(layers, found)
        if kernels:
            with self.reporter.stage("observe decoder", len(calls)) as advance:
                convs, sqnr = calibrate_convolutions(
                    vae, kernels, inside[kernels[0]], calls, seed=self.options.seed, advance=advance
                )
            plan = _with_convolutions(plan, convs, sqnr)
        if self.options.guard_decoder:
            with self.reporter.stage("check decoder"):
                plan, self.safe_decoder = guarded(plan, vae, calls)
        return plan

    # -- steps of the work ---------------------------------------------------------------------

    def _configs(self, component: str) -> tuple[dict[str, QuantConfig], list[LayerReport]]:
        model = empty_module(self.checkpoint, component)
        layers = resolve(model, component_recipe(component, self.schemes[component]))
        return {r.path: r.config for r in layers if r.config and r.kind != "embedding"}, layers

    def _require_room_for_keep(self) -> None:
        keep = self.options.keep
        count = len(self._configs("transformer")[0])
        if keep is not None and keep.count is not None and keep.count > count:
            raise usage_error(
                f"--keep {keep.count}: only {count} layers of the transformer are quantized",
                f"use 0 to {count}",
            )

    def _calibrate(
        self,
        model: nn.Module,
        configs: Mapping[str, QuantConfig],
        calls: Sequence[Call],
        title: str,
        methods: Methods,
        *,
        spare: QuantConfig | None = None,
    ) -> Found:
        if not configs:
            return Found()
        runs = len(groups(model, configs, calls, methods=methods)) * len(calls)
        with self.reporter.stage(f"calibrate {title}", runs) as advance:
            return calibrate_linears(
                model, configs, calls, methods=methods, seed=self.options.seed,
                spare_config=spare, advance=advance,
            )  # fmt: skip


def _finished(
    layers: list[LayerReport], found: Found, *, replaced_from: nn.Module | None = None
) -> ComponentPlan:
    """Put what calibration found into a component's plan, and the float tensors that folding changed."""
    state = replaced_from.state_dict() if replaced_from is not None else {}
    replaced = {name: state[name] for name in found.folded}
    return ComponentPlan(
        layers=_decided(layers, found.layers), finished=found.layers, replaced=replaced, sqnr=found.sqnr
    )  # fmt: skip


def _with_convolutions(
    plan: ComponentPlan, convs: Mapping[str, QuantConv2d], sqnr: Mapping[str, float]
) -> ComponentPlan:
    return replace(
        plan, layers=_decided(plan.layers, convs),
        finished={**plan.finished, **convs}, sqnr={**plan.sqnr, **sqnr},
    )  # fmt: skip


def _decided(
    layers: Sequence[LayerReport], finished: Mapping[str, QuantLinear | QuantConv2d]
) -> list[LayerReport]:
    """Return the reports with the configuration of each finished layer."""
    return [
        replace(layer, config=finished[layer.path].config) if layer.path in finished else layer
        for layer in layers
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
