"""What the trainers are fed, decoded: one BOS, one EOS, and a loss on the answers alone."""

import pytest

from solar_repro.checkpoint.tokenizer import tokenizer_digest
from solar_repro.contract import TuningInputs, TuningSet
from solar_repro.data.cache import cache_key
from solar_repro.data.packing import PackedCollator, pack_instruction
from solar_repro.data.tokens import tokenise_instruction, tokenise_preferences
from solar_repro.paper.data_sets import DATASETS
from solar_repro.training.tuning_data import instruction_rows, preference_rows


@pytest.fixture(scope="module")
def tokenizer(finished):
    """The tokenizer that a tuned checkpoint was saved with."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(finished.folder("sft_v3"))


def chosen(name, rows):
    return TuningSet(name=name, id=DATASETS[name].hub_id, maximum_samples=rows)


def inputs(finished):
    return TuningInputs(model=finished.folder("solar"), mirror=finished.folder("microworld"))


def test_sft_batch(finished, tokenizer):
    from torch import tensor_split

    rows = instruction_rows(chosen("alpaca_gpt4", 40), 1, inputs(finished))
    tokenised, _ = tokenise_instruction(rows, tokenizer, 256)
    key = cache_key(rows=rows.key, tokenizer=tokenizer_digest(tokenizer))
    blocks, _ = pack_instruction(tokenised, 256, key)
    batch = PackedCollator(tokenizer.pad_token_id)(list(blocks.select(range(4))))
    expected = {
        tokenizer.apply_chat_template(row["messages"], tokenize=False): row["messages"][-1]["content"]
        for row in rows.dataset
    }
    seen = 0
    columns = (batch["input_ids"], batch["labels"], batch["position_ids"])
    for ids, labels, positions in zip(*columns, strict=True):
        starts = (positions == 0).nonzero().flatten().tolist()[1:]
        for document, label in zip(tensor_split(ids, starts), tensor_split(labels, starts), strict=True):
            if (label == -100).all():
                continue  # padding
            text = tokenizer.decode(document)
            assert text.count(tokenizer.bos_token) == text.count(tokenizer.eos_token) == 1
            assert text.startswith(tokenizer.bos_token + "### ")
            assert text.endswith(tokenizer.eos_token)
            assert tokenizer.decode(label[label != -100]) == expected[text] + tokenizer.eos_token
            seen += 1
    assert seen > 4


def test_dpo_batch(finished, tokenizer):
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    rows = preference_rows(chosen("ultrafeedback", 8), 1, inputs(finished))
    pairs, _ = tokenise_preferences(rows, tokenizer, 256)
    batch = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)(list(pairs))
    # TRL lays the chosen answers in the first half of the batch, the rejected ones in the second.
    sides = [(row, side) for side in ("chosen", "rejected") for row in rows.dataset]
    for (row, side), ids, attention, completion in zip(
        sides, batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
    ):
        text = tokenizer.decode(ids[attention == 1])
        assert text == tokenizer.apply_chat_template([*row["prompt"], *row[side]], tokenize=False)
        assert text.count(tokenizer.bos_token) == text.count(tokenizer.eos_token) == 1
        answer = row[side][0]["content"] + tokenizer.eos_token
        assert tokenizer.decode(ids[completion == 1]) == answer


def test_math_pairs_prefer_the_rephrased_answer(finished):
    folder = finished.folder("synth_math")
    pairs = TuningSet(name="synth_math_alignment", id="synth_math", maximum_samples=100)
    rows = preference_rows(pairs, 1, TuningInputs(model=folder, synth_math=folder))
    assert len(rows.dataset) > 0
    for row in rows.dataset:
        assert row["chosen"][0]["content"] != row["rejected"][0]["content"]
