"""Chat templates: a model is trained on the very text that a server prompts it with.

A template is saved with the tokenizer as Jinja, so that any server renders the same text. Both templates
begin with BOS and end an answer with EOS: the rendered text is tokenised with `add_special_tokens=False`.
"""

from transformers import PreTrainedTokenizerBase

from solar_repro.checkpoint.tokenizer import set_pad_token
from solar_repro.errors import UserError

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
"""The template of the released SOLAR-10.7B-Instruct."""

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
after "### Response:". A system turn replaces the preamble. An instruction's input follows it after an empty
line."""

TEMPLATES = {"solar": SOLAR, "alpaca": ALPACA}


def set_chat_template(tokenizer: PreTrainedTokenizerBase, name: str = "solar") -> None:
    """Give a tokenizer the template `solar` or `alpaca`, and a token to pad with (`set_pad_token`).

    Raises UserError for another template, and for a tokenizer without BOS or EOS.
    """
    if name not in TEMPLATES:
        raise UserError(f"chat template {name!r} does not exist; give one of {', '.join(TEMPLATES)}")
    for token in ("bos_token", "eos_token"):
        if getattr(tokenizer, token) is None:
            raise UserError(
                f"tokenizer {tokenizer.name_or_path}: has no {token}; set it in tokenizer_config.json"
            )
    tokenizer.chat_template = TEMPLATES[name]
    set_pad_token(tokenizer)
