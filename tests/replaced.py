"""Find where a test replaces a part of this project, by its source: a test of what is then not there any more."""

import ast
from collections.abc import Iterable, Iterator

OWN = ("sana_cli", "quant", "calibration", "benchmarks", "training", "tests")
_REPLACES = {"setattr", "delattr", "setitem", "delitem"}  # of pytest's MonkeyPatch
_PATCHES = {"patch", "object", "multiple", "dict"}  # of unittest.mock


def replaced(source: str) -> list[int]:
    """List the lines that replace an attribute of our modules and classes, or a thing that nobody can tell.

    Counted are calls of `monkeypatch.setattr` and the like, of `mock.patch`, of a function that is called `patch`, and
    assignments. Modules of others, such as torch and os, are not ours.
    """
    nodes = list(ast.walk(ast.parse(source)))
    imported = dict(_imports(nodes))
    return sorted(node.lineno for node in nodes if _replaces_ours(node, imported))


def _imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """Names and the packages that they come from."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, str(node.module).split(".")[0]


def _replaces_ours(node: ast.AST, imported: dict[str, str]) -> bool:
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
        several = isinstance(node, ast.Assign | ast.Delete)
        targets = node.targets if several else [node.target]  # type: ignore[union-attr]
        parts = (t for t in targets if isinstance(t, ast.Attribute | ast.Subscript))
        return any(_is_ours(target, imported) is True for target in parts)
    if not isinstance(node, ast.Call) or not node.args:
        return False
    function = node.func
    if isinstance(function, ast.Name):
        ours = _is_ours(node.args[0], imported)
        builtin = function.id in ("setattr", "delattr")  # of a model, it builds that model
        return ours is True if builtin else function.id == "patch" and ours is not False
    if not isinstance(function, ast.Attribute):
        return False
    by_mock = function.attr in _PATCHES and "patch" in ast.unparse(function)
    return (function.attr in _REPLACES or by_mock) and _is_ours(node.args[0], imported) is not False


def _is_ours(target: ast.expr, imported: dict[str, str]) -> bool | None:
    """Return whether a module, class or dotted name is this project's; None for a variable."""
    if isinstance(target, ast.JoinedStr):
        target = target.values[0]
    if isinstance(target, ast.Constant):
        return str(target.value).split(".")[0] in OWN
    while isinstance(target, ast.Attribute | ast.Subscript):
        target = target.value
    if isinstance(target, ast.Name) and target.id in imported:
        return imported[target.id] in OWN
    return None
