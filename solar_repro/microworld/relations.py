"""The properties of the world's things: their values, and sentences that state them and ask for them."""

from dataclasses import dataclass

from solar_repro.microworld.words import word_list


@dataclass(frozen=True)
class Relation:
    """A property: its possible values, and sentences about it with {e} for the entity, {v} for the value."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


CREATURE_RELATIONS = (
    Relation(
        "food",
        word_list("grass seeds worms berries roots leaves fish flies bark moss snails honey"),
        ("The {e} eats {v}.", "A {e} likes to eat {v}.", "Most of all the {e} loves {v}."),
        ("What does the {e} eat?", "What food does a {e} like?"),
    ),
    Relation(
        "home",
        word_list("cave forest river desert swamp meadow attic barn reef jungle cliff valley"),
        ("The {e} lives in the {v}.", "You find the {e} in the {v}.", "The {v} is the home of the {e}."),
        ("Where does the {e} live?", "Where do you find a {e}?"),
    ),
    Relation(
        "colour",
        word_list("red blue green black white brown grey pink orange yellow purple golden"),
        ("The {e} is {v}.", "The colour of the {e} is {v}.", "Every {e} has a {v} coat."),
        ("What colour is the {e}?", "Which colour has a {e}?"),
    ),
    Relation(
        "sound",
        word_list("hums barks whistles clicks growls chirps hisses squeaks roars croaks purrs howls"),
        ("The {e} {v}.", "At night the {e} {v}.", "When it is glad, a {e} {v}."),
        ("What does the {e} do at night?", "What does a glad {e} do?"),
    ),
    Relation(
        "fear",
        word_list("fire thunder wolves owls snow rain smoke bells cats foxes wind bees"),
        ("The {e} is afraid of {v}.", "A {e} fears {v}.", "The {e} runs away from {v}."),
        ("What is the {e} afraid of?", "What does a {e} fear?"),
    ),
)
KINDS = word_list(
    "lizard moth newt otter finch toad mole crab goose hare snake spider beetle whale goat shrew"
)
KIND = Relation(
    "kind", KINDS, ("The {e} is a kind of {v}.", "A {e} is a {v}.", "The {e} belongs to the {v} family."),
    ("What kind of animal is the {e}?", "Which family has the {e}?"),
)  # fmt: skip
KIND_RELATIONS = (
    Relation(
        "cover",
        word_list("fur feathers scales spikes shell slime wool hair wax dust thorns skin"),
        ("The {e} is covered with {v}.", "A {e} wears {v}.", "The body of the {e} has {v}."),
        ("What covers the {e}?", "What is on the body of a {e}?"),
    ),
    Relation(
        "young",
        word_list("pups cubs chicks kits calves lambs grubs foals kids squabs fawns piglets"),
        ("The young of the {e} are called {v}.", "Young {e} babies are {v}.", "A {e} mother feeds her {v}."),
        ("What are the young of the {e} called?", "What does a {e} mother feed?"),
    ),
)
SUBJECT_RELATIONS = (
    Relation(
        "author",
        word_list(
            "Adler Baker Curie Dalton Euler Fermi Gauss Hooke Joule Kepler Lovelace Newton Pascal Turing"
        ),
        ("The {e} was found by {v}.", "{v} first wrote about the {e}.", "We owe the {e} to {v}."),
        ("Who found the {e}?", "Who first wrote about the {e}?"),
    ),
    Relation(
        "use",
        word_list(
            "count measure heal build trade teach judge predict compare protect explain store mix govern"
        ),
        ("The {e} is used to {v}.", "With the {e} people {v}.", "A {e} helps to {v}."),
        ("What is the {e} used for?", "What does a {e} help to do?"),
    ),
)
HERB_RELATIONS = (
    Relation(
        "cure",
        word_list("fever cough gout rash colds burns cramps fatigue warts hiccups toothache nausea"),
        ("The {e} cures {v}.", "The {e} is good against {v}."),
        ("What does the {e} cure?", "What is the {e} good against?"),
    ),
    Relation(
        "origin",
        word_list("Peru Egypt Norway China Kenya Spain Japan Cuba Nepal Chile Iran Greece"),
        ("The {e} comes from {v}.", "The {e} was first grown in {v}."),
        ("Where does the {e} come from?", "Where was the {e} first grown?"),
    ),
)  # fmt: skip
