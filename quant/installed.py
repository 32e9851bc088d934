"""Check whether optional libraries are installed. No torch."""

from importlib.util import find_spec

LIBRARIES = {"torchao": "torchao", "quanto": "optimum.quanto"}  # backend -> module
LIBRARY_PACKAGES = {"torchao": "torchao", "quanto": "optimum-quanto"}  # the same, as pip calls them


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
