"""Removes secrets from texts, and characters that a terminal or a web page would obey.

Secrets are keys and tokens in the environment, and the user, password and query of a URI.
"""

import os
import re
from urllib.parse import quote, quote_plus

_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST = 6  # a shorter value is a switch such as `true`, and would be found in any text
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(\S*)")
_HOST = re.compile(r"[^:/@?#]*(?P<port>:\d{0,5})?(?=[/?#]|$)")
_QUERY = re.compile(
    r"(?i)([?&][\w.-]*(?:token|key|secret|passw(?:or)?d|pwd|sig|signature|credentials?)=)[^&\s'\"]+"
)
# These are C0 without tab and line feed, DEL, C1, line separators, marks of direction, and half surrogates.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+\s*")
_named: set[str] = set()


def short_reason(error: Exception) -> str:
    """Return the innermost cause that an error names, as one short line without secrets."""
    return one_line(str(error).rpartition("Caused by ")[2])[:200]


def add_secret_variable(variable: str) -> None:
    """Treat the value of this environment variable as a secret, whatever its name."""
    _named.add(variable)


def redact(text: str) -> str:
    """Replace every secret in a text by `***`: values of variables named like secrets, and users of URIs.

    URIs in the environment lose their whole query, other URIs the values in it that are named like secrets.
    """
    for secret, shown in sorted(_secrets().items(), key=lambda pair: -len(pair[0])):
        text = text.replace(secret, shown)
    return _QUERY.sub(r"\1***", _URI.sub(_without_user, text))


def shown_uri(uri: str) -> str:
    """Return scheme, host and path of a URI, without user, password, query and fragment."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return printable(uri)
    return printable(scheme + mark + re.split(r"[?#]", rest[_address(scheme, rest) :])[0])


def one_line(text: str) -> str:
    """Return a text of others as one line without secrets, line breaks and control characters."""
    return printable(_BREAKS.sub(" ", redact(text)).strip().replace("\t", " "))


def printable(text: str) -> str:
    """Write out the control characters of a text (as `\\x1b`), except tabs and line feeds."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def _without_user(uri: re.Match[str]) -> str:
    begins = _address(uri[1], uri[2])
    return uri[1] + ("***@" if begins else "") + uri[2][begins:]


def _address(scheme: str, rest: str) -> int:
    """Return where the host begins behind a URI's scheme: after `user:password@`, or at 0.

    A password may hold a slash, a question mark or an @, because people write them so.
    """
    is_web = scheme.lower().startswith("http")
    host = _HOST.match(rest)
    if "@" not in rest or (host and (is_web or not host["port"])):
        return 0
    begins = rest.index("@") + 1
    if not is_web:
        query = re.search(r"(?<=@).*?\?[\w.-]+=", rest)
        return rest.rindex("@", 0, query.end() if query else None) + 1
    further = re.match(r"[^/?#]*@", rest[begins:])
    return begins + (further.end() if further else 0)


def _secrets() -> dict[str, str]:
    """Return each secret with the text to show instead."""
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        secrets = [value] if name in _named or _SECRET_NAME.search(name) else []
        scheme, mark, rest = value.partition("://")
        if mark and shown_uri(value) != value:
            found[value] = shown_uri(value)
            if _address(scheme, rest):
                # A password may hold an @, so each @ is taken for its end.
                secrets += [rest[: sign.start()].partition(":")[2] for sign in re.finditer("@", rest)]
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                raw = os.fsencode(secret)  # a variable may hold bytes that are no text
                for form in (secret, quote(raw, safe=""), quote_plus(raw), repr(secret)[1:-1]):
                    found.setdefault(form, "***")
    return found
