import textwrap

import pytest

from solar_repro import code_digest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of solar_repro: stage → helper; errors without effect."""
    for name, text in {
        "stage.py": "from solar_repro.helper import double\nfrom solar_repro import errors\n",
        "helper.py": '"""Doc."""\ndef double(x):\n    """Doc."""\n    return 2 * x  # twice\n',
        "errors.py": "class Error(Exception): pass\n",
        "other.py": "y = 1\n",
    }.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)

    def digest():
        code_digest.code_digest.cache_clear()
        return code_digest.code_digest("solar_repro.stage")

    yield tmp_path, digest
    code_digest.code_digest.cache_clear()


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("helper.py", "def double(x):\n    return x + x\n", True),
        ("helper.py", '"""New."""\ndef double(x):\n    return 2 * x\n', False),
        ("other.py", "y = 2\n", False),
        ("errors.py", "class Error(ValueError): pass\n", False),
        ("stage.py", "from solar_repro.helper import double\nimport torch\n", True),
    ],
)
def test_only_code_that_makes_the_result_counts(package, file, text, changes):
    folder, digest = package
    before = digest()
    (folder / file).write_text(text)
    assert (digest() != before) is changes
