import pytest
from pydantic import ValidationError

from solar_repro.scales.microworld import BaseTraining, WorldSettings


@pytest.mark.parametrize("settings", [WorldSettings, BaseTraining])
def test_every_field_is_described_and_unknown_ones_are_refused(settings):
    assert all(field.description for field in settings.model_fields.values())
    with pytest.raises(ValidationError, match="Extra inputs"):
        settings(sed=1)
    with pytest.raises(ValidationError, match="frozen"):
        settings().seed = 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"creatures": 10, "arc_items": 31}, "arc_items = 31 is more than the 30"),
        (
            {"terms_per_subject": 6, "mmlu_items_per_subject": 6},
            "mmlu_items_per_subject = 6 is more than the 5",
        ),
        ({"herbs": 10, "truthfulqa_items": 11}, "truthfulqa_items = 11 is more than the 10"),
    ],
)
def test_more_items_than_held_out_facts_are_refused(values, reason):
    with pytest.raises(ValidationError, match=reason):
        WorldSettings(**values)


def test_heads_must_divide_the_width():
    with pytest.raises(ValidationError, match="heads = 3 must divide hidden_size = 128"):
        BaseTraining(heads=3)
