"""How a command ends when it is the user who can, or wanted to, do something about it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, where, what to do."""


class Stopped(KeyboardInterrupt):
    """The process was asked to end (SIGTERM, Ctrl-C); the message says what it was doing and has saved."""


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names most like an unknown one, at most `most`, the most similar first; perhaps none."""
    return difflib.get_close_matches(name, list(known), n=most, cutoff=0.4)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or else all of them."""
    names = list(known)
    found = nearest(name, names)
    return f"did you mean {found[0]!r}?" if found else f"known: {', '.join(names)}"
