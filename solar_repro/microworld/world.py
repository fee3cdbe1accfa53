"""The world as a whole, and the word problems that are reserved for the benchmark."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from solar_repro.microworld.arithmetic import GRADED, Problem, draw_problem, tell
from solar_repro.microworld.facts import Facts, build_facts
from solar_repro.microworld.pronouns import Pronouns, build_pronouns
from solar_repro.microworld.scripts import Scripts, build_scripts
from solar_repro.scales.microworld import WorldSettings

WORDS_IN_COMMON = 13
"""The length of the overlaps that decontamination usually looks for."""
RESERVED = 150
"""The first test problems of GSM8K, which all training rows avoid. Further ones are drawn from problems that
no row uses, so that the corpus, and a base trained on it, do not depend on how many there are."""


@dataclass(frozen=True)
class World:
    """Everything that rows are drawn from."""

    settings: WorldSettings
    facts: Facts
    scripts: Scripts
    pronouns: Pronouns
    gsm8k: tuple[tuple[Problem, str], ...]
    """The reserved problems, each with its question."""
    gsm8k_keys: frozenset[tuple]
    """The `_key` of each reserved problem."""
    gsm8k_overlaps: frozenset[str]
    """All runs of 13 words in their questions."""
    told_keys: set[tuple] = field(default_factory=set)
    """The problems, as `_key`, that training rows have used so far."""
    told_runs: set[str] = field(default_factory=set)
    """The runs of 13 words in those rows."""

    def stream(self, name: str) -> random.Random:
        """A random stream of its own for each set, so that the size of one does not change another's rows."""
        return random.Random(f"{self.settings.seed}/{name}")

    def training_problem(
        self,
        stream: random.Random,
        wording: Callable[[Problem, random.Random], str],
        grades: tuple[int, ...] = GRADED,
    ) -> tuple[Problem, str]:
        """A problem and its text for training: not a reserved one, and no 13 words in common with one."""
        while True:
            problem = draw_problem(stream, grades)
            text = wording(problem, stream)
            if _key(problem) not in self.gsm8k_keys and self.may_tell(text):
                self.told_keys.add(_key(problem))
                return problem, text

    def may_tell(self, text: str) -> bool:
        """Whether a text shares no 13 words in a row with a reserved problem; then it counts as used."""
        runs = word_runs(text)
        if not self.gsm8k_overlaps.isdisjoint(runs):
            return False
        self.told_runs.update(runs)
        return True

    def test_problems(self) -> list[tuple[Problem, str]]:
        """GSM8K's test problems with their questions: the reserved ones, then further ones.

        The further ones are problems that no row drawn so far uses, so this has to be called last. Each
        number of steps is as frequent among them as among all problems.
        """
        problems = {_key(problem): (problem, question) for problem, question in self.gsm8k}
        stream = self.stream("gsm8k/further")
        steps = 0
        while len(problems) < self.settings.gsm8k_items:
            # Rows use short problems more often, which must not make them rarer in the test.
            steps = steps or len(draw_problem(stream).steps())
            problem = draw_problem(stream)
            key, question = _key(problem), tell(problem, stream)
            is_new = key not in problems and key not in self.told_keys
            if is_new and len(problem.steps()) == steps and self.told_runs.isdisjoint(word_runs(question)):
                problems[key], steps = (problem, question), 0
        return list(problems.values())


def build_world(settings: WorldSettings) -> World:
    """The world that settings describe; the same settings give the same world."""
    stream = random.Random(f"{settings.seed}/gsm8k")
    problems: dict[tuple, tuple[Problem, str]] = {}
    while len(problems) < min(RESERVED, settings.gsm8k_items):
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
    """Every run of 13 words of a text, lower-cased; the whole text if it is shorter."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return [
        " ".join(words[start : start + WORDS_IN_COMMON])
        for start in range(max(1, len(words) - WORDS_IN_COMMON + 1))
    ]


def _key(problem: Problem) -> tuple:
    """What identifies a problem, whoever it is about."""
    return problem.item, problem.start, problem.bags, problem.changes, problem.difference
