"""Answers from a server that has the model, over HTTP, beside those that are generated here."""

import pytest
import torch

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.errors import UserError
from solar_repro.h6.evaluation import evaluate_h6
from solar_repro.h6.tasks import build_tasks
from solar_repro.plan.plan import Plan
from solar_repro.scales.inference_server import InferenceServer
from solar_repro.scales.load import load_scale
from tests.model_server import serving

LONGEST = 900


@pytest.fixture(scope="module")
def tasks(mirror):
    return build_tasks(mirror, limits={"Winogrande": 2, "GSM8K": 3}, columns=["Winogrande", "GSM8K"])


@pytest.fixture
def served(model):
    """A server of the model, which generates by transformers, a request at a time."""
    network, tokenizer = load_for_scoring(model)

    def answer(prompt):
        body = next(body for body in server.bodies if tuple(body["prompt"]) == prompt)
        new = network.generate(
            torch.tensor([prompt]), max_new_tokens=body["max_tokens"], do_sample=False,
            stop_strings=body["stop"], tokenizer=tokenizer,
        )  # fmt: skip
        return tokenizer.decode(new[0, len(prompt) :], skip_special_tokens=True)

    with serving(answer) as server:
        server.models = [{"id": "other"}, {"id": "the model", "root": f"/data/{model.name}"}]
        yield server


def at(served, **changes):
    return InferenceServer(base_url=served.url, **{"attempts": 2, "first_wait": 0.0} | changes)


def test_its_answers_give_the_scores_of_those_generated_here(tasks, model, served, tmp_path):
    found = evaluate_h6(model, tasks, tmp_path / "served", max_length=LONGEST, server=at(served))
    here = evaluate_h6(model, tasks, tmp_path / "here", max_length=LONGEST)
    assert (found.columns, found.tasks) == (here.columns, here.tasks)
    assert found.settings.pop("generated_by_server") == "the model"
    assert found.settings == here.settings
    assert len(served.bodies) == 3  # of GSM8K alone
    for body in served.bodies:
        assert body["path"] == "/v1/completions"
        assert (body["model"], body["temperature"]) == ("the model", 0)
        assert len(body["prompt"]) + body["max_tokens"] <= LONGEST
        assert len(body["stop"]) <= 4


def test_what_was_answered_is_not_asked_again(tasks, model, served, tmp_path):
    def refuse_the_last(handler, prompt, count):
        if len(served.bodies) < 3:
            return False
        handler.reply(503, "busy")
        return True

    served.fault = refuse_the_last
    work, server = tmp_path / "work", at(served, concurrency=1)
    with pytest.raises(UserError, match=r"1 of 3 requests were not answered \(\{'status 503': 2\}\)"):
        evaluate_h6(model, tasks, tmp_path / "a", max_length=LONGEST, server=server, work=work)
    served.fault = lambda handler, prompt, count: False
    evaluate_h6(model, tasks, tmp_path / "b", max_length=LONGEST, server=server, work=work)
    assert sorted(served.answered.values()) == [1, 1, 1]


def test_a_server_of_another_model_is_refused_before_anything_is_loaded(tasks, served, tmp_path):
    with pytest.raises(UserError, match=r"has other, the model, not .*absent; start it with: vllm serve"):
        evaluate_h6(tmp_path / "absent", tasks, tmp_path / "out", server=at(served))
    served.models = []
    with pytest.raises(UserError, match="has no model, not"):
        evaluate_h6(tmp_path / "absent", tasks, tmp_path / "out", server=at(served))


def test_no_server_is_said_in_a_line(tasks, tmp_path):
    nowhere = InferenceServer(base_url="http://127.0.0.1:9/v1", attempts=1)
    with pytest.raises(UserError, match=r"not answer \(\{'connection': 1\}\); start it with: vllm serve"):
        evaluate_h6(tmp_path / "absent", tasks, tmp_path / "out", server=nowhere)


def test_the_plan_keys_that_a_server_generates_and_not_where_it_is():
    def evaluation(**server):
        scale = load_scale("check", {f"evaluate.server.{name}": value for name, value in server.items()})
        return Plan(scale).evaluation("base")

    here, one, other = evaluation(), evaluation(base_url="http://a/v1"), evaluation(base_url="http://b/v1")
    assert here.key != one.key == other.key
    assert one.places["server"].base_url == "http://a/v1"
    assert "server" not in here.places
    scale = load_scale("check", {"evaluate.server.base_url": "http://a/v1"})
    with pytest.raises(UserError, match="a server has one model, but this plan scores many"):
        Plan(scale).main()
