"""Where the tests of this folder run: on a GPU, and tiny on the CPU, where no GPU is to try their code on."""

import pytest

from solar_repro.device import device


@pytest.fixture(
    params=[
        pytest.param("cuda", marks=pytest.mark.gpu),
        pytest.param("cpu", marks=[pytest.mark.slow, pytest.mark.rare]),
    ]
)
def place(request: pytest.FixtureRequest) -> str:
    """The device of a test. On `cpu` it is a rehearsal, with shapes that are much too small to tell much."""
    if request.param == "cpu" and device() == "cuda":
        pytest.skip("a GPU is here: the test itself runs")
    return request.param
