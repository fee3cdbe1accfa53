from benchmarks.regression import moved

BEFORE = {"solar": {"H6": 50.0, "H6_stderr": 1.0, "held_out_loss": 2.0}}


def after(**changes):
    return {"solar": {**BEFORE["solar"], **changes}}


def test_an_unchanged_run_passes():
    assert not list(moved(BEFORE, after()))


def test_a_better_run_passes():
    assert not list(moved(BEFORE, after(H6=60.0, held_out_loss=1.0)))


def test_a_score_may_fall_by_two_standard_errors_of_the_difference():
    assert not list(moved(BEFORE, after(H6=50.0 - 2.8)))
    (line,) = moved(BEFORE, after(H6=50.0 - 2.9))
    assert line == "solar H6: 50.00 → 47.10, more than 2 × 1.41 lower"


def test_a_higher_loss_is_a_regression():
    (line,) = moved(BEFORE, after(held_out_loss=2.05))
    assert line == "solar held_out_loss: 2.0000 → 2.0500, more than 2% higher"
