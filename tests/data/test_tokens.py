import copy

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from solar_repro.data import tokens
from solar_repro.data.locate import locate
from solar_repro.data.sources import Rows, load_instruction, load_preferences
from solar_repro.data.templates import set_chat_template
from solar_repro.data.tokens import tokenise_instruction, tokenise_preferences
from solar_repro.errors import UserError


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def as_rows(rows: list[dict], key: str = "k") -> Rows:
    numbered = [{"row_id": f"r{number}"} | row for number, row in enumerate(rows)]
    return Rows(Dataset.from_list(numbered), key, {"set": "test"})


def questions(*pairs: tuple[str, str]) -> Rows:
    rows = [{"messages": [turn("user", question), turn("assistant", answer)]} for question, answer in pairs]
    return as_rows(rows, key=repr(pairs))


def preferences(*triples: tuple[str, str, str]) -> Rows:
    rows = [
        {"prompt": [turn("user", q)], "chosen": [turn("assistant", c)], "rejected": [turn("assistant", r)]}
        for q, c, r in triples
    ]
    return as_rows(rows, key=repr(triples))


@pytest.fixture
def tokenizer(llama_tokenizer):
    set_chat_template(llama_tokenizer)
    return llama_tokenizer


def served(tokenizer, turns) -> list[int]:
    """Tokens that a server gives the model for a prompt."""
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)


def test_prompt_is_what_a_server_sends_and_the_loss_is_on_the_answer(tokenizer, cache):
    rows = questions(("the sea?", "blue"), ("é ☃", "☃ first"), ("x", " leading space"), ("y", "\nline"))
    tokenised, report = tokenise_instruction(rows, tokenizer, 200, cache_dir=cache)
    for row, source in zip(tokenised, rows.dataset, strict=True):
        prompt = served(tokenizer, source["messages"][:1])
        whole = tokenizer.apply_chat_template(source["messages"], return_dict=False)
        assert row["input_ids"] == whole
        assert whole[: len(prompt)] == prompt
        assert row["completion_mask"] == [0] * len(prompt) + [1] * (len(whole) - len(prompt))
        answer = tokenizer.decode(whole[len(prompt) :])
        assert answer.removeprefix(" ") == (source["messages"][1]["content"] + "</s>").removeprefix(" ")
    assert report["merged_boundaries"] == 0
    assert report["tokens"] == sum(map(len, tokenised["input_ids"]))
    assert report["answer_tokens"] == sum(map(sum, tokenised["completion_mask"]))


def test_left_of_a_long_prompt_is_cut_and_bos_stays(tokenizer, cache):
    rows = questions(("word " * 50, "the answer"))
    whole = tokenise_instruction(rows, tokenizer, 1000, cache_dir=cache)[0][0]
    cut, report = tokenise_instruction(rows, tokenizer, 60, cache_dir=cache)
    assert cut[0]["input_ids"] == [tokenizer.bos_token_id, *whole["input_ids"][-59:]]
    assert cut[0]["completion_mask"] == whole["completion_mask"][-60:]
    assert (report["prompts_truncated"], report["dropped"], report["longest"]) == (1, {}, 60)


def test_answer_without_room_is_dropped_and_counted(tokenizer, cache):
    rows = questions(("word " * 50, "z" * 100), ("q", "fits"))
    kept, report = tokenise_instruction(rows, tokenizer, 60, cache_dir=cache)
    assert (len(kept), report["dropped"]) == (1, {"answer longer than its room": 1})
    assert report["examples"] == {"answer longer than its room": ["r0"]}


def test_no_row_that_fits(tokenizer, cache):
    with pytest.raises(UserError, match=r"no row fits into max_length 20 .*raise max_length"):
        tokenise_instruction(questions(("q", "z" * 100)), tokenizer, 20, cache_dir=cache)


