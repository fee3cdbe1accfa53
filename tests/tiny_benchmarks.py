"""A mirror with six tiny benchmarks in hub layout, a tokenizer and random models: no real data needed."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SUBJECTS = ("anatomy", "virology", "world_religions")
WORDS = (
    "sun",
    "moon",
    "river",
    "stone",
    "apple",
    "bread",
    "green",
    "cold",
    "seven",
    "walk",
    "sleep",
    "house",
)


def sentence(generator: random.Random, words: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(words))


def _arc(generator: random.Random, number: int) -> dict:
    texts = [sentence(generator, generator.randint(1, 5)) for _ in range(4)]
    return {
        "id": str(number),
        "question": sentence(generator, 6) + "?",
        "choices": {"text": texts, "label": list("ABCD")},
        "answerKey": generator.choice("ABCD"),
    }


def _hellaswag(generator: random.Random, number: int) -> dict:
    return {
        "ind": number,
        "activity_label": sentence(generator, 1),
        "ctx_a": sentence(generator, 6) + ".",
        "ctx_b": sentence(generator, 2),
        "ctx": sentence(generator, 8),
        "endings": [sentence(generator, generator.randint(2, 8)) + "." for _ in range(4)],
        "label": str(generator.randrange(4)),
    }


def _mmlu(generator: random.Random, number: int) -> dict:
    return {
        "question": sentence(generator, 8) + "?",
        "choices": [sentence(generator, 2) for _ in range(4)],
        "answer": generator.randrange(4),
    }


def _truthfulqa(generator: random.Random, number: int) -> dict:
    def targets(right: int, wrong: int) -> dict:
        texts = [sentence(generator, generator.randint(2, 6)) + "." for _ in range(right + wrong)]
        return {"choices": texts, "labels": [1] * right + [0] * wrong}

    return {
        "question": sentence(generator, 7) + "?",
        "mc1_targets": targets(1, 3),
        "mc2_targets": targets(2, 3),
    }


def _winogrande(generator: random.Random, number: int) -> dict:
    text = f"{sentence(generator, 4)} _ {sentence(generator, 3)}."
    return {"sentence": text, "option1": "sun", "option2": "moon", "answer": generator.choice("12")}


def _gsm8k(generator: random.Random, number: int) -> dict:
    a, b = generator.randint(1, 9), generator.randint(1, 9)
    answer = f"{sentence(generator, 3)} {a} + {b} = {a + b}\n#### {a + b}"
    return {"question": f"{sentence(generator, 5)} {a} {b}?", "answer": answer}


def write_benchmark(
    folder: Path, make: Callable, configs: dict[str, dict[str, int]], generator: random.Random
) -> None:
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            name = f"{config}/{split}-00000-of-00001.parquet"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist([make(generator, row) for row in range(rows)]), path)
            lines += [f"  - split: {split}", f"    path: {name}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six benchmarks of random words: 30 train rows, 6 to 8 scored ones, three MMLU subjects."""
    root = tmp_path_factory.mktemp("mirror")
    generator = random.Random(0)
    write_benchmark(
        root / "allenai/ai2_arc",
        _arc,
        {"ARC-Challenge": {"train": 30, "validation": 3, "test": 8}},
        generator,
    )
    write_benchmark(
        root / "Rowan/hellaswag", _hellaswag, {"default": {"train": 30, "validation": 8}}, generator
    )
    write_benchmark(
        root / "cais/mmlu",
        _mmlu,
        {subject: {"test": 6 + place, "validation": 2, "dev": 5} for place, subject in enumerate(SUBJECTS)},
        generator,
    )
    write_benchmark(
        root / "truthfulqa/truthful_qa", _truthfulqa, {"multiple_choice": {"validation": 7}}, generator
    )
    write_benchmark(
        root / "allenai/winogrande", _winogrande, {"winogrande_xl": {"train": 30, "validation": 8}}, generator
    )
    write_benchmark(root / "openai/gsm8k", _gsm8k, {"main": {"train": 30, "test": 6}}, generator)
    return root


def make_tokenizer(folder: Path, *, bos: bool = True) -> None:
    """A byte-level BPE of about 400 tokens; with `bos`, every text begins with `<s>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    generator = random.Random(1)
    corpus = [f"Question: {sentence(generator, 9)}\nAnswer: {sentence(generator, 4)}" for _ in range(300)]
    tokenizer.train_from_iterator(corpus, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}
    if bos:
        settings["bos_token"] = "<s>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def make_model(
    folder: Path, *, family: str = "llama", context: int = 2048, bos: bool = True, seed: int = 0
) -> Path:
    """A random two-layer model of a family, with weights large enough that its choices differ clearly."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder, bos=bos)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if family in ("llama", "mistral", "qwen2", "qwen3"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    if family == "mistral":
        sizes |= {"sliding_window": None}
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": context}
    else:
        sizes |= {"max_position_embeddings": context}
    config = AutoConfig.for_model(
        family, vocab_size=400, bos_token_id=1, eos_token_id=2, initializer_range=0.1, **sizes
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with context 2048."""
    return make_model(tmp_path_factory.mktemp("models") / "llama")
