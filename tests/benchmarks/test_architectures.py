"""The walk over the decoders of transformers: what is up-scaled is right, what is not is refused."""

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.architectures import walk


def answers(kinds: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, _, answer, _ in walk(kinds):
        found.setdefault(kind, []).append(answer)
    return found


def test_the_walk_tells_right_from_refused_and_from_what_cannot_be_built():
    assert answers(["mixtral", "diffllama", "nobodys"]) == {
        "mixtral": ["right", "right"],
        "diffllama": ["refused", "refused"],
        "nobodys": ["not built"],
    }


def test_the_walk_sees_what_is_wrong(monkeypatch):
    monkeypatch.setattr("solar_repro.checkpoint.proof.prove_layer_map", lambda *_: None)
    assert answers(["jamba", "diffllama"]) == {"jamba": ["wrong", "wrong"], "diffllama": ["wrong", "wrong"]}


@pytest.mark.slow
@pytest.mark.rare
def test_no_decoder_of_transformers_is_up_scaled_wrongly():
    """Every twelfth type: all of them take half an hour and are `python -m benchmarks.architectures`."""
    kinds = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)[::12]
    found = list(walk(kinds))
    assert [row for row in found if row[2] == "wrong"] == []
    assert sum(row[2] == "right" for row in found) > len(kinds)
