"""Checkpoints that bring code: none of it runs, no question is asked, and one line says so."""

import ast
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from solar_repro.checkpoint.load import pretrained_model, pretrained_tokenizer
from solar_repro.errors import UserError
from tests.conftest import ROOT

CODE = "from pathlib import Path\nPath({!r}).write_text('ran')\n"


class Yes(io.StringIO):
    """A user who answers every question with y."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def readline(self, *_: object) -> str:
        self.asked += 1
        return "y\n"


@pytest.fixture
def hostile(saved: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint whose config and tokenizer name classes of a module that lies beside them."""
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "model"))
    code = CODE.format(str(tmp_path / "ran"))
    (folder / "evil.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    }
    config["model_type"] = "evil"
    config["architectures"] = ["Evil"]
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.parametrize("load", [pretrained_model, pretrained_tokenizer])
@pytest.mark.parametrize("closed", [False, True])
def test_code_of_a_checkpoint_is_refused_without_a_question(
    hostile: Path, load: Callable, closed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = Yes()
    if closed:
        answers.close()
    monkeypatch.setattr(sys, "stdin", answers)
    with pytest.raises(UserError, match=r"needs its own code to be run \(auto_map\)") as refused:
        load(hostile)
    assert "trust_remote_code" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert answers.asked == 0
    assert not (tmp_path / "ran").exists()


def test_a_known_architecture_is_loaded_without_the_code_beside_it(hostile: Path, tmp_path: Path) -> None:
    config = json.loads((hostile / "config.json").read_text()) | {"model_type": "llama"}
    (hostile / "config.json").write_text(json.dumps(config))
    assert pretrained_model(hostile).config.model_type == "llama"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_from_the_hub_is_refused(saved: Callable[..., Path], tmp_path: Path, key: str) -> None:
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | {key: "someone/attention"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="names code of the hub"):
        pretrained_model(folder)


def test_an_adapter_does_not_bring_another_model(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "model"))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/somewhere/else"}')
    with pytest.raises(UserError, match=r"adapter_config\.json: names another model"):
        pretrained_model(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 3}', '{"version": "1.0", "model": {}}', "\0"])
def test_a_malformed_tokenizer_is_one_line(saved: Callable[..., Path], tmp_path: Path, content: str) -> None:
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "model"))
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="cannot be loaded as a tokenizer") as refused:
        pretrained_tokenizer(folder)
    assert "\n" not in str(refused.value)


def test_nothing_else_calls_transformers_loaders() -> None:
    """`from_pretrained` and `from_config` of another module would ask, and run code on a `y`."""
    found = []
    for folder in ("solar_repro", "benchmarks", "entry_points"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                settings = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if node.func.attr == "from_pretrained" or settings.get("trust_remote_code") == "True":
                    found.append(file.relative_to(ROOT).as_posix())
    # `building` reads a config by transformers' own class of that kind, which no auto_map changes.
    assert set(found) == {"solar_repro/checkpoint/meta_model.py", "solar_repro/checkpoint/load.py"}
