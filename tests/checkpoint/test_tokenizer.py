"""What any tokenizer is asked for."""

from solar_repro.checkpoint.tokenizer import first_token_id, tokenizer_digest
from solar_repro.data.templates import set_chat_template


def test_digest_changes_with_the_vocabulary_and_with_the_template(llama_tokenizer):
    plain, bare = tokenizer_digest(llama_tokenizer), tokenizer_digest(llama_tokenizer, chat_template=False)
    set_chat_template(llama_tokenizer)
    assert tokenizer_digest(llama_tokenizer) != plain
    llama_tokenizer.add_tokens(["new"])
    assert tokenizer_digest(llama_tokenizer, chat_template=False) != bare


def test_tokenizers_that_differ_in_their_template_alone_encode_texts_alike(llama_tokenizer):
    set_chat_template(llama_tokenizer)
    solar = tokenizer_digest(llama_tokenizer, chat_template=False)
    set_chat_template(llama_tokenizer, "alpaca")
    assert tokenizer_digest(llama_tokenizer, chat_template=False) == solar


def test_a_tokenizer_without_bos_begins_with_eos(llama_tokenizer):
    assert first_token_id(llama_tokenizer) == llama_tokenizer.bos_token_id
    llama_tokenizer.bos_token = None
    assert first_token_id(llama_tokenizer) == llama_tokenizer.eos_token_id
