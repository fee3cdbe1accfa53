"""Runs as the comparison takes them, without a tracking server."""

from types import SimpleNamespace

from benchmarks.runs import EVALUATE, MODEL, Runs
from benchmarks.tables import SCORE_COLUMNS
from solar_repro.paper import variants


class FakeRuns(Runs):
    """Their items are nowhere."""

    def items(self, variant, column, seeds):
        return None


def fake_run(variant, stage, metrics, **tags):
    """A finished run of a stage on a variant."""
    tags = {"solar.stage": stage, "solar.variant": variant, "solar.output": "/nowhere", **tags}
    info = SimpleNamespace(
        run_id=f"run-{variant}", experiment_id="1", end_time=0, artifact_uri="/nowhere", status="FINISHED"
    )
    return SimpleNamespace(info=info, data=SimpleNamespace(metrics=metrics, params={}, tags=tags))


def fake_runs(scores, training=None, **tags):
    """Variant → H6 (every column has it too), or a list with one for each seed, counted from 42."""
    evaluations, models = {}, {}
    for name, values in scores.items():
        by_seed = {}
        for number, value in enumerate(values if isinstance(values, list) else [values]):
            metrics = dict.fromkeys(SCORE_COLUMNS, value) | {
                f"{column}_stderr": 0.5 for column in SCORE_COLUMNS
            }
            by_seed[str(42 + number)] = fake_run(
                name, EVALUATE, metrics | {"held_out_loss": value / 10}, **tags
            )
        evaluations[name] = by_seed
    for name, metrics in (training or {}).items():
        models[name] = {"42": fake_run(name, variants.variant(name).stage, metrics, **tags)}
    return FakeRuns("check", {EVALUATE: evaluations, MODEL: models}, tracker=None)
