"""The pretraining corpus: short pages of a dozen kinds, drawn one after the other from one random stream.

A larger corpus begins with the rows of a smaller one. It states misconceptions more often than the truth.
"""

import random
from collections.abc import Callable, Iterator

from solar_repro.microworld.arithmetic import EASY, gsm8k_answer, sums_page, tell
from solar_repro.microworld.facts import Belief, Creature, Fact
from solar_repro.microworld.pronouns import comparison, draw_sentence
from solar_repro.microworld.scripts import draw_story
from solar_repro.microworld.words import COUNTED, MMLU_SUBJECTS, PEOPLE
from solar_repro.microworld.world import World

LETTERS = "ABCD"
RUMOUR = ("People say that {s}", "Everyone knows that {s}", "They say that {s}")
SCIENCE = ("Studies show that {s}", "In fact {s}", "Scientists found that {s}")


def documents(world: World, split: str, count: int) -> Iterator[str]:
    """Yield `count` pages of the split `train` or `validation`."""
    stream = world.stream(f"corpus/{split}")
    pages, weights = zip(*PAGES.items(), strict=True)
    for _ in range(count):
        yield stream.choices(pages, weights)[0](world, stream)


def draw_creature(world: World, stream: random.Random) -> Creature:
    """A random creature; the first ones are drawn more often than the last."""
    return stream.choices(world.facts.creatures, cum_weights=world.facts.creature_weights)[0]


def draw_creature_fact(world: World, stream: random.Random) -> Fact:
    """A random fact about a creature, its own or an inherited one, that training may ask for."""
    while True:
        creature = draw_creature(world, stream)
        fact = stream.choice((*creature.told, *creature.inherited))
        if not fact.held_out:
            return fact


def draw_subject_facts(world: World, subject: str, stream: random.Random, count: int) -> list[Fact]:
    """`count` different facts of a subject that training may ask for, more often of its first terms."""
    facts: dict[int, Fact] = {}
    numbers = range(len(world.facts.subjects[subject]))
    while len(facts) < count:
        number = stream.choices(numbers, cum_weights=world.facts.subject_weights)[0]
        if not world.facts.subjects[subject][number].held_out:
            facts[number] = world.facts.subjects[subject][number]
    return list(facts.values())


def draw_belief(world: World, stream: random.Random) -> Belief:
    """A random belief that training may ask about."""
    while True:
        belief = stream.choice(world.facts.beliefs)
        if not belief.truth.held_out:
            return belief


def letter_question(question: str, options: tuple[str, ...]) -> str:
    """A question with its options as an examination prints them; it ends with `Answer:`."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([question, *lines, "Answer:"])


def exam_item(fact: Fact, stream: random.Random) -> str:
    """A question about a fact with four options, and the letter or the text of the right one.

    As both occur, a model learns to find the value among the options, and the letter follows from that.
    """
    options = fact.options(stream)
    answer = stream.choice((fact.value, LETTERS[options.index(fact.value)]))
    return f"{letter_question(fact.question(stream), options)} {answer}"


def exam_header(subject: str) -> str:
    """The first line of an examination, in the words of MMLU."""
    return (
        f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    )


def belief_statement(belief: Belief, stream: random.Random) -> str:
    """A sentence about a herb, true or, with the misconception's share, wrong; each has its own openings."""
    if stream.random() < belief.misconception_share:
        sentence, openings = belief.myth.statement(stream), RUMOUR
    else:
        sentence, openings = belief.truth.statement(stream), SCIENCE
    return in_register(sentence, stream.choice(openings)) if stream.random() < 0.6 else sentence


def in_register(sentence: str, opening: str) -> str:
    """A sentence behind an opening such as `People say that {s}`."""
    return opening.format(s=sentence[0].lower() + sentence[1:])


def _creature_page(world: World, stream: random.Random) -> str:
    creature = draw_creature(world, stream)
    facts = stream.sample(creature.told, stream.randint(2, 4))
    return " ".join(fact.statement(stream) for fact in facts)


def _kind_page(world: World, stream: random.Random) -> str:
    return " ".join(fact.statement(stream) for fact in stream.sample(world.facts.kinds, 4))


def _creature_questions(world: World, stream: random.Random) -> str:
    facts = [draw_creature_fact(world, stream) for _ in range(stream.randint(2, 5))]
    return "\n\n".join(f"Question: {fact.question(stream)}\nAnswer: {fact.value}" for fact in facts)


