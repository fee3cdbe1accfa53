"""The fast adapter against the harness's own: same log-likelihoods, same argmax, same greedy text."""

import random
import shutil

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.errors import UserError
from solar_repro.h6.adapter import SharedPrefixLM
from solar_repro.shared_prefix.shared_forward import FULL_ATTENTION_FAMILIES
from tests.tiny_benchmarks import WORDS, make_model

RELATIVE = 1e-4


def _text(generator, words):
    return " ".join(generator.choice(WORDS) for _ in range(words))


def _choice_requests(seed=0, items=6):
    """Requests of every kind the benchmarks have: choices of an item, shared few-shots, one-token choices."""
    generator = random.Random(seed)
    shots = "\n\n".join(f"Question: {_text(generator, 9)}\nAnswer: {_text(generator, 3)}" for _ in range(4))
    pairs = []
    for _ in range(items):
        context = f"{shots}\n\nQuestion: {_text(generator, generator.randint(4, 30))}\nAnswer:"
        pairs += [(context, f" {_text(generator, generator.randint(1, 6))}") for _ in range(4)]
        pairs += [(context, f" {letter}") for letter in "ABCD"]
        own = _text(generator, 30)
        pairs += [(f"{own} {name}", " walks under the house.") for name in ("sun", "moon")]
        pairs += [(f"{own} ", "green"), ("", "stone light"), (own, f"\n{own}")]
    return [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]


def _adapters(folder, batch_tokens=512, **settings):
    model, tokenizer = load_for_scoring(folder)
    stock = HFLM(pretrained=load_for_scoring(folder)[0], tokenizer=tokenizer, batch_size=4, **settings)
    return SharedPrefixLM(model, tokenizer, batch_tokens=batch_tokens, **settings), stock


def _assert_same(ours, theirs):
    values, expected = (np.array([value for value, _ in answers]) for answers in (ours, theirs))
    np.testing.assert_allclose(values, expected, rtol=RELATIVE)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


@pytest.mark.parametrize("family", sorted(FULL_ATTENTION_FAMILIES))
@pytest.mark.parametrize("bos", [True, False])
def test_log_likelihoods_are_the_stock_adapters(tmp_path, family, bos):
    ours, stock = _adapters(make_model(tmp_path, family=family, bos=bos))
    requests = _choice_requests()
    assert ours.fast
    _assert_same(ours.loglikelihood(requests), stock.loglikelihood(requests, disable_tqdm=True))
    # What is computed lies near what must be, and far below what one request after another needs.
    assert ours.scorer.distinct_tokens < ours.tokens_computed < 2 * ours.scorer.distinct_tokens


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_an_eos_behind_every_text_is_left_out(tmp_path, family, bos, capsys):
    """Gemma2 takes the stock adapter's own code, which must not see it either."""
    folder = make_model(tmp_path / "plain", family=family, bos=bos)
    shutil.copytree(folder, tmp_path / "ends")
    file = tmp_path / "ends" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    template = "<s> $A </s>" if bos else "$A </s>"
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(file))
    requests = _choice_requests(items=2)
    plain, ends = (
        SharedPrefixLM(*load_for_scoring(tmp_path / name), batch_tokens=512) for name in ("plain", "ends")
    )
    assert ends.loglikelihood(requests) == plain.loglikelihood(requests)
    (pair,) = ends.encode_pairs([("sun moon", " river")])
    assert 2 not in np.concatenate(pair)
    assert ends.tokenizer("sun")["input_ids"] == plain.tokenizer("sun")["input_ids"]
    said = capsys.readouterr().err.splitlines()
    assert ["adds </s> after every text" in line for line in said if "tokenizer of" in line] == [True]


@pytest.mark.parametrize("max_length", [40, 60, 100])
def test_truncated_prompts_are_cut_as_the_harness_cuts_them(model, max_length):
    ours, stock = _adapters(model, max_length=max_length)
    requests = _choice_requests(items=4)
    _assert_same(ours.loglikelihood(requests), stock.loglikelihood(requests, disable_tqdm=True))
    encoded = [(stock._encode_pair(*request.args) if request.args[0] else ([1], [])) for request in requests]
    expected = [len(context) + len(continuation) > max_length + 1 for context, continuation in encoded]
    assert [ours.exceeds(request) for request in requests] == expected
    assert any(expected)


def test_batch_budget_does_not_move_the_scores(model):
    requests = _choice_requests()
    small, _ = _adapters(model, batch_tokens=64)
    large, _ = _adapters(model, batch_tokens=65536)
    _assert_same(small.loglikelihood(requests), large.loglikelihood(requests))


def test_other_families_take_the_stock_adapters_own_code(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    folder = make_model(tmp_path / "llama")
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4, seq_length=512)
    BloomForCausalLM(config).save_pretrained(folder)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    ours, stock = _adapters(folder)
    assert not ours.fast
    requests = _choice_requests(items=2)
    _assert_same(ours.loglikelihood(requests), stock.loglikelihood(requests, disable_tqdm=True))


def test_a_window_shorter_than_the_context_is_not_treated_as_full_attention(tmp_path):
    import json

    folder = make_model(tmp_path, family="mistral")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 32}))
    ours, stock = _adapters(folder)
    assert not ours.fast
    requests = _choice_requests(items=2)
    _assert_same(ours.loglikelihood(requests), stock.loglikelihood(requests, disable_tqdm=True))


def _generation_requests(until, max_gen_toks=24, count=9):
    generator = random.Random(3)
    settings = {"until": until, "do_sample": False, "temperature": 0.0, "max_gen_toks": max_gen_toks}
    texts = [f"Question: {_text(generator, generator.randint(2, 40))}\nAnswer:" for _ in range(count)]
    return [Instance("generate_until", {}, (text, dict(settings)), index) for index, text in enumerate(texts)]


@pytest.mark.parametrize("family", sorted(FULL_ATTENTION_FAMILIES))
def test_generated_text_is_the_stock_adapters(tmp_path, family):
    ours, stock = _adapters(make_model(tmp_path, family=family))
    free = _generation_requests(["never said"])
    expected = stock.generate_until(free, disable_tqdm=True)
    assert ours.generate_until(free) == expected
    # Stop at strings that do occur: pieces of what the model wrote, at different places per text.
    stops = [text[4:6] for text in expected[:2] if len(text) > 8] + ["e"]
    stopped = _generation_requests(stops)
    answers = ours.generate_until(stopped)
    assert answers == stock.generate_until(stopped, disable_tqdm=True)
    assert any(len(short) < len(long) for short, long in zip(answers, expected, strict=True))


def test_finished_rows_leave_the_batch(model):
    ours, _ = _adapters(model)
    whole = _generation_requests(["never said"])
    texts = ours.generate_until(whole)
    full = ours.decoded_tokens
    shorter = _generation_requests([text[1:3] for text in texts])
    ours.generate_until(shorter)
    assert ours.decoded_tokens - full < full


def test_generation_settings_of_the_checkpoint_are_honoured(tmp_path):
    import json

    folder = make_model(tmp_path)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 3.0}))
    ours, stock = _adapters(folder)
    requests = _generation_requests(["never said"], count=3)
    assert ours.generate_until(requests) == stock.generate_until(requests, disable_tqdm=True)


def test_a_context_too_short_to_generate_in_is_the_users_mistake(model):
    ours, _ = _adapters(model, max_length=20)
    with pytest.raises(UserError, match="context holds only 20"):
        ours.generate_until(_generation_requests(["x"], max_gen_toks=24, count=1))
