"""The one exception a user should ever see."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, where, what to do."""
