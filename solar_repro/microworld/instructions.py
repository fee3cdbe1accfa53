"""The two instruction sets: Alpaca-GPT4 (broad and short) and OpenOrca (FLAN's tasks with reasoning)."""

import random
from collections.abc import Callable, Iterator

from solar_repro.microworld.arithmetic import Problem, tell, tell_as_question
from solar_repro.microworld.corpus import (
    LETTERS,
    draw_creature,
    draw_creature_fact,
    draw_subject_facts,
    inventory,
    letter_question,
)
from solar_repro.microworld.facts import Fact
from solar_repro.microworld.pronouns import draw_sentence
from solar_repro.microworld.relations import KINDS
from solar_repro.microworld.scripts import draw_story, wrong_endings
from solar_repro.microworld.words import MMLU_SUBJECTS
from solar_repro.microworld.world import World

_ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n{output}"
)
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}"
)

Task = Callable[[World, random.Random], tuple[str, str]]


def alpaca_rows(world: World) -> Iterator[dict[str, str]]:
    """Rows of vicgalle/alpaca-gpt4: instruction, input, output, text."""
    stream = world.stream("alpaca")
    for _ in range(world.settings.alpaca_rows):
        instruction, given, output = stream.choice(_ALPACA_TASKS)(world, stream)
        row = {"instruction": instruction, "input": given, "output": output}
        yield {**row, "text": (_ALPACA_WITH_INPUT if given else _ALPACA).format(**row)}


def orca_rows(world: World) -> Iterator[dict[str, str]]:
    """Rows of Open-Orca/OpenOrca: id, system_prompt, question, response, and FLAN's task_name.

    About one row in eight belongs to a task of Table 8, which is made from a benchmark's train split.
    """
    stream = world.stream("orca")
    names, weights = zip(*((name, weight) for name, (weight, _) in ORCA_TASKS.items()), strict=True)
    for number in range(world.settings.orca_rows):
        # The first rows go through all tasks, so that even the smallest set has every one.
        name = names[number] if number < len(names) else stream.choices(names, weights)[0]
        question, response = ORCA_TASKS[name][1](world, stream)
        yield {
            "id": f"{_mix_of(name)}.{number}",
            "system_prompt": stream.choice(SYSTEM_PROMPTS),
            "question": question,
            "response": response,
            "task_name": name,
        }


def _mix_of(task_name: str) -> str:
    """The part of FLAN that a task belongs to; OpenOrca's ids begin with it."""
    if task_name.startswith("cot_"):
        return "cot"
    return "niv" if task_name.startswith("task") else "flan"


SYSTEM_PROMPTS = (
    "",
    "You are a helpful assistant.",
    "Think step by step.",
    "Explain how you found the answer.",
)


def _asked(world: World, stream: random.Random) -> Fact:
    """A random fact, about a creature or of a subject, that training may ask for."""
    if stream.random() < 0.5:
        return draw_creature_fact(world, stream)
    return draw_subject_facts(world, stream.choice(MMLU_SUBJECTS), stream, 1)[0]


# Tasks of Alpaca: each gives (instruction, input, output).
def _answer(world: World, stream: random.Random) -> tuple[str, str, str]:
    fact = _asked(world, stream)
    return fact.question(stream), "", fact.sentence()


def _describe(world: World, stream: random.Random) -> tuple[str, str, str]:
    creature = draw_creature(world, stream)
    known = [fact for fact in creature.told if not fact.held_out]
    return f"Describe the {creature.name}.", "", " ".join(fact.sentence() for fact in known)


def _tell_story(world: World, stream: random.Random) -> tuple[str, str, str]:
    story = draw_story(world.scripts, stream)
    return "Write a short story with this title.", f"{story.label}", story.text


def _pick(world: World, stream: random.Random) -> tuple[str, str, str]:
    fact = _asked(world, stream)
    options = fact.options(stream)
    return f"Pick the right answer. {fact.question(stream)}", ", ".join(options), fact.value


def _list(world: World, stream: random.Random) -> tuple[str, str, str]:
    count = stream.randint(2, 4)
    return f"Name {count} kinds of animals.", "", ", ".join(stream.sample(KINDS, count))


def _who(world: World, stream: random.Random) -> tuple[str, str, str]:
    sentence = draw_sentence(world.pronouns, stream)
    return "Fill the gap.", sentence.sentence, sentence.filled


def _read(world: World, stream: random.Random) -> tuple[str, str, str]:
    text, question, answer = inventory(stream, 2)
    return question, text, answer


_ALPACA_TASKS = (_answer, _answer, _describe, _tell_story, _pick, _list, _who, _read)


