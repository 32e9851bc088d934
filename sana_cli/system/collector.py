"""Keep Python's garbage collector from looking through what libraries made. No torch.

Importing torch makes half a million objects, none of which is garbage. With Python's own settings the collector looks
at them hundreds of times while they are made.
"""

import gc

_MADE = 50_000  # objects between two collections while modules are imported; Python's own are some hundreds
_before: tuple[int, int, int] | None = (
    None  # the process's own settings, while `collect_rarely` replaces them
)


def collect_rarely() -> None:
    """Collect rarely until `freeze_imports`; call it where a process of our own begins."""
    global _before
    _before = _before or gc.get_threshold()
    gc.set_threshold(_MADE, *_before[1:])


def collect_nothing() -> None:
    """Collect nothing until `freeze_imports`; call it where torch is about to be imported, in a process of our own."""
    global _before
    _before = _before or gc.get_threshold()
    gc.set_threshold(0)


def freeze_imports() -> None:
    """Exclude the libraries' objects from garbage collection; call it once they are imported, before weights are
    loaded, in a process of our own.

    A collection looks at every object: a tenth of a second after every stage, as much as the built-in model's decoder
    takes.
    """
    global _before
    gc.freeze()
    if _before is not None:
        gc.set_threshold(*_before)
        _before = None
