"""What is wrong with settings, in one line: where, which key, what to do."""

from typing import Any

from pydantic import ValidationError

from solar_repro.scales.misspelt import meant
from solar_repro.scales.section import FLAT_SECTION, Section


def dotted_keys(model: type[Section], prefix: str = "") -> list[str]:
    """Every setting by its dotted path, in the order of the schema."""
    keys = []
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        inner = prefix if name == FLAT_SECTION else f"{prefix}{name}."
        keys += dotted_keys(section, inner) if section else [f"{prefix}{name}"]
    return keys


def _section(annotation: Any) -> type[Section] | None:
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


def explain(error: ValidationError, source: str, model: type[Section], prefix: str = "") -> str:
    """The first problem of a validation error as one line: file, key, value, what to do."""
    problems = error.errors(include_url=False)
    # A misspelt key is also a missing one; its own name says more.
    problem = next((found for found in problems if found["type"] == "extra_forbidden"), problems[0])
    key = _cut(prefix + ".".join(str(part) for part in problem["loc"] if part != FLAT_SECTION))
    if problem["type"] == "extra_forbidden":
        found = meant(key, [prefix + name for name in dotted_keys(model)])
        hint = f"; did you mean {' or '.join(map(repr, found))}?" if found else ""
        return f"{source}: unknown key {key!r}{hint}"
    message = _cut(problem["msg"].removeprefix("Value error, "), 500)
    if problem["type"] == "missing":
        return f"{source}: {key}: is missing; give it a value"
    if problem["type"] == "value_error":
        return f"{source}: {key + ': ' if key else ''}{message}"
    return f"{source}: {key} = {_cut(repr(problem['input']))}: {message[0].lower()}{message[1:]}"


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
