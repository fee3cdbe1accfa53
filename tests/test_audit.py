"""What CI makes of the audit of the pinned versions: a finding fails, silence says so and does not."""

import importlib.util

import pytest

from tests.conftest import ROOT

SPEC = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "not found"}
FLAWED = {
    "name": "jinja2",
    "version": "3.1.2",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1.3"], "aliases": ["CVE-1"]}],
}


def test_a_finding_fails_and_is_named():
    text, code = audit.verdict({"dependencies": [SOUND, FLAWED]}, "")
    assert code == 1
    assert text.startswith("jinja2 3.1.2: PYSEC-1, mended in 3.1.3\n")


@pytest.mark.parametrize("known_as", ["PYSEC-1", "CVE-1"])
def test_an_accepted_finding_does_not_fail(known_as, monkeypatch):
    monkeypatch.setitem(audit.ACCEPTED, known_as, "concerns nothing here")
    assert audit.verdict({"dependencies": [SOUND, FLAWED]}, "")[1] == 0


def test_every_accepted_finding_says_why():
    assert all(len(why) > 20 for why in audit.ACCEPTED.values())


@pytest.mark.parametrize(
    ("found", "said", "told", "code"),
    [
        ({"dependencies": [SOUND, SKIPPED]}, "", "0 findings in 1 packages; not in its data base: torch", 0),
        ({"dependencies": [SKIPPED]}, "", "nothing is known", 0),
        (None, "requests.exceptions.ProxyError: no way", "does not answer", 0),
        (None, "ERROR: not a requirement", "failed (ERROR: not a requirement)", 1),
        (None, "", "failed", 1),
    ],
)
def test_what_was_not_looked_up_is_not_called_sound(found, said, told, code):
    text, exit_code = audit.verdict(found, said)
    assert told in text
    assert exit_code == code
