"""Digest of the code that makes a stage's result: the stage's modules and the versions of imported libraries.

An edit elsewhere in the project, or of a comment or docstring, leaves the digest as it is. A changed line of
a stage, or of a module that it imports, changes it, so that the stage and all that depends on it run again.
"""

import ast
import hashlib
import importlib.metadata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

PACKAGE = "solar_repro"
ROOT = Path(__file__).parents[1]
WITHOUT_EFFECT = {
    f"{PACKAGE}.{name}"
    for name in (
        *("device", "errors", "paper.variants", "safety.redact", "scales.settings", "store.code_digest"),
        *("terminal.events", "terminal.progress", "terminal.remaining", "terminal.stopping"),
    )
}
"""Modules that cannot change a result; what scales and variants say is in the step's settings."""
LIBRARIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "accelerate": ("accelerate",),
        "datasets": ("datasets",),
        "lm_eval": ("lm_eval", "jinja2"),
        "math_verify": ("math-verify", "latex2sympy2_extended", "sympy"),
        "numpy": ("numpy",),
        "pyarrow": ("pyarrow",),
        "safetensors": ("safetensors",),
        "tokenizers": ("tokenizers",),
        "torch": ("torch",),
        "transformers": ("transformers", "tokenizers", "jinja2"),
        "trl": ("trl",),
    }
)
"""Imported package → the distributions whose versions can change results through it."""
OPTIONAL = ("peft", "bitsandbytes", "vllm")
"""Distributions that change results only if settings use them (`Section.libraries`); they may be missing."""


@cache
def code_digest(module: str) -> str:
    """Return the SHA-256 of the code of `module` and of all project modules it imports, also indirectly."""
    sources, imported = read_modules(module)
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name}\n{sources[name]}\n".encode())
    for name in sorted({name for library in imported for name in LIBRARIES.get(library, ())}):
        digest.update(f"{name}=={version(name)}\n".encode())
    return digest.hexdigest()


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_modules(module: str) -> tuple[dict[str, str], set[str]]:
    """Return the code of a module and of all project modules it imports, and the packages they import."""
    sources: dict[str, str] = {}
    external: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources or name in WITHOUT_EFFECT:
            continue
        sources[name], imports = _read(name)
        for imported in imports:
            if imported.partition(".")[0] == PACKAGE:
                waiting += [found for found in (imported, imported.rpartition(".")[0]) if _exists(found)]
            else:
                external.add(imported.partition(".")[0])
    return sources, external


@cache
def _read(module: str) -> tuple[str, frozenset[str]]:
    """Return a module's code without comments and docstrings, and the names it imports."""
    tree = ast.parse(_path(module).read_text(encoding="utf-8"))
    imports = frozenset(_imports(tree))
    return ast.unparse(_without_docstrings(tree)), imports


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
