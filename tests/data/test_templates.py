"""Golden strings: what a released model was prompted with is not to change by a space."""

import pytest
from transformers import AutoTokenizer

from solar_repro.data.templates import set_chat_template
from solar_repro.errors import UserError

TURNS = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture
def tokenizer(llama_tokenizer, tmp_path):
    llama_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def render(tokenizer, turns, prompt=False):
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)


def test_released_form(tokenizer):
    set_chat_template(tokenizer)
    assert render(tokenizer, TURNS) == "<s>### User:\nWhat is 1 + 1?\n\n### Assistant:\n2</s>"
    assert render(tokenizer, TURNS[:1], prompt=True) == "<s>### User:\nWhat is 1 + 1?\n\n### Assistant:\n"
    assert render(tokenizer, [SYSTEM, *TURNS]) == (
        "<s>### System:\nBe brief.\n\n### User:\nWhat is 1 + 1?\n\n### Assistant:\n2</s>"
    )


def test_literal_alpaca(tokenizer):
    set_chat_template(tokenizer, "alpaca")
    preamble = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request."
    )
    body = "\n\n### Instruction:\nWhat is 1 + 1?\n\n### Response:\n"
    assert render(tokenizer, TURNS) == f"<s>{preamble}{body}2</s>"
    assert render(tokenizer, TURNS[:1], prompt=True) == f"<s>{preamble}{body}"
    assert render(tokenizer, [SYSTEM, *TURNS]) == f"<s>Be brief.{body}2</s>"


@pytest.mark.parametrize("name", ["solar", "alpaca"])
def test_zephyrs_empty_system_turn_renders_nothing(tokenizer, name):
    set_chat_template(tokenizer, name)
    empty = {"role": "system", "content": ""}
    assert render(tokenizer, [empty, *TURNS]) == render(tokenizer, TURNS)


@pytest.mark.parametrize("name", ["solar", "alpaca"])
def test_prompt_is_the_beginning_of_the_training_text(tokenizer, name):
    set_chat_template(tokenizer, name)
    for turns in (TURNS, [SYSTEM, *TURNS], [*TURNS, *TURNS]):
        prompt = render(tokenizer, turns[:-1], prompt=True)
        assert render(tokenizer, turns) == f"{prompt}2</s>"


def test_saved_with_the_tokenizer(tokenizer, tmp_path):
    set_chat_template(tokenizer)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert render(again, TURNS, prompt=True) == render(tokenizer, TURNS, prompt=True)
    assert again.pad_token == tokenizer.pad_token == "<unk>"


def test_padding_is_never_the_end_of_an_answer(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    set_chat_template(tokenizer)
    assert tokenizer.pad_token == "<unk>"
    tokenizer.pad_token = "the"
    set_chat_template(tokenizer)
    assert tokenizer.pad_token == "the"


def test_eos_pads_where_there_is_nothing_else(tokenizer):
    tokenizer.unk_token = None
    set_chat_template(tokenizer)
    assert tokenizer.pad_token == "</s>"


def test_unknown_template(tokenizer):
    with pytest.raises(UserError, match="'chatml' does not exist; give one of solar, alpaca"):
        set_chat_template(tokenizer, "chatml")


def test_tokenizer_without_bos(tokenizer):
    tokenizer.bos_token = None
    with pytest.raises(UserError, match="no bos_token"):
        set_chat_template(tokenizer)
