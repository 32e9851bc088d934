"""Choose the prompts of a calibration: our own, a file of yours, or sentences from a model's closed
vocabulary.

A prompt of words that a model does not know shows it nothing but its unknown token, so a model
folder whose `sana.json` lists a vocabulary gets sentences of those words.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sana_cli.config.choices import MAX_PROMPT
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import usage_error
from sana_cli.request.prompt_file import read_prompt_file
from sana_cli.text import with_article

OWN_PROMPTS = Path(__file__).with_name("prompts.txt")
COMPARED = (  # drawn by the comparison picture, never calibrated with
    "a lighthouse on a cliff at sunset, waves breaking below",
    "portrait of a young woman with freckles and a green scarf",
    "a bowl of strawberries on a blue table, top view",
    "a futuristic city with flying trams, digital painting",
)
_FOR_VOCABULARY = 64  # sentences; as many as the shipped prompts
# `{group}` is a word of that group of a vocabulary. Which groups name things differs between vocabularies, so every
# template is tried with what is there; one whose groups or words are missing is not used.
_THINGS = ("animals", "food", "vehicles", "plants", "weather", "things")
_TEMPLATES = (
    *(f"a {{sizes}} {{{group}}} on a {{backgrounds}} background" for group in _THINGS),
    *(f"a {{{group}}} in {{styles}} style" for group in _THINGS),
    *(
        f"a {{{one}}} {{relations}} a {{{other}}} on a {{backgrounds}} background in {{styles}} style"
        for one, other in zip(_THINGS, _THINGS[1:] + _THINGS[:1], strict=True)
    ),
    "a {sizes} {colours of shapes} {shapes} on a {backgrounds} background",
    "a {colours of shapes} {shapes} {relations} a {colours of shapes} {shapes} on a {backgrounds} background",
    "a {animals} {relations} a {colours of shapes} {shapes} on a {backgrounds} background",
    "{counts} {animals} on a {backgrounds} background",
)
_GROUP = re.compile(r"\{([^}]+)\}")


def prompts_for(vocabulary: Mapping[str, Sequence[str]] | None) -> list[str]:
    """Return the prompts that a model is calibrated with unless a file gives others."""
    if vocabulary:
        return vocabulary_prompts(vocabulary, _FOR_VOCABULARY, seed=0)
    return read_prompts(OWN_PROMPTS)


def compared_prompts(vocabulary: Mapping[str, Sequence[str]] | None) -> list[str]:
    """The four prompts of the comparison picture."""
    if not vocabulary:
        return list(COMPARED)
    known = set(prompts_for(vocabulary))
    fresh = vocabulary_prompts(vocabulary, 2 * len(COMPARED) + len(known), seed=1)
    chosen = [prompt for prompt in fresh if prompt not in known][-len(COMPARED) :] or fresh[:4]
    words = {word for group in vocabulary.values() for phrase in group for word in phrase.split()}
    return [_with_articles(prompt) if "an" in words else prompt for prompt in chosen]


def _with_articles(sentence: str) -> str:
    """ "a orange" -> "an orange". Not for calibration, whose recorded figures belong to the sentences as they are."""
    return re.sub(r"\ba (\w+)", lambda match: with_article(match[1]), sentence)


def vocabulary_prompts(
    vocabulary: Mapping[str, Sequence[str]], count: int, *, seed: int
) -> list[str]:
    """Sentences of a closed vocabulary; words side by side where no sentence of ours fits it."""
    rng = random.Random(seed)
    groups = {name: list(words) for name, words in vocabulary.items() if words}
    known = {word for words in groups.values() for phrase in words for word in phrase.split()}
    usable = [template for template in _TEMPLATES if _fits(template, groups, known)]
    if not usable:
        words = sorted(known)
        return [" ".join(rng.choices(words, k=4)) for _ in range(count)]
    chosen = [usable[i % len(usable)] for i in range(count)]
    return [_GROUP.sub(lambda match: rng.choice(groups[match[1]]), one) for one in chosen]


def _fits(template: str, groups: Mapping[str, Sequence[str]], known: set[str]) -> bool:
    return (
        set(_GROUP.findall(template)) <= set(groups)
        and set(_GROUP.sub(" ", template).split()) <= known
    )


def read_prompts(path: Path, *, notice: Callable[[str], None] = lambda message: None) -> list[str]:
    """Read prompts from a file in any form that `sana generate --prompts` takes. `notice` receives
    unused keys.

    Raises SanaError (usage) for the first line that cannot be used.
    """
    found = read_prompt_file(str(path))
    lines = found.only_lines
    for message in found.notices:
        notice(message)
    if any(line.options != GenerationOptions(prompt=line.options.prompt) for line in lines):
        notice(f"{path}: calibration uses the prompts alone; other settings in it have no effect")
    prompts = [str(line.options.prompt).strip() for line in lines]
    for line, prompt in zip(lines, prompts, strict=True):
        if not 0 < len(prompt) <= MAX_PROMPT:
            problem = f"is too long: {len(prompt):,} characters" if prompt else "is empty"
            raise usage_error(
                f"{path}, {line.place}: the prompt {problem}",
                f"write 1 to {MAX_PROMPT:,} characters",
            )
    return prompts
