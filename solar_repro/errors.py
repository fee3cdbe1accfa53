"""How a command ends when it is the user who can, or wanted to, do something about it."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, where, what to do."""


class Stopped(KeyboardInterrupt):
    """The process was asked to end (SIGTERM) and has saved what it was at; the message says what."""