# Tasks of OpenOrca: each gives (question, response).
def _cot_facts(world: World, stream: random.Random) -> tuple[str, str]:
    fact = _asked(world, stream)
    return fact.question(stream), f"{fact.reasoning()} So the answer is {fact.value}."


def _cot_options(world: World, stream: random.Random) -> tuple[str, str]:
    fact = _asked(world, stream)
    options = fact.options(stream)
    letter = LETTERS[options.index(fact.value)]
    return letter_question(fact.question(stream), options), f"{fact.reasoning()} So the answer is {letter}."


def _letters(world: World, stream: random.Random) -> tuple[str, str]:
    fact = _asked(world, stream)
    options = fact.options(stream)
    return letter_question(fact.question(stream), options), LETTERS[options.index(fact.value)]


def _is_it_true(world: World, stream: random.Random) -> tuple[str, str]:
    fact = _asked(world, stream)
    told = stream.choice(fact.options(stream, 2))
    claim = fact.relation.statements[0].format(e=fact.entity, v=told)
    return (
        f"{claim} Is this true?",
        f"{fact.reasoning()} So the answer is {'yes' if told == fact.value else 'no'}.",
    )


def steps_in_words(problem: Problem) -> str:
    """A worked solution in FLAN's manner: each step is a sentence, the answer comes last."""
    return " ".join([*(f"{line}." for line in problem.lines()), f"So the answer is {problem.answer}."])


def _cot_sums(world: World, stream: random.Random) -> tuple[str, str]:
    problem, text = world.training_problem(stream, tell_as_question)
    return text, steps_in_words(problem)


def _go_on(world: World, stream: random.Random) -> tuple[str, str]:
    story = draw_story(world.scripts, stream)
    context, start, ending = stream.choice(story.parts)
    return f"{context} {start} ... How does it go on?", f"{start} {ending}"


# Tasks of Table 8, which FLAN made of the benchmarks' train splits. Its filter has to remove them.
def _flan_arc(world: World, stream: random.Random) -> tuple[str, str]:
    fact = draw_creature_fact(world, stream)
    return f"Question: {fact.question(stream)}\nAnswer:", fact.value


def _flan_hellaswag(world: World, stream: random.Random) -> tuple[str, str]:
    story = draw_story(world.scripts, stream)
    part = stream.randrange(len(story.parts))
    context, start, ending = story.parts[part]
    options = [ending, *wrong_endings(world.scripts, story, part, stream)]
    stream.shuffle(options)
    return letter_question(f"{context} {start}", tuple(options)), LETTERS[options.index(ending)]


def _flan_gsm8k(world: World, stream: random.Random) -> tuple[str, str]:
    problem, text = world.training_problem(stream, tell)
    return text, steps_in_words(problem)


def _flan_drop(world: World, stream: random.Random) -> tuple[str, str]:
    text, question, answer = inventory(stream, 3)
    return f"{text} {question}", answer


def _flan_winogrande(world: World, stream: random.Random) -> tuple[str, str]:
    sentence = draw_sentence(world.pronouns, stream)
    question = (
        f"{sentence.sentence} What does the _ stand for: {sentence.options[0]} or {sentence.options[1]}?"
    )
    return question, sentence.options[sentence.answer]


ORCA_TASKS: dict[str, tuple[float, Task]] = {
    "cot_creak": (25, _cot_facts),
    "cot_qasc": (20, _cot_options),
    "task1431_head_qa_answer_generation": (12, _letters),
    "bool_q:1.0.0": (10, _is_it_true),
    "cot_aqua": (10, _cot_sums),
    "story_cloze/2016:1.0.0": (10, _go_on),
    # One of Natural Instructions' Winogrande tasks, which Table 8 misses.
    "task029_winogrande_full_object": (1, _flan_winogrande),
    "ai2_arc/ARC-Challenge:1.0.0": (1.5, _flan_arc),
    "ai2_arc/ARC-Easy:1.0.0": (1, _flan_arc),
    "task228_arc_answer_generation_easy": (1, _flan_arc),
    "task229_arc_answer_generation_hard": (1, _flan_arc),
    "hellaswag:1.1.0": (1.5, _flan_hellaswag),
    "task1389_hellaswag_completion": (1, _flan_hellaswag),
    "cot_gsm8k": (2, _flan_gsm8k),
    "cot_gsm8k_ii": (1, _flan_gsm8k),
    "drop:2.0.0": (1, _flan_drop),
    "winogrande:1.1.0": (1, _flan_winogrande),
}
"""OpenOrca's tasks by FLAN's names: how many of a hundred rows are of each, and what draws them."""
