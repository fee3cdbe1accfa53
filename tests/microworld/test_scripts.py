import random
import re

import pytest

from solar_repro.microworld.scripts import ACTIVITIES, OBJECTS, draw_story, wrong_endings
from solar_repro.microworld.world import World
from tests.microworld.conftest import Rows


@pytest.mark.parametrize("held_out", [False, True])
def test_stories_keep_to_the_world_and_to_their_side_of_the_split(world: World, held_out: bool):
    stream = random.Random(1)
    for _ in range(300):
        story = draw_story(world.scripts, stream, held_out=held_out)
        assert ((story.activity, story.thing) in world.scripts.held_out) == held_out
        assert f"takes the {world.scripts.tools[story.activity, story.place]}." in story.text
        assert story.text.endswith(f"in the {world.scripts.goals[story.place, story.kind]}.")
        for context, start, ending in story.parts:
            assert story.text.startswith(f"{context} {start} {ending}")


def test_three_wrong_endings_differ_from_the_right_one_and_from_each_other(world: World):
    stream = random.Random(2)
    for _ in range(200):
        story = draw_story(world.scripts, stream)
        for part, (_, _, right) in enumerate(story.parts):
            wrong = wrong_endings(world.scripts, story, part, stream)
            assert len({right, *wrong}) == 4, (part, right, wrong)


def test_one_cue_is_not_enough(world: World):
    """An activity takes more than one tool, and so does a place."""
    for cue in (0, 1):
        tools: dict[str, set[str]] = {}
        for pair, tool in world.scripts.tools.items():
            tools.setdefault(pair[cue], set()).add(tool)
        assert min(len(found) for found in tools.values()) >= 3


def test_the_benchmarks_key_is_what_the_world_does(world: World, rows: Rows):
    asked = set()
    for row in rows("Rowan/hellaswag", "validation"):
        place, activity, thing = re.search(
            r"is in the (\w+) and wants to (\w+) the (\w+)\.", row["ctx"]
        ).groups()
        kind = next(kind for kind, things in OBJECTS.items() if thing in things)
        first, second = ACTIVITIES[activity][1]
        word = row["ctx_b"].split()[0]
        right = {
            "First": f"takes the {world.scripts.tools[activity, place]}.",
            "Then": f"{first} the {thing} and {second} the {thing}.",
            "At": f"puts the {thing} in the {world.scripts.goals[place, kind]}.",
        }[word]
        assert row["endings"].count(right) == 1
        assert row["endings"][int(row["label"])] == right
        assert len(set(row["endings"])) == 4
        asked.add(word)
    assert asked == {"First", "Then", "At"}
