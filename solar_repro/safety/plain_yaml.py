"""YAML as people mean it: numbers are decimal, `true` and `false` alone are bools, a key stands once.

YAML 1.1 reads `042` as 34, `2:00` as 120 and `no` as false; here `042` is 42, and the others are texts. So is
`~`: the home folder, where a path is asked for; nothing is `null`. Others write such files too: tags are
refused, and so is what is large, or would be once its aliases are unfolded.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from solar_repro.errors import UserError
from solar_repro.safety.regular import regular

MOST_CHARACTERS = 1 << 17
_LONGEST_REASON = 300  # characters
_TAG = "tag:yaml.org,2002:"
_KINDS = (
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "null|Null|NULL|", ["n", "N", ""]),
    ("merge", "<<", "<"),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 # PyYAML's own form

    most = MOST_CHARACTERS

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _unfolded(node, {}) > self.most:
            raise yaml.composer.ComposerError(
                None, None, f"its aliases unfold to more than {self.most:,} characters", node.start_mark
            )
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if (tag := getattr(event, "tag", None)) is not None:
            raise yaml.composer.ComposerError(
                None, None, f"tag {tag!r} is not read here; leave it out", event.start_mark
            )
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


for _name, _pattern, _first in _KINDS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), list(_first))
_Loader.add_constructor(_TAG + "int", lambda loader, node: int(node.value))
_Loader.add_constructor(_TAG + "float", lambda loader, node: float(node.value))


def read_yaml(text: str, most: int = MOST_CHARACTERS) -> Any:
    """The content of a YAML text of at most so many characters; yaml.YAMLError where it is none."""
    if len(text) > most:
        raise yaml.YAMLError(f"it has more than {most:,} characters")
    loader = _Loader(text)
    loader.most = most
    try:
        return loader.get_single_data()
    except ValueError as error:  # a number of thousands of digits
        raise yaml.YAMLError(str(error)) from None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def read_yaml_file(file: Path) -> Any:
    """The content of a YAML file; UserError names the file that is none, or cannot be read."""
    try:
        with open(file, "rb", opener=regular) as source:
            raw = source.read(4 * MOST_CHARACTERS + 1)  # UTF-8 has four bytes a character at most
        return read_yaml(raw.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not YAML: {why(error)}") from None


def why(error: Exception) -> str:
    """What is wrong with a YAML text, as one line of bounded length."""
    return " ".join(str(error).split())[:_LONGEST_REASON]


def _unfolded(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Characters of a node, about, with each alias in it counted as what it stands for."""
    if id(node) not in known:
        known[id(node)] = None
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        known[id(node)] = 1 + (
            len(parts) if isinstance(parts, str) else sum(_unfolded(part, known) for part in parts)
        )
    if (found := known[id(node)]) is None:
        raise yaml.composer.ComposerError(
            None, None, "an alias stands inside of what it names", node.start_mark
        )
    return found
