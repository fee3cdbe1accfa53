"""Small sets in hub layout, and tokenizers built here: a machine without the mirror tests the same."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

Write = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


@pytest.fixture
def write_set(mirror: Path) -> Write:
    """Write rows (a list, a pyarrow table, or a file's bytes) as a split of a set; returns its folder."""

    def write(
        hub_id: str, rows: Any, split: str = "train", suffix: str = "parquet", config: str = ""
    ) -> Path:
        folder = mirror / hub_id
        file = folder / config / f"{split}-00000-of-00001.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, bytes):
            file.write_bytes(rows)
        elif suffix == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), file)
        described = folder / ".configs.json"
        configs = json.loads(described.read_text()) if described.exists() else {}
        configs.setdefault(config or "default", {})[split] = str(file.relative_to(folder))
        described.write_text(json.dumps(configs))
        lines = ["---", "configs:"]
        for name, files in configs.items():
            lines += [f"- config_name: {name}", "  data_files:"]
            for known, path in files.items():
                lines += [f"  - split: {known}", f"    path: {path}"]
        (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
        return folder

    return write


def _special(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in ("<unk>", "<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Letters and bytes in the manner of Llama and Mistral: a leading "▁", byte fallback, no pad token."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(code) for code in range(33, 127)]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("#", "#"), ("##", "#"), ("▁", "###"), ("e", "r")]
    pieces += ["".join(pair) for pair in merges]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _special(tokenizer)


@pytest.fixture
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """One whose tokens reach over the newline between prompt and answer ("\\nA" is a token)."""
    pieces = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(10, 127)), "\nA"]
    model = models.BPE({p: n for n, p in enumerate(pieces)}, [("\n", "A")], unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("$^"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _special(tokenizer)


@pytest.fixture
def tiny_llama(untouched_llama) -> LlamaForCausalLM:
    """A model of the test's own, for some tests train it or change its attention."""
    return copy.deepcopy(untouched_llama)


@pytest.fixture(scope="session")
def untouched_llama() -> LlamaForCausalLM:
    set_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()
