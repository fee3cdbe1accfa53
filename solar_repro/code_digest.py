"""A digest of the code that makes a stage's result: its modules, and the versions of what they import.

An edit elsewhere in the project, a comment or a docstring costs nothing; a changed line of a stage, or of a
module it uses, runs that stage again and what stands on it.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

PACKAGE = "solar_repro"
ROOT = Path(__file__).parent
WITHOUT_EFFECT = {
    f"{PACKAGE}.{name}" for name in ("code_digest", "device", "errors", "progress", "scales", "variants")
}
"""Modules that cannot change a result: what scales and variants say is in the step's settings."""
DISTRIBUTIONS = ("torch", "transformers", "trl", "datasets", "lm_eval", "safetensors", "accelerate", "numpy")


@cache
def code_digest(module: str) -> str:
    """sha256 over the syntax trees of `module` and all project modules it imports, directly or not."""
    trees: dict[str, ast.Module] = {}
    external: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in trees or name in WITHOUT_EFFECT:
            continue
        trees[name] = ast.parse(_path(name).read_text(encoding="utf-8"))
        for imported in _imports(trees[name]):
            if imported.partition(".")[0] == PACKAGE:
                waiting += [found for found in (imported, imported.rpartition(".")[0]) if _exists(found)]
            else:
                external.add(imported.partition(".")[0])
    digest = hashlib.sha256()
    for name in sorted(trees):
        digest.update(f"{name}\n{ast.dump(_without_docstrings(trees[name]))}\n".encode())
    for name in DISTRIBUTIONS:
        if name in external:
            digest.update(f"{name}=={importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest()


def _imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import name`: the name may be a module or something inside the package.
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _path(module: str) -> Path:
    inside = ROOT.joinpath(*module.split(".")[1:])
    return inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")


def _exists(module: str) -> bool:
    return module != PACKAGE and _path(module).is_file()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_docstring(statement)] or [ast.Pass()]
    return tree


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
