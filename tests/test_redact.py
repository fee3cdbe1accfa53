from solar_repro.redact import redact


def test_secrets_of_the_environment_and_of_uris_are_hidden(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted1")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted2!")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    text = "hf_planted1 planted2! false http://me:p%40ss@host:5000/a?b=c@d postgresql://u:p@ss@db/mlflow a@b"
    assert redact(text) == "*** *** false http://***@host:5000/a?b=c@d postgresql://***@db/mlflow a@b"


def test_a_switch_is_no_secret(monkeypatch):
    monkeypatch.setenv("USE_TOKEN", "true")
    assert redact("it is true") == "it is true"