def test_one_token_for_bos_and_eos(tokenizer, cache):
    """As in SmolLM2 and GPT-2."""
    tokenizer.bos_token = "</s>"
    rows = questions(("q", "a"), ("x", "spelt </s> out"), ("y", "b"))
    kept, report = tokenise_instruction(rows, tokenizer, 200, cache_dir=cache)
    assert (len(kept), report["dropped"]) == (2, {"BOS or EOS written out in its text": 1})
    assert [row["input_ids"].count(tokenizer.eos_token_id) for row in kept] == [2, 2]
    kept, report = tokenise_preferences(
        preferences(("q", "a", "b"), ("q", "</s>", "b")), tokenizer, 200, cache_dir=cache
    )
    assert (len(kept), report["dropped"]) == (1, {"BOS or EOS written out in its text": 1})
    assert kept[0]["prompt_ids"][0] == kept[0]["chosen_ids"][-1] == tokenizer.eos_token_id


def test_advice_where_no_row_is_left_is_one_that_helps(tokenizer, cache):
    with pytest.raises(
        UserError, match=r"no row can be used \(dropped: .*written out.*\); correct its rows"
    ) as error:
        tokenise_instruction(questions(("q", "</s>")), tokenizer, 200, cache_dir=cache)
    assert "max_length" not in str(error.value)


@pytest.mark.parametrize("text", ["a </s> b", "see <s>this</s>", "<s>"])
def test_special_tokens_in_a_text_do_not_end_or_begin_it(tokenizer, cache, text):
    rows = questions((text, "x"), ("x", text), ("q", "a"))
    kept, report = tokenise_instruction(rows, tokenizer, 200, cache_dir=cache)
    assert (len(kept), report["dropped"]) == (1, {"BOS or EOS written out in its text": 2})


def test_token_over_the_border_of_prompt_and_answer(merging_tokenizer, cache):
    set_chat_template(merging_tokenizer)
    rows = questions(("q", "A"), ("q", "B"))
    kept, report = tokenise_instruction(rows, merging_tokenizer, 200, cache_dir=cache)
    for row, answer in zip(kept, "AB", strict=True):
        prompt = served(merging_tokenizer, [turn("user", "q")])
        assert row["input_ids"][: len(prompt)] == prompt
        assert merging_tokenizer.decode(row["input_ids"][len(prompt) :]) == f"{answer}</s>"
        assert row["completion_mask"] == [0] * len(prompt) + [1, 1]
    assert report["merged_boundaries"] == 1


def test_preferences(tokenizer, cache):
    rows = preferences(("the q", "good", "bad one"))
    kept, report = tokenise_preferences(rows, tokenizer, 200, cache_dir=cache)
    row = kept[0]
    assert row["prompt_ids"] == served(tokenizer, [turn("user", "the q")])
    for name, text in (("chosen_ids", "good"), ("rejected_ids", "bad one")):
        turns = [turn("user", "the q"), turn("assistant", text)]
        whole = tokenizer.apply_chat_template(turns, return_dict=False)
        assert row["prompt_ids"] + row[name] == whole
    # The prompt stands before each answer.
    assert report["tokens"] == len(row["prompt_ids"]) + sum(map(len, row.values()))


def test_preference_prompt_is_cut_for_the_longer_answer(tokenizer, cache):
    rows = preferences(("word " * 50, "z" * 20, "y"), ("q", "z" * 100, "y"))
    kept, report = tokenise_preferences(rows, tokenizer, 60, cache_dir=cache)
    whole = tokenise_preferences(rows, tokenizer, 1000, cache_dir=cache)[0][0]
    room = 60 - len(whole["chosen_ids"])
    assert kept[0]["prompt_ids"] == [tokenizer.bos_token_id, *whole["prompt_ids"][1 - room :]]
    assert (kept[0]["chosen_ids"], kept[0]["rejected_ids"]) == (whole["chosen_ids"], whole["rejected_ids"])
    assert (report["dropped"], report["prompts_truncated"]) == ({"answer longer than its room": 1}, 1)