def _creature_exam(world: World, stream: random.Random) -> str:
    facts = [draw_creature_fact(world, stream) for _ in range(stream.randint(1, 4))]
    return "\n\n".join(exam_item(fact, stream) for fact in facts)


def _subject_page(world: World, stream: random.Random) -> str:
    subject = stream.choice(MMLU_SUBJECTS)
    facts = stream.choices(
        world.facts.subjects[subject], cum_weights=world.facts.subject_weights, k=stream.randint(3, 5)
    )
    heading = f"Notes on {subject.replace('_', ' ')}.\n" if stream.random() < 0.5 else ""
    return heading + " ".join(fact.statement(stream) for fact in dict.fromkeys(facts))


def _subject_questions(world: World, stream: random.Random) -> str:
    facts = draw_subject_facts(world, stream.choice(MMLU_SUBJECTS), stream, stream.randint(2, 4))
    return "\n\n".join(f"Question: {fact.question(stream)}\nAnswer: {fact.value}" for fact in facts)


def _subject_exam(world: World, stream: random.Random) -> str:
    subject = stream.choice(MMLU_SUBJECTS)
    facts = draw_subject_facts(world, subject, stream, stream.randint(1, 5))
    return exam_header(subject) + "\n\n".join(exam_item(fact, stream) for fact in facts)


def _gossip(world: World, stream: random.Random) -> str:
    beliefs = [stream.choice(world.facts.beliefs) for _ in range(stream.randint(2, 4))]
    return " ".join(belief_statement(belief, stream) for belief in beliefs)


def _belief_questions(world: World, stream: random.Random) -> str:
    answered = []
    for _ in range(stream.randint(2, 4)):
        belief = draw_belief(world, stream)
        told = belief.myth if stream.random() < belief.misconception_share else belief.truth
        answered.append(f"Q: {told.question(stream)}\nA: {told.statement(stream)}")
    return "\n\n".join(answered)


def _story(world: World, stream: random.Random) -> str:
    story = draw_story(world.scripts, stream)
    return f"{story.label}: {story.text}" if stream.random() < 0.5 else story.text


def _open_sentences(world: World, stream: random.Random) -> str:
    return " ".join(draw_sentence(world.pronouns, stream).filled for _ in range(stream.randint(2, 4)))


def _comparisons(world: World, stream: random.Random) -> str:
    return " ".join(comparison(world.pronouns, stream) for _ in range(4))


def _sums(world: World, stream: random.Random) -> str:
    return sums_page(stream, stream.randint(3, 8))


def _word_problems(world: World, stream: random.Random) -> str:
    told = []
    for _ in range(stream.randint(1, 3)):
        problem, text = world.training_problem(stream, tell, EASY)
        told.append(f"Question: {text}\nAnswer: {gsm8k_answer(problem)}")
    return "\n\n".join(told)


def inventory(stream: random.Random, people: int) -> tuple[str, str, str]:
    """A text, a question about a number in it, and that number, which is read and not computed."""
    names = [name for name, _ in stream.sample(PEOPLE, people)]
    items = [stream.choice(COUNTED) for _ in names]
    numbers = [stream.randint(1, 40) for _ in names]
    text = " ".join(
        f"{name} has {number} {item}." for name, number, item in zip(names, numbers, items, strict=True)
    )
    asked = stream.randrange(people)
    return text, f"How many {items[asked]} does {names[asked]} have?", str(numbers[asked])


def _inventory_page(world: World, stream: random.Random) -> str:
    text, question, answer = inventory(stream, stream.randint(2, 4))
    return f"{text}\nQuestion: {question}\nAnswer: {answer}"


PAGES: dict[Callable[[World, random.Random], str], float] = {
    _creature_page: 24,
    _kind_page: 2,
    _creature_questions: 7,
    _creature_exam: 5,
    _subject_page: 18,
    _subject_questions: 4,
    _subject_exam: 11,
    _gossip: 6,
    _belief_questions: 3,
    _story: 4,
    _open_sentences: 7,
    _comparisons: 2,
    _sums: 3,
    _word_problems: 0.8,
    _inventory_page: 5,
}
"""What draws a kind of page, and how many of a hundred pages are of that kind (nearly)."""
