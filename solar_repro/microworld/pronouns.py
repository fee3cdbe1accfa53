"""Sentences with one word left open that two cues together decide: what Winogrande asks.

Three families: things and containers (which one is too big), hard and soft things (which one broke, a fact of
the world), and two people (who acted, and why). Some pairs of names are held out.
"""

import random
from dataclasses import dataclass
from itertools import accumulate, combinations

from solar_repro.microworld.settings import WorldSettings
from solar_repro.microworld.words import PEOPLE, word_list

CONTAINED = word_list("ball vase clock book shoe cake mirror statue radio globe")
CONTAINERS = word_list("box suitcase pocket closet barrel pouch cabinet jar van tub")
SOLIDS = word_list(
    """
    anvil pillow brick egg stone glass rock bulb nail candle pot leaf coin cookie bell feather bolt
    melon sword tomato shield carton chain sponge axe balloon wrench paper helmet berry
    """
)

# ({a} and {b} open the sentence, then the reasons that point at a and at b)
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
    """Which solids are hard, how often a sentence is told (cumulative weights), and the pairs held out."""

    hard: frozenset[str]
    solid_weights: tuple[float, ...]
    sentence_weights: tuple[float, ...]
    held_out: frozenset[frozenset[str]]


@dataclass(frozen=True)
class OpenSentence:
    """`sentence` has a `_` where option `answer` (0 or 1) belongs."""

    sentence: str
    options: tuple[str, str]
    answer: int

    @property
    def filled(self) -> str:
        return self.sentence.replace("_", self.options[self.answer])


def build_pronouns(settings: WorldSettings) -> Pronouns:
    """Draw which solids are hard and which pairs of names or things only the benchmark may use."""
    stream = random.Random(f"{settings.seed}/pronouns")
    names = [name for name, _ in PEOPLE]
    pairs = [frozenset((f"the {a}", f"the {b}")) for a in CONTAINED for b in CONTAINERS]
    pairs += [frozenset((f"the {a}", f"the {b}")) for a, b in combinations(SOLIDS, 2)]
    pairs += [frozenset(pair) for pair in combinations(names, 2)]
    # The words alternate hard and soft by their meaning; a few are swapped so that only the world tells.
    hard = {word for index, word in enumerate(SOLIDS) if (index % 2 == 0) != (stream.random() < 0.2)}
    exponent = settings.zipf_exponent
    return Pronouns(
        hard=frozenset(hard),
        solid_weights=tuple(accumulate((rank + 3) ** -exponent for rank in range(len(SOLIDS)))),
        sentence_weights=tuple(accumulate((rank + 2) ** -exponent for rank in range(len(PEOPLE_SENTENCES)))),
        held_out=frozenset(stream.sample(pairs, len(pairs) // 4)),
    )


def draw_sentence(pronouns: Pronouns, stream: random.Random, held_out: bool = False) -> OpenSentence:
    """A sentence for training, or one of a held-out pair (drawn evenly, not by how often it is told)."""
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


def hardness(pronouns: Pronouns, stream: random.Random) -> str:
    """A sentence that tells whether a solid is hard."""
    solid = stream.choices(SOLIDS, cum_weights=pronouns.solid_weights)[0]
    return f"The {solid} is {'hard' if solid in pronouns.hard else 'soft'}."


def _fit(stream: random.Random) -> OpenSentence:
    thing, container = f"the {stream.choice(CONTAINED)}", f"the {stream.choice(CONTAINERS)}"
    big = stream.random() < 0.5
    size = "big" if big else "small"
    if stream.random() < 0.5:
        sentence = f"{thing} does not fit in {container} because _ is too {size}."
        return OpenSentence(_capital(sentence), (thing, container), 0 if big else 1)
    sentence = f"{container} cannot hold {thing} because _ is too {size}."
    return OpenSentence(_capital(sentence), (container, thing), 1 if big else 0)


def _break(pronouns: Pronouns, stream: random.Random, evenly: bool) -> OpenSentence:
    weights = None if evenly else pronouns.solid_weights
    while True:
        first, second = stream.choices(SOLIDS, cum_weights=weights, k=2)
        if (first in pronouns.hard) != (second in pronouns.hard):
            break
    broke = stream.random() < 0.5
    end = "broke." if broke else "stayed whole."
    sentence = f"The {first} hit the {second}, and then _ {end}"
    first_answers = (first in pronouns.hard) != broke
    return OpenSentence(sentence, (f"the {first}", f"the {second}"), 0 if first_answers else 1)


def _people(pronouns: Pronouns, stream: random.Random, evenly: bool) -> OpenSentence:
    weights = None if evenly else pronouns.sentence_weights
    start, *reasons = stream.choices(PEOPLE_SENTENCES, cum_weights=weights)[0]
    (first, _), (second, _) = stream.sample(PEOPLE, 2)
    answer = stream.randrange(2)
    return OpenSentence(f"{start.format(a=first, b=second)} _ {reasons[answer]}", (first, second), answer)


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
