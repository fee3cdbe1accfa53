"""How a command ends when it is the user who can, or wanted to, do something about it."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, where, what to do."""


class Stopped(KeyboardInterrupt):
    """The process was asked to end (SIGTERM, Ctrl-C); the message says what it was at and has saved."""
