"""Chat templates: what a model is trained on is what a server prompts it with.

Saved with the tokenizer as Jinja, so that any server renders the same text. Both begin with the BOS token and
end an answer with the EOS token: tokenise the rendered text with `add_special_tokens=False`.
"""

from typing import TYPE_CHECKING

from solar_repro.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SOLAR = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% if message['content'] %}{{ '### System:\n' + message['content'] + '\n\n' }}{% endif %}"
    "{% elif message['role'] == 'user' %}{{ '### User:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '### Assistant:\n' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
"""The form of the released SOLAR-10.7B-Instruct."""

ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
ALPACA = (
    "{{ bos_token }}"
    "{% if messages and messages[0]['role'] == 'system' and messages[0]['content'] %}"
    "{{ messages[0]['content'] + '\n\n' }}"
    "{% else %}{{ '" + ALPACA_PREAMBLE + "\n\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '### Response:\n' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
"""The literal Alpaca prompt (Taori et al. 2023) as the `text` column of Alpaca-GPT4 writes it, with a newline
after "### Response:". A system turn stands in place of the preamble. An instruction's input follows it after
an empty line."""

TEMPLATES = {"solar": SOLAR, "alpaca": ALPACA}


def set_chat_template(tokenizer: "PreTrainedTokenizerBase", name: str = "solar") -> None:
    """Give a tokenizer the template `solar` or `alpaca`, and a token to pad with.

    Llama and Mistral have no pad token. The unknown token is taken where there is one: with byte fallback no
    text ever holds it, so padding cannot be mistaken for the end of an answer, which EOS as padding can; and
    no row is added to the embeddings. Without one, EOS. A tokenizer without BOS or EOS: UserError.
    """
    if name not in TEMPLATES:
        raise UserError(f"chat template {name!r} does not exist; give one of {', '.join(TEMPLATES)}")
    for token in ("bos_token", "eos_token"):
        if getattr(tokenizer, token) is None:
            raise UserError(
                f"tokenizer {tokenizer.name_or_path}: has no {token}; set it in tokenizer_config.json"
            )
    tokenizer.chat_template = TEMPLATES[name]
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
