import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from solar_repro.safety import redact as module
from solar_repro.safety.redact import add_secret_variable, one_line, printable, redact, shown_uri


def test_secrets_of_the_environment_and_of_uris_are_hidden(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted1")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted2!")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    text = "hf_planted1 planted2! false http://me:p%40ss@host:5000/a?b=c@d postgresql://u:p@ss@db/mlflow a@b"
    assert redact(text) == "*** *** false http://***@host:5000/a?b=c@d postgresql://***@db/mlflow a@b"


def test_a_switch_is_no_secret(monkeypatch):
    monkeypatch.setenv("USE_TOKEN", "true")
    assert redact("it is true") == "it is true"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://host:5000", "http://host:5000"),
        ("http://host:5000/a@b?c=d@e#f", "http://host:5000/a@b"),
        ("http://me:pw@host:5000/a?token=abc", "http://host:5000/a"),
        ("https://me@host/a", "https://host/a"),
        ("https://me:p@ss@host/a@b", "https://host/a@b"),
        ("https://me:p/ss@host/a", "https://host/a"),
        ("https://me:p?s#s@host/a", "https://host/a"),
        ("https://me:a'b c@host/a", "https://host/a"),
        ("https://:secret@host", "https://host"),
        ("postgresql://u:p/w@db/mlflow?sslpassword=x", "postgresql://db/mlflow"),
        ("postgresql://u:123/w@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("postgresql://u:p@s/s?w@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql+psycopg2://u:p w'@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("postgresql://db:5432/mlflow?password=x", "postgresql://db:5432/mlflow"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("sqlite:///mlflow.db?key=abc", "sqlite:///mlflow.db"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("databricks", "databricks"),
        ("http://host/\x1b[2J", "http://host/\\x1b[2J"),
    ],
)
def test_a_uri_is_shown_without_user_password_and_query(uri, shown):
    assert shown_uri(uri) == shown


_WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=6, max_size=12)


@given(
    scheme=st.sampled_from(["http", "https", "postgresql", "mysql+pymysql"]),
    password=st.lists(_WORDS, min_size=1, max_size=3).map(" ".join),
    query=st.booleans(),
)
@example(scheme="http", password="0000@0 00000#", query=False)
@example(scheme="https", password="a/b@c?d e@f#gh", query=True)
def test_no_password_of_a_tracking_uri_is_shown_or_written(scheme, password, query):
    password = f"Q{password}Q"
    uri = f"{scheme}://user:{password}@host.example:5000/db" + (f"?password={password}" if query else "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        for text in (f"cannot connect to {uri}: refused", f"refused {password!r}", repr([uri])):
            assert password not in redact(text)
            assert repr(password)[1:-1] not in redact(text)
    # An http password with @ behind a slash is none that any parser takes.
    if not (scheme.startswith("http") and re.search(r"@.*[/?#].*@|@.*@", uri)):
        assert "Q" not in shown_uri(uri)


def test_queries_that_hold_keys(monkeypatch):
    text = redact("GET https://host/a?version=1&api_key=planted&X-Amz-Signature=planted2 failed")
    assert text == "GET https://host/a?version=1&api_key=***&X-Amz-Signature=*** failed"


def test_a_variable_that_was_named_holds_a_secret(monkeypatch):
    monkeypatch.setattr(module, "_named", set())
    monkeypatch.setenv("MY_SERVER", "planted-value")
    assert redact("planted-value") == "planted-value"
    add_secret_variable("MY_SERVER")
    assert redact("refused: planted-value") == "refused: ***"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_printed(text):
    shown = printable(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", shown)
    shown.encode()
    assert len(one_line(text).splitlines()) <= 1


def test_what_a_terminal_would_obey_is_written_out():
    assert printable("a\x1b[31mb\r\u202ec\td\ne") == "a\\x1b[31mb\\r\\u202ec\td\ne"
    assert one_line(" a\n\x1b]0;title\x07 b ") == "a \\x1b]0;title\\x07 b"
