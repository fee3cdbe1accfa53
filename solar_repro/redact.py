"""Secrets stay out of all that is written: keys and tokens of the environment, user:password in a URI."""

import os
import re

_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST = 6  # a shorter value is a switch such as `true`, and would be found in any text
_IN_URI = re.compile(r"://[^/\s'\"]*@")


def reason(error: Exception) -> str:
    """The innermost cause that an error names, as one short line without secrets."""
    return redact(" ".join(str(error).rpartition("Caused by ")[2].split()))[:200]


def redact(text: str) -> str:
    """The text with `***` for every secret: values of variables named like one, and the user part of URIs."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    return _IN_URI.sub("://***@", text)
