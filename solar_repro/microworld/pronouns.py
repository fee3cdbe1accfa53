"""Sentences with an open word that two cues together decide, as Winogrande asks for it.

There are three families. A thing and a container: the cues are which holds the other, and big or small. Two
solids: which is the harder one, a fact of the world, and broken or whole. Two people: who did what, and why.
A quarter of the pairs of words is held out.
"""

import random
from dataclasses import dataclass
from itertools import accumulate, combinations

from solar_repro.microworld.words import PEOPLE, word_list
from solar_repro.scales.microworld import WorldSettings

# Things that only lie in others, things that do both, and things that only hold others.
INSIDE = word_list("ball clock shoe cake radio globe")
EITHER = word_list("vase book statue box jar pouch cup bag")
AROUND = word_list("suitcase closet barrel cabinet van tub")
SOLIDS = word_list(
    """
    anvil pillow brick egg stone glass rock bulb nail candle pot leaf coin cookie bell feather bolt
    melon sword tomato shield carton chain sponge axe balloon wrench paper helmet berry
    plug mirror basket bottle pencil crayon ribbon hammer pumpkin marble plank lantern cheese drum
    biscuit needle button ladder turnip kettle crystal dagger mitten saddle tile shovel loaf medal
    feeder spoon
    """
)

# Each is the start of a sentence about {a} and {b}, a reason that points at a, and one that points at b.
PEOPLE_SENTENCES = (
    ("{a} gave the hat to {b} because", "wanted to help.", "needed a hat."),
    ("{a} asked {b} a question because", "did not know.", "knew a lot."),
    ("{a} thanked {b} because", "was helped.", "was so kind."),
    ("{a} beat {b} in the race because", "was fast.", "was slow."),
    ("{a} lost to {b} in the race because", "was slow.", "was fast."),
    ("{a} borrowed a pen from {b} because", "had no pen.", "had two pens."),
    ("{a} lent a pen to {b} because", "had two pens.", "had no pen."),
    ("{a} taught {b} to swim because", "could swim.", "could not swim."),
    ("{a} learned to swim from {b} because", "could not swim.", "could swim."),
    ("{a} carried the bag of {b} because", "was strong.", "was tired."),
    ("{a} paid {b} for the bread because", "was hungry.", "baked it."),
    ("{a} followed {b} home because", "was lost.", "knew the way."),
)


@dataclass(frozen=True)
class Pronouns:
    """How hard each solid is, how often each is used (cumulative weights), and which pairs are held out."""

    hardness: dict[str, int]
    solid_weights: tuple[float, ...]
    sentence_weights: tuple[float, ...]
    held_out: frozenset[frozenset[str]]


@dataclass(frozen=True)
class OpenSentence:
    """A `sentence` with a `_` in the place of option `answer` (0 or 1)."""

    sentence: str
    options: tuple[str, str]
    answer: int

    @property
    def filled(self) -> str:
        """The sentence with the right option."""
        return self.sentence.replace("_", self.options[self.answer])


def build_pronouns(settings: WorldSettings) -> Pronouns:
    """Draw the solids' order of hardness and which pairs of names or things only the benchmark may use."""
    stream = random.Random(f"{settings.seed}/pronouns")
    names = [name for name, _ in PEOPLE]
    things = [f"the {word}" for word in (*INSIDE, *EITHER, *AROUND)]
    solids = [f"the {word}" for word in SOLIDS]
    pairs = [frozenset(pair) for words in (things, solids, names) for pair in combinations(words, 2)]
    exponent = settings.zipf_exponent
    return Pronouns(
        hardness=dict(zip(stream.sample(SOLIDS, len(SOLIDS)), range(len(SOLIDS)), strict=True)),
        solid_weights=tuple(accumulate((rank + 3) ** -exponent for rank in range(len(SOLIDS)))),
        sentence_weights=tuple(accumulate((rank + 2) ** -exponent for rank in range(len(PEOPLE_SENTENCES)))),
        held_out=frozenset(stream.sample(pairs, len(pairs) // 4)),
    )


def draw_sentence(pronouns: Pronouns, stream: random.Random, held_out: bool = False) -> OpenSentence:
    """A random sentence for training, or one of a held-out pair, of which all are equally likely."""
    while True:
        family = stream.choices(("fit", "break", "people"), (2, 3, 4))[0]
        if family == "fit":
            sentence = _fit(stream)
        elif family == "break":
            sentence = _break(pronouns, stream, held_out)
        else:
            sentence = _people(pronouns, stream, held_out)
        if (frozenset(sentence.options) in pronouns.held_out) == held_out:
            return sentence


def comparison(pronouns: Pronouns, stream: random.Random) -> str:
    """A sentence that says which of two solids is the harder one; the pair is not held out."""
    while True:
        first, second = _two_solids(pronouns, stream, False)
        if frozenset((f"the {first}", f"the {second}")) not in pronouns.held_out:
            harder = pronouns.hardness[first] > pronouns.hardness[second]
            return f"The {first} is {'harder' if harder else 'softer'} than the {second}."


def _two_solids(pronouns: Pronouns, stream: random.Random, evenly: bool) -> tuple[str, str]:
    while True:
        first, second = stream.choices(SOLIDS, cum_weights=None if evenly else pronouns.solid_weights, k=2)
        if first != second:
            return first, second


def _fit(stream: random.Random) -> OpenSentence:
    thing = stream.choice((*INSIDE, *EITHER))
    container = stream.choice([word for word in (*EITHER, *AROUND) if word != thing])
    big = stream.random() < 0.5
    size = "big" if big else "small"
    if stream.random() < 0.5:
        sentence = f"The {thing} does not fit in the {container} because _ is too {size}."
        return OpenSentence(sentence, (f"the {thing}", f"the {container}"), 0 if big else 1)
    sentence = f"The {container} cannot hold the {thing} because _ is too {size}."
    return OpenSentence(sentence, (f"the {container}", f"the {thing}"), 1 if big else 0)


def _break(pronouns: Pronouns, stream: random.Random, evenly: bool) -> OpenSentence:
    first, second = _two_solids(pronouns, stream, evenly)
    broke = stream.random() < 0.5
    end = "broke." if broke else "stayed whole."
    softer_first = pronouns.hardness[first] < pronouns.hardness[second]
    sentence = f"The {first} hit the {second}, and then _ {end}"
    return OpenSentence(sentence, (f"the {first}", f"the {second}"), 0 if softer_first == broke else 1)


def _people(pronouns: Pronouns, stream: random.Random, evenly: bool) -> OpenSentence:
    weights = None if evenly else pronouns.sentence_weights
    start, *reasons = stream.choices(PEOPLE_SENTENCES, cum_weights=weights)[0]
    (first, _), (second, _) = stream.sample(PEOPLE, 2)
    answer = stream.randrange(2)
    return OpenSentence(f"{start.format(a=first, b=second)} _ {reasons[answer]}", (first, second), answer)
