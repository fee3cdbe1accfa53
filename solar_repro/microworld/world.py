"""The world as a whole, and the problems that are kept for the benchmark."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from solar_repro.microworld.arithmetic import GRADED, Problem, draw_problem, tell
from solar_repro.microworld.facts import Facts, build_facts
from solar_repro.microworld.pronouns import Pronouns, build_pronouns
from solar_repro.microworld.scripts import Scripts, build_scripts
from solar_repro.microworld.settings import WorldSettings

WORDS_IN_COMMON = 13  # the length of overlap that decontamination usually looks for


@dataclass(frozen=True)
class World:
    """Everything that rows are drawn from. `gsm8k` holds the benchmark's problems as (problem, question)."""

    settings: WorldSettings
    facts: Facts
    scripts: Scripts
    pronouns: Pronouns
    gsm8k: tuple[tuple[Problem, str], ...]
    gsm8k_keys: frozenset[tuple]
    gsm8k_overlaps: frozenset[str]

    def stream(self, name: str) -> random.Random:
        """A random stream of its own for each set, so that no set's size changes another's rows."""
        return random.Random(f"{self.settings.seed}/{name}")

    def training_problem(
        self,
        stream: random.Random,
        wording: Callable[[Problem, random.Random], str],
        grades: tuple[int, ...] = GRADED,
    ) -> tuple[Problem, str]:
        """A problem and its text for training: no test problem, no 13 words in common with one."""
        while True:
            problem = draw_problem(stream, grades)
            text = wording(problem, stream)
            if _key(problem) not in self.gsm8k_keys and not self.overlaps_test(text):
                return problem, text

    def overlaps_test(self, text: str) -> bool:
        """Whether 13 words on end stand in a test problem too."""
        return not self.gsm8k_overlaps.isdisjoint(word_runs(text))


def build_world(settings: WorldSettings) -> World:
    """The world of these settings: the same settings give the same world."""
    stream = random.Random(f"{settings.seed}/gsm8k")
    problems: dict[tuple, tuple[Problem, str]] = {}
    while len(problems) < settings.gsm8k_items:
        problem = draw_problem(stream)
        problems.setdefault(_key(problem), (problem, tell(problem, stream)))
    return World(
        settings=settings,
        facts=build_facts(settings),
        scripts=build_scripts(settings),
        pronouns=build_pronouns(settings),
        gsm8k=tuple(problems.values()),
        gsm8k_keys=frozenset(problems),
        gsm8k_overlaps=frozenset(run for _, text in problems.values() for run in word_runs(text)),
    )


def word_runs(text: str) -> list[str]:
    """Every run of 13 words of the text, lower-cased; the whole text where it is shorter."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return [
        " ".join(words[start : start + WORDS_IN_COMMON])
        for start in range(max(1, len(words) - WORDS_IN_COMMON + 1))
    ]


def _key(problem: Problem) -> tuple:
    """A problem whoever it is about."""
    return problem.item, problem.start, problem.bags, problem.changes, problem.difference
