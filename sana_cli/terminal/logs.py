"""Logs on stderr: nothing but errors, unless -v asks for more. No torch.

Our own modules log under "sana": what was read from where, what was chosen, and how long each stage took.
"""

import logging
import sys

from sana_cli.progress import Formatter

LOGGER = "sana"
# They report, with handlers of their own, GPU extensions that do not load on this machine.
_NOISY = (
    "torchao",
    "torch.utils._pytree",
    "transformers",
    "diffusers.quantizers.torchao.torchao_quantizer",  # optimum-quanto's kernels bring it along
)
_FORMAT = "%(asctime)s.%(msecs)03d %(name)s: %(message)s"


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler of our own type, so that ours can be found among the caller's."""


def set_up(verbosity: int) -> None:
    """Errors only (0), what we do (1), or what libraries do, too (2)."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(sys.stderr)  # stderr as it is now
    handler.setFormatter(Formatter(_FORMAT, datefmt="%H:%M:%S"))
    logging.captureWarnings(True)  # of libraries: shown with -v, as what they log
    handler.setLevel(logging.ERROR if verbosity == 0 else logging.DEBUG)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbosity > 1 else logging.WARNING)
    logging.getLogger(LOGGER).setLevel(logging.INFO if verbosity else logging.WARNING)
    mute_libraries()


def mute_libraries() -> None:
    """Only errors of libraries that report more than helps, unless everything is asked for; Pillow raises what it logs."""
    everything = logging.getLogger().isEnabledFor(logging.DEBUG)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET if everything else logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.NOTSET if everything else logging.CRITICAL)
