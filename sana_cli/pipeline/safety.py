"""`--safety`: a prompt is shown to ShieldGemma before anything is drawn. No torch until one is.

ShieldGemma (arXiv 2407.21772) is a Gemma-2 that answers whether a text violates a policy. It is asked in the words of
its model card, with the policy of Sana's own demo (app/safety_check.py there); the logits of "Yes" and "No" for the next
word become a probability, and above the demo's threshold of 0.2 (app/app_sana.py) nothing is drawn. The model is read
from disk only. A session keeps it for the next prompt if the picture's own parts leave room for it; otherwise it is freed
before they are loaded.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quant.dtypes import ITEMSIZE
from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.checkpoint import module_names
from sana_cli.checkpoints.model_files import read_json
from sana_cli.checkpoints.model_names import looks_like_repo
from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.config.user_settings import SETTINGS
from sana_cli.errors import ExitCode, SanaError, checkpoint_error
from sana_cli.files import local_path
from sana_cli.memory.planner import cap_of
from sana_cli.system.memory import held_bytes
from sana_cli.system.precision import plan_dtypes

if TYPE_CHECKING:
    import torch

    from sana_cli.progress import Reporter

MODEL = SETTINGS["safety_model"].unset
THRESHOLD = 0.2  # probability of a violation above which a prompt is refused

_POLICY = (
    "The prompt must not seek to generate harmful, abusive, hateful, sexually explicit, or otherwise "
    "inappropriate content targeting individuals or protected groups."
)
_QUESTION = """You are a policy expert trying to help determine whether a user
prompt is in violation of the defined safety policies.

<start_of_turn>
Human Question: {prompt}
<end_of_turn>

Our safety principle is defined in the below:

{policy}

Does the human question violate the above principle? Your answer must start
with 'Yes' or 'No'. And then walk through step by step to be sure we answer
correctly.
"""
_MARKS = ("<start_of_turn>", "<end_of_turn>")  # a prompt could end its own turn with them
_ACTIVATIONS = 1.2  # of the weights: what the rest of a pass takes, roughly
_SHOWN = 60  # characters of a refused prompt


@dataclass(slots=True)
class SafetyCheck:
    """A checking model on disk, and what is in memory of it, and which prompts it let pass."""

    folder: Path
    _judge: "_Judge | None" = field(default=None, compare=False)
    _passed: set[str] = field(default_factory=set, compare=False)  # prompts

    @classmethod
    def find(cls, name: str | None, *, set_by: str = "") -> "SafetyCheck":
        """Open the model of this name (a folder or hub id; None: ShieldGemma-2b). Raises SanaError if it is not on disk.

        `set_by` is the setting that asks for the check where nobody typed it.
        """
        path = local_path(name or MODEL)
        if path.is_dir():
            return cls(path)
        wanted = name if name and looks_like_repo(name) else MODEL
        cached = hub_cache.find(name or MODEL)
        if cached is None or cached.snapshot is None:
            raise SanaError(
                f"--safety needs {name or MODEL}, which is not here"
                + (f" (safety is set by {set_by})" if set_by else ""),
                hint=f"accept its terms at huggingface.co/{wanted}, then `hf download {wanted}`; "
                "or name its folder: sana config set safety_model FOLDER",
                code=ExitCode.ENVIRONMENT,
            )
        return cls(cached.snapshot)

    def refusals(
        self,
        prompts: Iterable[str],
        *,
        device: "torch.device",
        max_memory: int | None,
        spare: int | None = 0,
        reporter: "Reporter",
    ) -> dict[str, SanaError]:
        """Check prompts and map each refused one to the reason. Allowed prompts are not in it, and are not checked again.

        The model stays for the next call if it fits into `spare` bytes (None: they are not counted).
        """
        asked = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._passed]
        if asked and self._judge is None:
            with reporter.stage("load safety check"):
                self._judge = _Judge(self.folder, device, max_memory, spare)
        try:
            return self._ask(asked, reporter) if asked else {}
        finally:
            self._hold_to(spare, device)

    def _ask(self, prompts: list[str], reporter: "Reporter") -> dict[str, SanaError]:
        assert self._judge is not None
        refused = {}
        with reporter.stage("safety check", len(prompts)) as advance:
            for prompt in prompts:
                risk = self._judge.risk(prompt)
                if risk > THRESHOLD:
                    refused[prompt] = _refusal(prompt, risk)
                else:
                    self._passed.add(prompt)
                advance()
        return refused

    def _hold_to(self, spare: int | None, device: "torch.device") -> None:
        if self._judge is not None and spare is not None and self._judge.bytes > spare:
            from sana_cli.system.torch_memory import release_memory

            self._judge = None
            release_memory(device)


class _Judge:
    """The loaded model. Of its vocabulary, which would be its head, only two rows are read."""

    def __init__(
        self, folder: Path, device: "torch.device", max_memory: int | None, spare: int | None = 0
    ) -> None:
        """Its layers are read when they run where it would not fit; so they are where it could not stay else."""
        from sana_cli.checkpoints.safetensors_data import read_rows
        from sana_cli.loading.load import load_language_model

        files = WeightFiles(folder, stem="model")
        dtype = plan_dtypes("auto", "bf16", device).text_encoder
        table = module_names("text_encoder", files).get("embed_tokens.weight", "")
        if not table or len(files.headers[table][1]) != 2:
            raise _no_check(f"the safety check in {folder} has no word embeddings")
        rows, width = files.headers[table][1]
        size = int(_ACTIVATIONS * (files.parameters - rows * width) * ITEMSIZE[dtype])
        cap = cap_of(device, max_memory).bytes
        fits = cap is None or size <= cap - held_bytes(device)
        fits = fits and (not spare or size <= spare)
        self.encoder = load_language_model(folder, dtype=dtype, device=device, streamed=not fits)
        config = read_json(folder / "config.json")
        # Streamed, two layers are there at a time.
        self.bytes = size if fits else 2 * size // len(self.encoder.model.layers)
        answers = [self.encoder.tokenizer.id_of(word) for word in ("Yes", "No")]
        known = [answer for answer in answers if answer is not None and answer < rows]
        if len(known) < len(answers):
            raise _no_check(f"the safety check in {folder} has no words for Yes and No")
        head = "lm_head.weight" if "lm_head.weight" in files.headers else table
        self.answers = read_rows(files, head, known).float()  # (2, C)
        self.cap = config.get("final_logit_softcapping") or 0

    def risk(self, prompt: str) -> float:
        """The probability that a prompt violates the policy, by the model's next word."""
        for mark in _MARKS:
            prompt = prompt.replace(mark, " ")
        question = _QUESTION.format(prompt=prompt.strip(), policy=_POLICY)
        logits = self.answers @ self.encoder.last_state(question).float().cpu()
        if self.cap:
            logits = self.cap * (logits / self.cap).tanh()
        risk = float(logits.softmax(dim=0)[0])
        if not 0 <= risk <= 1:  # NaN
            raise checkpoint_error("the safety check gives no answer: its values are broken")
        return risk


def _refusal(prompt: str, risk: float) -> SanaError:
    shown = prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}..."
    return SanaError(
        f"refused: {shown!r} is unsafe with probability {risk:.2f}, above the threshold of {THRESHOLD:.2f}",
        hint="word it differently; docs/safety.md says what is checked, and how well",
        code=ExitCode.REFUSED,
    )


def _no_check(message: str) -> SanaError:
    """Build the error for a model that cannot check prompts; downloading it again would not help."""
    return checkpoint_error(
        message, hint=f"name a model made for this: sana config set safety_model {MODEL}"
    )
