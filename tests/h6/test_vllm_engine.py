"""The wiring to vLLM: which class is built, with what, for which tasks. vLLM itself needs a GPU."""

import importlib.metadata
import sys
import types

import pytest
from lm_eval.models.huggingface import HFLM

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.errors import UserError
from solar_repro.h6 import vllm_engine
from solar_repro.h6.evaluation import evaluate_h6
from solar_repro.h6.tasks import build_tasks


@pytest.fixture(scope="module")
def tasks(mirror):
    return build_tasks(mirror, limits={"Winogrande": 2, "GSM8K": 3}, columns=["Winogrande", "GSM8K"])


@pytest.mark.skipif(vllm_engine.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_one_line_says_so_before_anything_is_loaded(tasks, tmp_path):
    with pytest.raises(UserError, match=r"backend vllm: .*not installed; .*evaluate\.backend"):
        evaluate_h6(tmp_path / "no model", tasks, tmp_path / "out", vllm=["GSM8K"])


def test_the_harnesss_adapter_answers_the_named_tasks_alone(tasks, model, tmp_path, monkeypatch):
    built, answered = [], []

    class Stand(HFLM):
        """In vLLM's place: the harness's other adapter, on the same weights."""

        def __init__(self, pretrained, **settings):
            built.append({"pretrained": pretrained, **settings})
            loaded, tokenizer = load_for_scoring(pretrained)
            super().__init__(loaded, tokenizer=tokenizer, max_length=settings["max_model_len"], batch_size=2)

        def generate_until(self, requests, disable_tqdm=False):
            answered.extend(request.task_name for request in requests)
            return super().generate_until(requests, disable_tqdm=True)

        def loglikelihood(self, requests, disable_tqdm=False):
            raise AssertionError("Winogrande is not vLLM's")

    module = types.SimpleNamespace(VLLM=Stand)
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", module)
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: object())
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9" if name == "vllm" else version(name))
    found = evaluate_h6(model, tasks, tmp_path / "vllm", max_length=900, vllm=["GSM8K"])
    assert built == [
        {
            "pretrained": str(model),
            "dtype": "float32",
            "max_model_len": 900,
            "batch_size": "auto",
            "load_format": "safetensors",
        }
    ]
    assert answered == ["gsm8k"] * 3
    assert found.settings["vllm"] == {"version": "9", "columns": ["GSM8K"]}
    plain = evaluate_h6(model, tasks, tmp_path / "plain", max_length=900)
    assert "vllm" not in plain.settings
    assert found.columns == plain.columns
    assert found.tasks == plain.tasks
