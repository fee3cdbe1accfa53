"""A model for speed measurements: random weights, and a tokenizer that knows the mirror's texts."""

from collections.abc import Iterator
from pathlib import Path


def build_random_llama(mirror: Path, folder: Path, *, vocabulary: int = 8192) -> Path:
    """A random Llama (d = 320, 8 layers, context 4,096: 15M parameters) and a BPE of the mirror's texts."""
    import pyarrow.parquet as pq
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    def texts() -> Iterator[str]:
        for path in sorted(mirror.rglob("train-*.parquet")):
            table = pq.read_table(path).slice(0, 5000)
            for name, kind in zip(table.schema.names, table.schema.types, strict=True):
                if str(kind) in ("string", "large_string"):
                    yield from (text for text in table[name].to_pylist() if text)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=8,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.05,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
