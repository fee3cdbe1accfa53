"""A real model of context 512 on real benchmarks, most prompts truncated: the stock adapter's answers."""

import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.contamination.neighbour_test import neighbour_test
from solar_repro.contamination.texts import contamination_texts
from solar_repro.h6.adapter import SharedPrefixLM
from solar_repro.h6.tasks import build_tasks


@pytest.fixture(scope="module")
def tasks(shared):
    limits = {"ARC": 2, "HellaSwag": 2, "MMLU": 2, "TruthfulQA": 2, "Winogrande": 3, "GSM8K": 2}
    return build_tasks(shared / "hub", limits=limits, subjects=["anatomy", "high_school_us_history"])


@pytest.fixture(scope="module")
def adapters(shared):
    model, tokenizer = load_for_scoring(shared / "models/stories260K")
    ours = SharedPrefixLM(model, tokenizer, batch_tokens=2048)
    return ours, HFLM(
        pretrained=load_for_scoring(shared / "models/stories260K")[0], tokenizer=tokenizer, batch_size=4
    )


@pytest.mark.parametrize("column", ["ARC", "HellaSwag", "MMLU", "TruthfulQA", "Winogrande"])
def test_log_likelihoods(adapters, tasks, column):
    ours, stock = adapters
    requests = [request for own in tasks.of(column) for group in own.instances for request in group]
    found, expected = ours.loglikelihood(requests), stock.loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([v for v, _ in found], [v for v, _ in expected], rtol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    truncated = [ours.exceeds(request) for request in requests]
    assert all(truncated) if column in ("ARC", "HellaSwag", "MMLU") else not any(truncated)


def test_generated_texts(adapters, tasks):
    ours, stock = adapters
    requests = [request for own in tasks.of("GSM8K") for group in own.instances for request in group]
    assert ours.generate_until(requests) == stock.generate_until(requests, disable_tqdm=True)


def test_a_model_of_children_stories_has_not_seen_gsm8k(shared):
    texts = contamination_texts("GSM8K", shared / "hub")
    model = load_for_scoring(shared / "models/stories260K")
    settings = {"examples": 3, "neighbours": 10, "batch_tokens": 8192}
    assert neighbour_test(model, model, texts, **settings).share == 0
