"""Everyday activities as scripts of steps, which HellaSwag asks to continue.

Two of the steps need two cues each: the tool depends on activity and place, the goal on place and kind of
object. Some (activity, object) pairs are held out: no training row uses them.
"""

import random
from dataclasses import dataclass
from itertools import accumulate

from solar_repro.microworld.words import PEOPLE, word_list
from solar_repro.scales.microworld import WorldSettings

# For each activity its label and its two middle steps.
ACTIVITIES = {
    "wash": ("Washing", ("soaks", "rubs")),
    "paint": ("Painting", ("brushes", "colours")),
    "mend": ("Mending", ("glues", "presses")),
    "pack": ("Packing", ("folds", "ties")),
    "clean": ("Cleaning", ("wipes", "shines")),
    "hide": ("Hiding", ("covers", "buries")),
    "sell": ("Selling", ("weighs", "labels")),
    "draw": ("Drawing", ("studies", "sketches")),
    "dry": ("Drying", ("shakes", "hangs up")),
    "move": ("Moving", ("lifts", "pulls")),
    "test": ("Testing", ("taps", "bends")),
    "wrap": ("Wrapping", ("rolls up", "seals")),
}
# For each kind of object its objects. The first kinds are used more often than the last.
OBJECTS = {
    "cloth": ("shirt", "scarf", "blanket", "hat"),
    "toy": ("doll", "kite", "drum", "puzzle"),
    "tool": ("hammer", "saw", "ladder", "shovel"),
    "dish": ("plate", "bowl", "spoon", "kettle"),
    "fruit": ("apple", "lemon", "cherry", "grape"),
    "paper": ("letter", "map", "poster", "book"),
    "light": ("lamp", "candle", "lantern", "torch"),
    "jewel": ("ring", "crown", "brooch", "chain"),
}
PLACES = word_list(
    """
    kitchen garden market school yard cellar office harbour shop tent cabin farm bakery library station
    museum bridge tower camp mill hotel studio stable temple ferry clinic chapel theatre castle kiosk
    lobby pier attic dock barn hall
    """
)
TOOLS = word_list(
    "sponge brush rope cloth bucket tray stick paper net hook tape string towel board wheel pump"
)
GOALS = word_list("basket drawer chest crate bag cupboard bin trunk rack cart sack locker")


@dataclass(frozen=True)
class Scripts:
    """The tools and goals of activities in each place, and how often a pair is used (cumulative weights)."""

    pairs: tuple[tuple[str, str], ...]
    """(activity, place)"""
    pair_weights: tuple[float, ...]
    tools: dict[tuple[str, str], str]
    """The tool by (activity, place)."""
    goals: dict[tuple[str, str], str]
    """The goal by (place, kind of object)."""
    kind_weights: tuple[float, ...]
    held_out: frozenset[tuple[str, str]]
    """(activity, object)"""


@dataclass(frozen=True)
class Story:
    """A script with a person, a place and an object."""

    activity: str
    place: str
    kind: str
    thing: str
    label: str
    parts: tuple[tuple[str, str, str], ...]
    """(context so far, start of the next sentence, its ending), for the tool, the order and the goal."""

    @property
    def text(self) -> str:
        """The whole story."""
        context, start, ending = self.parts[-1]
        return f"{context} {start} {ending}"


def build_scripts(settings: WorldSettings) -> Scripts:
    """Draw the tools, goals and held-out pairs of the world."""
    stream = random.Random(f"{settings.seed}/scripts")
    pairs = [(activity, place) for activity in ACTIVITIES for place in PLACES]
    stream.shuffle(pairs)
    things = [(activity, thing) for activity in ACTIVITIES for kind in OBJECTS.values() for thing in kind]
    return Scripts(
        pairs=tuple(pairs),
        pair_weights=tuple(accumulate((rank + 5) ** -settings.zipf_exponent for rank in range(len(pairs)))),
        tools={pair: stream.choice(TOOLS) for pair in pairs},
        goals={(place, kind): stream.choice(GOALS) for place in PLACES for kind in OBJECTS},
        kind_weights=tuple(accumulate((rank + 1) ** -settings.zipf_exponent for rank in range(len(OBJECTS)))),
        held_out=frozenset(stream.sample(things, len(things) // 4)),
    )


def draw_story(scripts: Scripts, stream: random.Random, held_out: bool = False) -> Story:
    """A random story for training, or one of a held-out pair, of which all are equally likely."""
    while True:
        activity, place = stream.choices(
            scripts.pairs, cum_weights=None if held_out else scripts.pair_weights
        )[0]
        kind = stream.choices(tuple(OBJECTS), cum_weights=None if held_out else scripts.kind_weights)[0]
        thing = stream.choice(OBJECTS[kind])
        if ((activity, thing) in scripts.held_out) == held_out:
            break
    name, he = stream.choice(PEOPLE)
    label, (first, second) = ACTIVITIES[activity]
    start = f"{name} is in the {place} and wants to {activity} the {thing}."
    tool = f"takes the {scripts.tools[activity, place]}."
    middle = f"{first} the {thing} and {second} the {thing}."
    goal = f"puts the {thing} in the {scripts.goals[place, kind]}."
    with_tool = f"{start} First {he} {tool}"
    return Story(
        activity, place, kind, thing, f"{label} the {thing}",
        (
            (start, f"First {he}", tool),
            (with_tool, f"Then {he}", middle),
            (f"{with_tool} Then {he} {middle}", f"At last {he}", goal),
        ),
    )  # fmt: skip


def wrong_endings(scripts: Scripts, story: Story, part: int, stream: random.Random) -> tuple[str, ...]:
    """Three wrong endings of part 0 (tool), 1 (order) or 2 (goal); each of them fits one cue at most."""
    right = story.parts[part][2]
    others = [activity for activity in ACTIVITIES if activity != story.activity]
    if part == 0:
        same_place = f"takes the {scripts.tools[stream.choice(others), story.place]}."
        place = stream.choice([place for place in PLACES if place != story.place])
        same_activity = f"takes the {scripts.tools[story.activity, place]}."
        candidates = [same_place, same_activity, *(f"takes the {tool}." for tool in stream.sample(TOOLS, 6))]
    elif part == 1:
        first, second = ACTIVITIES[story.activity][1]
        swapped = f"{second} the {story.thing} and {first} the {story.thing}."
        candidates = [swapped]
        for other in stream.sample(others, 6):
            steps = ACTIVITIES[other][1]
            candidates.append(f"{steps[0]} the {story.thing} and {steps[1]} the {story.thing}.")
    else:
        kind = stream.choice([kind for kind in OBJECTS if kind != story.kind])
        place = stream.choice([place for place in PLACES if place != story.place])
        goals = [scripts.goals[place, story.kind], scripts.goals[story.place, kind]]
        goals += stream.sample(GOALS, 6)
        candidates = [f"puts the {story.thing} in the {goal}." for goal in goals]
    return tuple(dict.fromkeys(ending for ending in candidates if ending != right))[:3]
