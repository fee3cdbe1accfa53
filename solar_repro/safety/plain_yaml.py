"""YAML as people mean it: numbers are decimal, only `true` and `false` are bools, no key stands twice.

YAML 1.1 reads `042` as 34, `2:00` as 120 and `no` as false; here `042` is 42, and the others are texts. `~`
is a text too, because it names the home folder in a path; an empty value is `null`. Since others write such
files, tags are refused, and so is a file that is large or becomes large once its aliases are expanded.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from solar_repro.errors import UserError
from solar_repro.safety.regular_files import open_regular

MAX_CHARACTERS = 1 << 17
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

    most = MAX_CHARACTERS

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


def read_yaml(text: str, most: int = MAX_CHARACTERS) -> Any:
    """Parse a YAML text of at most `most` characters; raises yaml.YAMLError."""
    if len(text) > most:
        raise yaml.YAMLError(f"it has more than {most:,} characters")
    loader = _Loader(text)
    loader.most = most
    try:
        return loader.get_single_data()
    except ValueError as error:  # Python refuses a number of thousands of digits
        raise yaml.YAMLError(str(error)) from None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def read_yaml_file(file: Path) -> Any:
    """Parse a YAML file; raises UserError naming the file if it cannot be read or is not YAML."""
    try:
        with open(file, "rb", opener=open_regular) as source:
            raw = source.read(4 * MAX_CHARACTERS + 1)  # a character takes at most four bytes in UTF-8
        return read_yaml(raw.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not YAML: {yaml_error_text(error)}") from None


def yaml_error_text(error: Exception) -> str:
    """Return what is wrong with a YAML text, as one line of bounded length."""
    return " ".join(str(error).split())[:_LONGEST_REASON]


def _unfolded(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Return about how many characters a node has once each alias in it is expanded."""
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
