"""Configs, tokenizers and templates that are malformed, huge or without end: one line, soon."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from solar_repro.checkpoint import load as loading
from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.load import pretrained_model, pretrained_tokenizer
from solar_repro.errors import UserError
from solar_repro.safety import sandbox
from solar_repro.safety.config_bounds import refuse_absurd_config
from solar_repro.store.model_files import CARRIED_FILES

fuzz = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def model(saved: Callable[..., Path], tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "model"))
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def change(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | changes))


def one_line(load: Callable[[], Any], *said: str) -> None:
    with pytest.raises(UserError) as refused:
        load()
    message = str(refused.value)
    assert all(part in message for part in said), message
    assert "\n" not in message
    assert len(message) < 700


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", -1),
        ("vocab_size", 10**12),
        ("hidden_size", 1e300),
        ("num_attention_heads", -4),
        ("num_local_experts", 10**7),
        ("eos_token_id", "x" * 10_000),
        ("text_config", {"num_hidden_layers": 10**9}),
        ("attention_types", [[["global", "local"], 10**12]]),
        ("attention_types", [[[], 10**12]]),
    ],
)
def test_a_number_that_no_model_has_is_refused_before_anything_is_built(
    model: Path, key: str, value: Any
) -> None:
    change(model / "config.json", **{key: value})
    for load in (pretrained_model, pretrained_tokenizer, open_checkpoint):
        one_line(lambda load=load: load(model), "config.json: ", "correct the file")


@pytest.mark.parametrize(("key", "value"), [("num_beams", 10**9), ("eos_token_id", "x")])
def test_an_absurd_generation_config_is_refused(model: Path, key: str, value: Any) -> None:
    change(model / "generation_config.json", **{key: value})
    one_line(lambda: pretrained_model(model), "generation_config.json: ", key)


MALFORMED = ["{", "[]", "3", "\0", '{"a": 1, "a": 2}', '{"a": ' + "9" * 5000 + "}"]
MALFORMED += ['{"a":' + "[" * 100_000 + "]" * 100_000 + "}"]


@pytest.mark.parametrize("name", [name for name in loading._SMALL_FILES if name.endswith(".json")])
@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_file_is_named(model: Path, name: str, content: str) -> None:
    (model / name).write_text(content)
    one_line(lambda: pretrained_tokenizer(model), f"{name}: not a valid JSON object")


@pytest.mark.parametrize("name", ["config.json", *CARRIED_FILES])
def test_a_huge_file_is_not_read(model: Path, name: str) -> None:
    with (model / name).open("wb") as file:
        file.truncate(1 << 40)
    one_line(lambda: pretrained_tokenizer(model), f"{name}: larger than")


def test_a_tokenizer_that_never_ends_is_given_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these normalizers makes ten of every a."""
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 2)
    ten = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    change(model / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [ten] * 12})
    one_line(
        lambda: pretrained_tokenizer(model), "tokenizer.json: it takes more than", "tried on short texts"
    )


def test_a_tokenizer_that_aborts_is_refused(model: Path) -> None:
    """Its regular expression tries all ways to cut a run of one letter."""
    split = {"type": "Split", "pattern": {"Regex": "^(a+)+$"}, "behavior": "Isolated", "invert": False}
    change(model / "tokenizer.json", pre_tokenizer=split)
    one_line(lambda: pretrained_tokenizer(model), "tokenizer.json: ", "PanicException")


def test_a_sound_tokenizer_is_tried_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretrained_tokenizer(model)("a")["input_ids"] == [3]
    monkeypatch.setattr(sandbox, "_run", lambda *_: pytest.fail("tried again"))
    assert pretrained_tokenizer(model)("a a")["input_ids"] == [3, 3]


def rendered(template: str, *prompts: str) -> list[str]:
    conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return sandbox.render_chat_template(template, {"bos_token": "<s>"}, conversations, "model m")


def test_templates_are_rendered_as_transformers_does(model: Path) -> None:
    tokenizer = pretrained_tokenizer(model)
    template = "{{ bos_token }}{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    tokenizer.chat_template = template + "{% if add_generation_prompt %}:{% endif %}"
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": " é\n"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered(tokenizer.chat_template, " é\n", "b") == [expected, "<s>[b]:"]


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LOOP, "it takes more than"),
        (f"{{% if messages[0].content == 'second' %}}{LOOP}{{% endif %}}", "it takes more than"),
        ("{{ 'a' * 10 ** 11 }}", "memory"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{{ raise_exception('no\nturns') }}", "no turns"),
    ],
)
@pytest.mark.slow
def test_a_template_without_end_is_one_line(
    template: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 12)
    one_line(lambda: rendered(template, "first", "second"), "model m: its chat template", said)


json_values = st.recursive(
    st.integers() | st.floats() | st.text(max_size=3) | st.none() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["num_hidden_layers", "vocab_size", "eos_token_id", "text_config", "x"]), inner
        )
    ),
    max_leaves=12,
)


@fuzz
@given(json_values)
def test_any_json_passes_or_is_refused_in_a_line(value: Any) -> None:
    try:
        refuse_absurd_config(Path("config.json"), value)
    except UserError as refused:
        assert "\n" not in str(refused)  # noqa: PT017
        assert len(str(refused)) < 300  # noqa: PT017


def test_the_models_of_today_pass() -> None:
    """Sizes of the largest ones that are published, and values that mean nothing."""
    config = {"num_hidden_layers": 126, "hidden_size": 16_384, "vocab_size": 262_144, "n_routed_experts": 384}
    config |= {
        "num_key_value_heads": None,
        "eos_token_id": [1, 106],
        "pad_token_id": -1,
        "model_max_length": 1e30,
    }
    config |= {
        "num_nextn_predict_layers": 0,
        "model_max_length": 1e30,
        "text_config": {"num_experts": 512, "head_dim": 256},
    }
    refuse_absurd_config(Path("config.json"), config)