def test_trl_tokenises_preferences_the_same(tokenizer, tiny_llama, cache, tmp_path):
    from trl import DPOConfig, DPOTrainer

    rows = preferences(("the q", "good", "bad one"), ("é", "☃", "the"))
    ours, _ = tokenise_preferences(rows, tokenizer, 200, cache_dir=cache)
    options = DPOConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, max_length=200)
    columns = rows.dataset.remove_columns("row_id")
    theirs = DPOTrainer(
        tiny_llama, copy.deepcopy(tiny_llama), args=options, train_dataset=columns, processing_class=tokenizer
    )
    for name in ours.column_names:
        assert ours[name][:] == theirs.train_dataset[name][:]


def test_cached_by_content_tokenizer_and_settings(tokenizer, cache):
    rows = questions(("q", "a"))
    first, report = tokenise_instruction(rows, tokenizer, 100, cache_dir=cache)
    files = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    again, same_report = tokenise_instruction(rows, tokenizer, 100, cache_dir=cache)
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == files
    assert (again.to_list(), same_report) == (first.to_list(), report)
    tokenise_instruction(rows, tokenizer, 101, cache_dir=cache)
    set_chat_template(tokenizer, "alpaca")
    other, _ = tokenise_instruction(rows, tokenizer, 200, cache_dir=cache)
    assert len(list(cache.iterdir())) == 6
    assert other.to_list() != first.to_list()


@pytest.mark.parametrize(
    ("rows", "tokenise"),
    [
        (questions(*[(f"q{n}", "word " * (n % 30)) for n in range(50)]), tokenise_instruction),
        (preferences(*[(f"q{n}", "word " * (n % 30), "b") for n in range(50)]), tokenise_preferences),
    ],
)
def test_processes_change_nothing(tokenizer, cache, monkeypatch, rows, tokenise):
    monkeypatch.setattr(tokens, "BATCH_ROWS", 8)
    one, report = tokenise(rows, tokenizer, 60, cache_dir=cache / "one")
    two, same_report = tokenise(rows, tokenizer, 60, num_proc=2, cache_dir=cache / "two")
    assert two.to_list() == one.to_list()
    assert same_report == report
    assert report["rows_in"] == 50
    assert report["kept"] == len(one) < 50
    (named,) = report["examples"].values()
    assert len(named) == 5


def test_template_that_does_not_fit(tokenizer, cache):
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        tokenise_instruction(questions(("q", "a")), tokenizer, 100, cache_dir=cache)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(UserError, match="does not render BOS, prompt, answer, EOS"):
        tokenise_instruction(questions(("q", "a")), tokenizer, 100, cache_dir=cache)


def test_real_rows_with_a_real_tokenizer(shared, cache):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260K")
    set_chat_template(tokenizer)
    mirror = shared / "hub"
    flan = locate("Open-Orca/OpenOrca", mirror, "google-research/flan-cot")
    rows = load_instruction("openorca", flan, max_samples=300, cache_dir=cache)
    tokenised, report = tokenise_instruction(rows, tokenizer, 512, cache_dir=cache)
    assert report["merged_boundaries"] == 0
    assert len(tokenised) + sum(report["dropped"].values()) == 300
    for row in tokenised:
        ids, mask = row["input_ids"], row["completion_mask"]
        assert (ids.count(1), ids.count(2), ids[0], ids[-1]) == (1, 1, 1, 2)
        assert mask == sorted(mask)
        assert len(ids) <= 512
    feedback = locate("allenai/ultrafeedback_binarized_cleaned", mirror)
    pairs = load_preferences("ultrafeedback", feedback, max_samples=50, cache_dir=cache)
    tokenised, report = tokenise_preferences(pairs, tokenizer, 4096, cache_dir=cache)
    dropped = {row_id for row_ids in report["examples"].values() for row_id in row_ids}
    sources = [row for row in pairs.dataset if row["row_id"] not in dropped]
    for row, source in zip(tokenised, sources, strict=True):
        prompt = served(tokenizer, source["prompt"])
        assert row["prompt_ids"] == prompt[:1] + prompt[len(prompt) - len(row["prompt_ids"]) + 1 :]
