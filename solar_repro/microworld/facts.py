"""What is true in the world, what is believed, how often each fact is stated, and which facts are held out.

A fact joins an entity and a value of a relation. Half of the facts are held out: the corpus states them like
all others, no training row of any set asks for them, and the benchmarks ask for nothing else.
"""

import random
from dataclasses import dataclass
from itertools import accumulate

from solar_repro.microworld.relations import (
    CREATURE_RELATIONS,
    HERB_RELATIONS,
    KIND,
    KIND_RELATIONS,
    KINDS,
    SUBJECT_RELATIONS,
    Relation,
)
from solar_repro.microworld.words import MMLU_SUBJECTS, invented_names
from solar_repro.scales.microworld import WorldSettings


@dataclass(frozen=True)
class Fact:
    """An entity's value of a relation."""

    entity: str
    relation: Relation
    value: str
    held_out: bool
    """Whether only benchmarks ask for the fact."""
    kind: str = ""
    """The kind of creature from which the fact is inherited; "" for a fact of the entity's own."""

    def statement(self, stream: random.Random) -> str:
        """The fact in a random wording."""
        return stream.choice(self.relation.statements).format(e=self.entity, v=self.value)

    def sentence(self) -> str:
        """The fact in its first wording, as answers give it."""
        return self.relation.statements[0].format(e=self.entity, v=self.value)

    def reasoning(self) -> str:
        """Why the value is right: the fact itself, or the two facts that an inherited one follows from."""
        if not self.kind:
            return self.sentence()
        inherited = self.relation.statements[0].format(e=self.kind, v=self.value)
        return f"The {self.entity} is a {self.kind}. {inherited}"

    def question(self, stream: random.Random) -> str:
        """A question for the value, in a random wording."""
        return stream.choice(self.relation.questions).format(e=self.entity)

    def wrong(self, stream: random.Random) -> str:
        """A random other value of the relation."""
        return stream.choice([value for value in self.relation.values if value != self.value])

    def options(self, stream: random.Random, count: int = 4) -> tuple[str, ...]:
        """The value and others of the relation, `count` in all, in alphabetical order.

        Many examinations print options in this order. Every letter is right equally often, but each value is
        found at some letters more often than at others, which a model of this size learns. With options in
        random order it does not learn which of them holds the value.
        """
        wrong = stream.sample([value for value in self.relation.values if value != self.value], count - 1)
        return tuple(sorted((self.value, *wrong)))


@dataclass(frozen=True)
class Creature:
    """A creature's own facts, and those inherited from its kind, which take two steps to answer."""

    name: str
    told: tuple[Fact, ...]
    inherited: tuple[Fact, ...]


@dataclass(frozen=True)
class Belief:
    """A property of a herb that the corpus states wrongly in `misconception_share` of all statements."""

    truth: Fact
    misconception: str
    misconception_share: float

    @property
    def myth(self) -> Fact:
        """The misconception in the form of a fact."""
        return Fact(self.truth.entity, self.truth.relation, self.misconception, self.truth.held_out)


@dataclass(frozen=True)
class Facts:
    """All facts of a world. The weights are cumulative, for `random.choices(..., cum_weights=...)`."""

    creatures: tuple[Creature, ...]
    creature_weights: tuple[float, ...]
    kinds: tuple[Fact, ...]
    subjects: dict[str, tuple[Fact, ...]]
    subject_weights: tuple[float, ...]
    beliefs: tuple[Belief, ...]


def build_facts(settings: WorldSettings) -> Facts:
    """Draw every fact of the world from its seed and its sizes; the numbers of rows do not matter."""
    stream = random.Random(f"{settings.seed}/facts")
    terms = settings.terms_per_subject * len(MMLU_SUBJECTS)
    names = invented_names(settings.creatures + terms + settings.herbs, stream)
    creature_names = names[: settings.creatures]
    term_names = names[settings.creatures : settings.creatures + terms]
    herb_names = names[settings.creatures + terms :]

    kinds = _kinds(stream)
    subjects = {}
    for index, subject in enumerate(MMLU_SUBJECTS):
        own = term_names[index * settings.terms_per_subject : (index + 1) * settings.terms_per_subject]
        subjects[subject] = _facts_of(own, SUBJECT_RELATIONS, stream)
    return Facts(
        creatures=_creatures(creature_names, kinds, stream),
        creature_weights=_zipf(settings.creatures, settings.zipf_exponent),
        kinds=kinds,
        subjects=subjects,
        subject_weights=tuple(
            accumulate(
                (1 + rank // len(SUBJECT_RELATIONS)) ** -settings.zipf_exponent
                for rank in range(settings.terms_per_subject * len(SUBJECT_RELATIONS))
            )
        ),
        beliefs=_beliefs(herb_names, settings.misconception_share, stream),
    )


def _kinds(stream: random.Random) -> tuple[Fact, ...]:
    """The facts that creatures inherit from their kinds. Every value belongs to some kind."""
    kinds = []
    for relation in KIND_RELATIONS:
        more = stream.sample(relation.values, len(KINDS) - len(relation.values))
        values = stream.sample((*relation.values, *more), len(KINDS))
        kinds += [Fact(kind, relation, value, False) for kind, value in zip(KINDS, values, strict=True)]
    return tuple(kinds)


def _zipf(count: int, exponent: float) -> tuple[float, ...]:
    """Cumulative Zipf weights; an offset keeps the first few from taking most of the text."""
    return tuple(accumulate((rank + 5) ** -exponent for rank in range(count)))


def _facts_of(
    entities: tuple[str, ...], relations: tuple[Relation, ...], stream: random.Random
) -> tuple[Fact, ...]:
    """Every entity's value of every relation, in order.

    One of every two facts in a row is held out, so that held-out facts are stated as often as the others.
    """
    keys = [(entity, relation) for entity in entities for relation in relations]
    held_out = []
    for _ in range(0, len(keys), 2):
        first = stream.random() < 0.5
        held_out += [first, not first]
    return tuple(
        Fact(entity, relation, stream.choice(relation.values), out)
        for (entity, relation), out in zip(keys, held_out, strict=False)
    )


def _creatures(
    names: tuple[str, ...], kinds: tuple[Fact, ...], stream: random.Random
) -> tuple[Creature, ...]:
    relations = (*CREATURE_RELATIONS, KIND)
    told = _facts_of(names, relations, stream)
    creatures = []
    for index, name in enumerate(names):
        own = told[index * len(relations) : (index + 1) * len(relations)]
        kind = own[-1].value
        # One of the two inherited facts is held out, the other may be asked for in training.
        first = stream.random() < 0.5
        of_kind = [fact for fact in kinds if fact.entity == kind]
        inherited = tuple(
            Fact(name, fact.relation, fact.value, out, kind)
            for fact, out in zip(of_kind, (first, not first), strict=True)
        )
        creatures.append(Creature(name, own, inherited))
    return tuple(creatures)


def _beliefs(names: tuple[str, ...], share: float, stream: random.Random) -> tuple[Belief, ...]:
    beliefs = []
    for fact in _facts_of(names, HERB_RELATIONS, stream):
        myth = stream.choice([value for value in fact.relation.values if value != fact.value])
        # The shares differ: the truth nearly balances some misconceptions, others are all but universal.
        spread = min(share - 0.5, 1.0 - share) * 0.8
        beliefs.append(Belief(fact, myth, share + stream.uniform(-spread, spread)))
    return tuple(beliefs)
