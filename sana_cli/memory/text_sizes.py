"""Count tokens, and what the text encoder takes for them."""

from pathlib import Path

from quant.dtypes import ITEMSIZE
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.file_selection import TOKENIZER
from sana_cli.checkpoints.model_files import read_config
from sana_cli.config.networks import Gemma2Config
from sana_cli.config.published import complex_human_instruction
from sana_cli.errors import SanaError
from sana_cli.models.tokenizer import Tokenizer
from sana_cli.request.params import GenerationParams
from sana_cli.system.precision import DtypePlan

_READABLE_TOKENIZER = 4 * 2**20  # larger ones take longer to load than a prediction may
_TEXT_MAPS = 4  # of the hidden width
_TEXT_MLP_MAPS = 3
_TEXT_SCORE_MAPS = 4  # of heads x L x L


def text_activations(checkpoint: Checkpoint, settings: GenerationParams, dtypes: DtypePlan) -> int:
    """Activations of the text encoder, in bytes."""
    config = read_config(checkpoint.folder / "text_encoder/config.json", Gemma2Config.from_dict)
    prefix, length = text_tokens(checkpoint, settings)
    longest = max(prefix, length)
    kv = config.num_key_value_heads * config.head_dim
    cache = 2 * kv * config.num_hidden_layers * prefix
    states = _TEXT_MAPS * config.hidden_size * longest
    mlp = _TEXT_MLP_MAPS * config.intermediate_size * longest
    scores = _TEXT_SCORE_MAPS * config.num_attention_heads * longest**2
    return ITEMSIZE[dtypes.text_encoder] * (cache + states + max(mlp, scores))


def text_tokens(checkpoint: Checkpoint, settings: GenerationParams) -> tuple[int, int]:
    """Tokens of the instruction (0: none) and of the prompt, as far as they are used."""
    instruction = complex_human_instruction() if settings.enhance else ""
    prefix = count_tokens(checkpoint.folder, instruction) if settings.enhance else 0
    return prefix, min(count_tokens(checkpoint.folder, settings.prompt.lower().strip()), 300)


def count_tokens(folder: Path, text: str) -> int:
    """Tokens of a text: counted where the tokenizer is small, else by the four letters of a usual one."""
    path = folder / TOKENIZER
    if not path.is_file() or path.stat().st_size > _READABLE_TOKENIZER:
        return len(text) // 4 + 1
    try:
        return len(Tokenizer(path, {}).encode(text))
    except SanaError:  # the run itself will say what is wrong
        return len(text) // 4 + 1
