"""What the entry points share: the command line, the scale, the store, and how an error ends."""

import argparse
import contextlib
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro import scales
from solar_repro.errors import UserError

if TYPE_CHECKING:
    from solar_repro.plan import Plan, Step
    from solar_repro.runner import Runner

DEFAULT_SCALE = "smoke"
OVERRIDES = (
    "Any setting of the scale can be overridden by its dotted path, e.g. --sft.learning_rate 1e-5\n"
    "(as `mlflow run . -P sft.learning_rate=1e-5` passes it)."
)


# Libraries' own bars and notices; our progress says what goes on. Before any of them is imported.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
for _library in ("lm_eval", "mlflow.store", "alembic"):
    logging.getLogger(_library).setLevel(logging.ERROR)
warnings.simplefilter("ignore", FutureWarning)


@dataclass(frozen=True)
class Arguments:
    scale: scales.Scale
    store: Path
    options: argparse.Namespace


def parse(doc: str | None, argv: Sequence[str] | None = None, **options: dict) -> Arguments:
    """`--scale`, `--store`, the given options and dotted overrides; bad input: UserError."""
    parser = argparse.ArgumentParser(
        description=doc, epilog=OVERRIDES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scale",
        default=DEFAULT_SCALE,
        help=f"name ({', '.join(scales.names())}) or YAML file (default: %(default)s)",
    )
    parser.add_argument(
        "--store",
        default=os.environ.get("SOLAR_STORE", "store"),
        help="folder that keeps the results (default: SOLAR_STORE, else ./store)",
    )
    for name, settings in options.items():
        parser.add_argument(f"--{name}", **settings)
    known, rest = parser.parse_known_args(argv)
    return Arguments(scales.load(known.scale, _overrides(rest)), Path(known.store), known)


def _overrides(arguments: list[str]) -> dict[str, str]:
    """`--sft.learning_rate 1e-5` and `--sft.learning_rate=1e-5` as a mapping."""
    overrides = {}
    waiting = list(arguments)
    while waiting:
        flag = waiting.pop(0)
        name, equals, value = flag.partition("=")
        if not name.startswith("--"):
            raise UserError(f"argument {flag!r}: expected --name value")
        if not equals:
            if not waiting:
                raise UserError(f"argument {flag}: has no value")
            value = waiting.pop(0)
        overrides[name.removeprefix("--")] = value
    return overrides


@contextlib.contextmanager
def running(arguments: Arguments, name: str) -> Iterator["Runner"]:
    """A runner whose tracker's own run is closed at the end, FAILED if the block raises."""
    from solar_repro.runner import Runner
    from solar_repro.tracking import Tracker, failing

    tracker = Tracker(name, arguments.scale.name)
    with failing(tracker.client, tracker.run_id):
        yield Runner(arguments.store, tracker, upload=arguments.scale.tracking.checkpoints == "upload")
        tracker.finish(tracker.run_id)


def make(doc: str | None, stage: str, choose: Callable[["Plan", str], "Step"], default: str) -> None:
    """An entry point that makes one variant's step of a stage, and what it stands on."""
    arguments = parse(doc, variant=variant_option(default))
    make_step(arguments, stage, lambda plan: choose(plan, arguments.options.variant))


def variant_option(default: str) -> dict:
    return {"default": default, "help": "which variant (default: %(default)s)"}


def make_step(arguments: Arguments, stage: str, choose: Callable[["Plan"], "Step"]) -> None:
    """Make the chosen step as this invocation's own run; print where its result lies."""
    from solar_repro.plan import Plan

    step = choose(Plan(arguments.scale))
    if step.stage != stage:
        raise UserError(
            f"variant {step.variant!r} is made by stage {step.stage!r}: "
            f"mlflow run . -e {step.stage} -P variant={step.variant}"
        )
    with running(arguments, step.label) as runner:
        finished = runner.get(step, runner.tracker.run_id)
    print(finished.output)
    print(f"UI: {ui_command()}")


def ui_command() -> str:
    """The command that shows the runs in a browser."""
    from mlflow import get_tracking_uri

    uri = get_tracking_uri()
    if uri.startswith("http"):
        return uri.rpartition("@")[2]
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def run_main(main: Callable[[], None]) -> None:
    """Run an entry point; a user's mistake ends as one line on stderr and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; finished steps are kept", file=sys.stderr)
        raise SystemExit(130) from None
