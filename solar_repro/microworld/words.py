"""The words of the world: names of people, things, subjects, and invented names for what facts are about."""

import random


def word_list(text: str) -> tuple[str, ...]:
    """The words of a text, in order."""
    return tuple(text.split())


# Each is a name and its pronoun.
PEOPLE = (
    ("Tom", "he"), ("Ann", "she"), ("Ben", "he"), ("Mia", "she"), ("Sam", "he"), ("Eva", "she"),
    ("Max", "he"), ("Lily", "she"), ("Leo", "he"), ("Zoe", "she"), ("Jack", "he"), ("Nora", "she"),
    ("Paul", "he"), ("Rosa", "she"), ("Hugo", "he"), ("Ida", "she"), ("Otto", "he"), ("Vera", "she"),
    ("Finn", "he"), ("Ruth", "she"),
)  # fmt: skip

# Things that are counted in word problems.
COUNTED = (
    "eggs", "nuts", "pens", "coins", "books", "cards", "stones", "plums", "pears", "shells", "stamps",
    "balls", "cups", "beans", "rings", "cakes", "kites", "keys", "dolls", "boats",
)  # fmt: skip

MMLU_SUBJECTS = word_list(
    """
    abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology
    college_chemistry college_computer_science college_mathematics college_medicine college_physics
    computer_security conceptual_physics econometrics electrical_engineering elementary_mathematics
    formal_logic global_facts high_school_biology high_school_chemistry high_school_computer_science
    high_school_european_history high_school_geography high_school_government_and_politics
    high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics
    high_school_psychology high_school_statistics high_school_us_history high_school_world_history
    human_aging human_sexuality international_law jurisprudence logical_fallacies machine_learning
    management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition
    philosophy prehistory professional_accounting professional_law professional_medicine
    professional_psychology public_relations security_studies sociology us_foreign_policy virology
    world_religions
    """
)

_ONSETS = word_list("b d f g k l m n p r s t v z bl dr kr pl sk tr")
_FIRST = tuple(onset + vowel for onset in _ONSETS for vowel in "aeiou")
_LAST = tuple(onset + vowel + coda for onset in "bdfglmnrsvz" for vowel in "aeiou" for coda in "klmnprstx")


def invented_names(count: int, stream: random.Random) -> tuple[str, ...]:
    """`count` different words of two syllables, such as `blavik`, none of which the templates use."""
    if count > len(_FIRST) * len(_LAST):
        raise ValueError(f"{count} names asked for, {len(_FIRST) * len(_LAST)} can be built")
    pairs = stream.sample(range(len(_FIRST) * len(_LAST)), count)
    return tuple(_FIRST[pair // len(_LAST)] + _LAST[pair % len(_LAST)] for pair in pairs)
