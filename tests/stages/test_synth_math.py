"""Synthetic mathematics by a model, as a scale asks for it: a real server, a real local model."""

import json
from dataclasses import replace

import pytest

from solar_repro.data.locate import folder_location
from solar_repro.data.rephrase_by_model import ANSWER, REPHRASE
from solar_repro.data.synthetic_math import math_problems
from solar_repro.errors import UserError
from solar_repro.paper.data_sets import MATH_SEEDS
from solar_repro.plan.plan import Plan
from solar_repro.scales.load import load_scale
from tests.model_server import serving
from tests.steps import run_step

PROBLEMS = 12


def step(**changes):
    """The step of `check` with `math: generate` and changed settings of the generation."""
    generation = {"model": "m", "problems": PROBLEMS} | changes
    overrides = {f"data.math_generation.{name}": str(value) for name, value in generation.items()}
    return Plan(load_scale("check", {"data.math": "generate"} | overrides)).synth_math()


def run(found, out, mirror):
    figures = {}
    out.mkdir(parents=True)
    run_step(replace(found, places={**found.places, "mirror": mirror}), out, figures.update, {})
    return figures


@pytest.fixture
def mirror(finished):
    return finished.folder("microworld")


@pytest.fixture
def served(mirror):
    problems = math_problems(folder_location(mirror / MATH_SEEDS))
    answers = {row["problem"]: row["solution"] for row in problems}

    def model(prompt: str) -> str:
        """Knows every answer but those of the problems with an even number of letters."""
        if prompt.startswith(REPHRASE):
            return f"Asked anew: {prompt.removeprefix(REPHRASE)[len('Question: ') :].rpartition(chr(10))[0]}"
        problem = prompt.removeprefix(ANSWER).removeprefix("Asked anew: ")
        return answers[problem] if len(problem) % 2 else "\\boxed{no}"

    with serving(model) as server:
        yield server


def test_a_server(served, mirror, tmp_path):
    at = {
        "server.base_url": served.url,
        "server.first_wait": 0.01,
        "server.concurrency": 2,
        "server.prompt_price": 1,
        "server.completion_price": 10,
    }
    found = step(**at)

    def refused(handler, prompt, count):
        if served.answered.total() >= 10:
            handler.reply(401, "the key has run out")
            return True
        return False

    served.fault = refused
    with pytest.raises(UserError, match="the key has run out"):
        run(found, tmp_path / "killed", mirror)
    served.fault = lambda *_: False
    figures = run(found, tmp_path / "out", mirror)
    assert set(served.answered.values()) == {1}  # nothing is asked twice
    assert figures["data/asked"] == PROBLEMS
    assert 0 < figures["data/accepted"] < PROBLEMS
    assert figures["data/dropped/another final answer"] == PROBLEMS - figures["data/accepted"]
    assert figures["data/instruct"] == figures["data/accepted"]
    answered = served.answered.total()
    assert answered == 2 * PROBLEMS
    assert figures["data/requests/cached"] + figures["data/requests/answered"] == answered
    assert figures["data/requests/cost"] == pytest.approx(answered * (100 * 1 + 10 * 10) / 1e6)
    report = json.loads((tmp_path / "out" / "solar" / "data.json").read_text())
    assert report["seeds"]["split"] == "train"
    assert set(report["overlap/instruct"]) >= {"MMLU", "GSM8K"}
    # Other settings of what is made from the answers ask for none again.
    again = run(step(**at | {"problems": PROBLEMS - 2}), tmp_path / "again", mirror)
    assert again["data/requests/answered"] == 0
    assert served.answered.total() == answered


def test_a_local_model(finished, mirror, tmp_path):
    found = step(model=finished.folder("sft_v3"), problems=3, max_tokens=4)
    with pytest.raises(
        UserError, match=r"no row was made from 3 problems \(dropped"
    ):  # a model of a few thousand weights
        run(found, tmp_path / "out", mirror)
    answers = (tmp_path / ".answers" / "synth_math" / "answers.jsonl").read_text().splitlines()
    assert len(answers) >= 3


def test_key_is_of_the_model_and_of_what_it_is_asked(finished, tmp_path):
    plain = step(**{"server.base_url": "http://a/v1"})
    assert step(**{"server.base_url": "http://b/v1", "server.attempts": 9}).key == plain.key
    assert step(**{"server.base_url": "http://a/v1", "samples": 2}).key != plain.key
    local = step(model=finished.folder("sft_v3"))
    assert local.key != plain.key
    (tmp_path / "elsewhere").symlink_to(finished.folder("sft_v3"))
    assert step(model=tmp_path / "elsewhere").key == local.key
