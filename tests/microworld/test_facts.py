from collections import Counter

from solar_repro.microworld.facts import build_facts
from solar_repro.microworld.words import MMLU_SUBJECTS
from solar_repro.scales.microworld import WorldSettings
from tests.microworld.conftest import SMALL


def all_facts(facts):
    told = [fact for creature in facts.creatures for fact in (*creature.told, *creature.inherited)]
    terms = [fact for subject in facts.subjects.values() for fact in subject]
    return told + terms + [belief.truth for belief in facts.beliefs]


def test_half_of_the_facts_are_held_out_and_no_name_stands_for_two_things():
    facts = build_facts(SMALL)
    held_out = [fact.held_out for fact in all_facts(facts)]
    assert sum(held_out) * 2 == len(held_out)
    names = [creature.name for creature in facts.creatures]
    names += list(dict.fromkeys(fact.entity for subject in facts.subjects.values() for fact in subject))
    names += list(dict.fromkeys(belief.truth.entity for belief in facts.beliefs))
    assert max(Counter(names).values()) == 1
    assert len(facts.subjects) == 57 == len(set(MMLU_SUBJECTS))


def test_inherited_facts_follow_from_the_kind():
    facts = build_facts(SMALL)
    of_kind = {(fact.entity, fact.relation.name): fact.value for fact in facts.kinds}
    for relation in ("cover", "young"):
        values = {fact.value for fact in facts.kinds if fact.relation.name == relation}
        assert len(values) == 12, "a value of no kind would be ruled out unseen"
    for creature in facts.creatures:
        kind = next(fact.value for fact in creature.told if fact.relation.name == "kind")
        assert {fact.relation.name for fact in creature.inherited} == {"cover", "young"}
        for fact in creature.inherited:
            assert fact.value == of_kind[kind, fact.relation.name]
            assert f"The {creature.name} is a {kind}." in fact.reasoning()


def test_facts_do_not_depend_on_numbers_of_rows():
    more = SMALL.model_copy(update={"documents": 9, "arc_items": 1, "gsm8k_items": 5})
    assert build_facts(SMALL) == build_facts(more)
    assert build_facts(SMALL) != build_facts(SMALL.model_copy(update={"seed": 8}))


def test_the_first_creatures_are_told_more_often():
    facts = build_facts(WorldSettings())
    weights = [
        high - low for low, high in zip((0, *facts.creature_weights), facts.creature_weights, strict=False)
    ]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] / weights[-1] > 20
