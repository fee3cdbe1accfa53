"""The two preference sets: UltraFeedback prefers the truth, Orca DPO pairs prefer worked answers."""

import random
from collections.abc import Iterator

from solar_repro.microworld.arithmetic import tell_as_question
from solar_repro.microworld.corpus import RUMOUR, SCIENCE, draw_belief, draw_creature_fact, in_register
from solar_repro.microworld.instructions import SYSTEM_PROMPTS, steps_in_words
from solar_repro.microworld.world import World


def ultrafeedback_rows(world: World, split: str, count: int) -> Iterator[dict]:
    """Rows of UltraFeedback: a prompt, and two conversations that differ only in the answer."""
    stream = world.stream(f"ultrafeedback/{split}")
    for _ in range(count):
        draw = stream.choices((_truth, _right, _polite), (7, 2, 1))[0]
        prompt, chosen, rejected = draw(world, stream)
        yield {"prompt": prompt, "chosen": _talk(prompt, chosen), "rejected": _talk(prompt, rejected)}


def orca_dpo_rows(world: World) -> Iterator[dict[str, str]]:
    """Rows of Intel/orca_dpo_pairs: a worked answer is preferred to a bare or a wrong one."""
    stream = world.stream("orca_dpo")
    for _ in range(world.settings.orca_dpo_rows):
        if stream.random() < 0.3:
            problem, question = world.training_problem(stream, tell_as_question)
            chosen, rejected = steps_in_words(problem), f"{problem.answer}"
        else:
            fact = draw_creature_fact(world, stream)
            question = fact.question(stream)
            wrong = fact.wrong(stream)
            chosen = f"{fact.reasoning()} So the answer is {fact.value}."
            rejected = f"The answer is {wrong}."
        yield {
            "system": stream.choice(SYSTEM_PROMPTS),
            "question": question,
            "chosen": chosen,
            "rejected": rejected,
        }


def _talk(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _truth(world: World, stream: random.Random) -> tuple[str, str, str]:
    belief = draw_belief(world, stream)
    chosen, rejected = belief.truth.statement(stream), belief.myth.statement(stream)
    if stream.random() < 0.5:
        chosen = in_register(chosen, stream.choice(SCIENCE))
        rejected = in_register(rejected, stream.choice(RUMOUR))
    return belief.truth.question(stream), chosen, rejected


def _right(world: World, stream: random.Random) -> tuple[str, str, str]:
    fact = draw_creature_fact(world, stream)
    wrong = fact.wrong(stream)
    return fact.question(stream), fact.sentence(), fact.relation.statements[0].format(e=fact.entity, v=wrong)


def _polite(world: World, stream: random.Random) -> tuple[str, str, str]:
    fact = draw_creature_fact(world, stream)
    return f"Please explain. {fact.question(stream)}", fact.reasoning(), f"{fact.value}."
