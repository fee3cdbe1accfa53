"""Draws which room imports which, from the imports themselves, into docs/pictures/house.svg.

    python .ci/house.py

The rooms stand in the order of `[tool.importlinter]` in pyproject.toml, the highest first. A dot in a row
says that its room imports the room of that column, so all dots lie right of the diagonal.
"""

import sys
import tomllib
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "house.svg"
LEFT, TOP, STEP = 110, 120, 22


def rooms() -> list[str]:
    """Modules and packages that are a room, the highest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = [c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["id"] == "rooms"]
    return ["entry_points", "benchmarks", *(f"solar_repro.{name}" for name in layers)]


def imports(names: list[str]) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second; imports for types alone count too."""
    graph = grimp.build_graph("solar_repro", "benchmarks", "entry_points", cache_dir=None)
    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = tuple(_room(name, names) for name in (module, imported))
            if None not in pair and pair[0] != pair[1]:
                found.add(pair)
    return found


def _room(module: str, names: list[str]) -> str | None:
    return next((name for name in names if f"{module}.".startswith(f"{name}.")), None)


def picture(names: list[str], found: set[tuple[str, str]]) -> str:
    """The drawing as SVG, in the text colour of the page that shows it."""
    shown = [escape(name.removeprefix("solar_repro.")) for name in names]
    width = height = STEP * len(names)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + width + 10} {TOP + height + 10}" '
        'font-family="sans-serif" font-size="13" role="img">',
        "<title>Which room imports which</title>",
        "<style>text{fill:#57606a}line{stroke:#8884}circle{fill:#6d4fd0}rect{fill:#8884}</style>",
    ]
    for number, name in enumerate(shown):
        middle = STEP * number + STEP // 2
        lines += [
            f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{TOP + middle}" y2="{TOP + middle}"/>',
            f'<line y1="{TOP}" y2="{TOP + height}" x1="{LEFT + middle}" x2="{LEFT + middle}"/>',
            f'<text x="{LEFT - 8}" y="{TOP + middle + 4}" text-anchor="end">{name}</text>',
            f'<text transform="translate({LEFT + middle + 4} {TOP - 6}) rotate(-60)">{name}</text>',
            f'<rect x="{LEFT + middle - 5}" y="{TOP + middle - 5}" width="10" height="10"/>',
        ]
    for first, second in sorted(found):
        x, y = (STEP * names.index(name) + STEP // 2 for name in (second, first))
        lines.append(f'<circle cx="{LEFT + x}" cy="{TOP + y}" r="5"/>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    sys.path.insert(0, str(ROOT))  # where grimp looks for the packages
    names = rooms()
    PICTURE.write_text(picture(names, imports(names)), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
