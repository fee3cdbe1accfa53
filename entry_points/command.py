"""Holds what the entry points share: the command line, the scale, the store, and how an error ends."""

import argparse
import contextlib
import errno
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from solar_repro.errors import Stopped, UserError
from solar_repro.running.launch import follow
from solar_repro.safety.paths import expand_home, require_writable
from solar_repro.safety.redact import one_line, printable, redact
from solar_repro.scales.load import as_yaml, load_scale, scale_names
from solar_repro.scales.settings import EMBEDDED, Scale
from solar_repro.store.fingerprint import default_cache_folder, forget_digests
from solar_repro.terminal.stopping import handle_signals, interruptible
from solar_repro.tracking.commands import Invocation
from solar_repro.tracking.server import is_temporary, ui_command

if TYPE_CHECKING:
    from solar_repro.plan.plan import Plan
    from solar_repro.plan.step import Step
    from solar_repro.running.runner import Runner

DEFAULT_SCALE = "smoke"
_SPACE = "free some space, or set SOLAR_STORE, HF_HOME or TMPDIR to folders on another disk"
_LIMITS = {
    **dict.fromkeys([errno.EMFILE, errno.ENFILE], "let more be open: ulimit -n 65536"),
    **dict.fromkeys([errno.ENOSPC, errno.EDQUOT], _SPACE),
}
OVERRIDES = (
    "Any setting of the scale can be changed by its dotted path, such as --sft.learning_rate 1e-5.\n"
    "With MLflow that is: mlflow run . -P sft.learning_rate=1e-5\n"
    "solar_repro/scales/settings.py and the files beside it say what each setting means.\n"
    "Finished results are taken from every experiment of the tracking server, whoever made them, unless\n"
    "--tracking.experiments NAME,NAME names the experiments that are accepted."
)


def prepare_process() -> None:
    """Set what libraries read from the environment when they are imported, and silence their notices.

    Variables that the user has set stay.
    """
    quiet = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # our progress says what goes on
    # On a CPU PyTorch keeps a kernel for each shape of matrices, 1,024 of them: with batches as long as
    # their longest row that is half a gigabyte.
    caches = {"LRU_CACHE_CAPACITY": "32", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32"}
    # Threads that wait for each other sleep: where other processes want the cores too, spinning threads
    # slow a step many times over. The names are OpenMP's, GNU's and Intel's.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
    for name, value in (quiet | caches | waiting).items():
        os.environ.setdefault(name, value)
    # MLflow would print a password that the tracking URI holds.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    for library in ("lm_eval", "mlflow.store", "alembic"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)


prepare_process()  # now: before these libraries are imported, and in each process that makes steps too


@dataclass(frozen=True)
class Arguments:
    scale: Scale
    store: Path
    options: argparse.Namespace
    overrides: dict[str, str]
    """Settings of the scale that were given beside it, by dotted path."""


def place(text: str) -> str:
    """Read an option that names a file or folder. `~` is the home folder, which no shell has expanded."""
    try:
        return expand_home(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Parser(argparse.ArgumentParser):
    """A parser that takes options in full only: `--seed` is a setting, and not short for `--seeds`."""

    def __init__(self, doc: str | None) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=doc, epilog=OVERRIDES, formatter_class=formatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(doc: str | None, argv: Sequence[str] | None = None, **options: dict[str, Any]) -> Arguments:
    """Read `--scale`, `--store`, the given options and dotted overrides. Raises UserError for bad input."""
    parser = _Parser(doc)
    parser.add_argument(
        "--scale",
        type=place,
        default=DEFAULT_SCALE,
        help=f"name of a scale ({', '.join(scale_names())}), or a YAML file (default: %(default)s)",
    )
    parser.add_argument(
        "--store",
        type=place,
        default=os.environ.get("SOLAR_STORE") or "store",
        help="folder in which results are kept (default: the value of SOLAR_STORE, else ./store)",
    )
    for name, settings in options.items():
        parser.add_argument(f"--{name}", **settings)
    known, rest = parser.parse_known_args(argv)
    for name, value in vars(known).items():
        if isinstance(value, str) and not value.strip():
            raise UserError(f"--{name}: the value is empty; give one, or leave it out")
    overrides = _overrides(rest)
    cache = "HF_DATASETS_CACHE" if os.environ.get("HF_DATASETS_CACHE") else "HF_HOME"
    require_writable(default_cache_folder(), "cache", cache)
    scale = load_scale(known.scale, overrides)
    if scale.execution.verify == "full":
        forget_digests()
    return Arguments(scale, Path(known.store), known, overrides)


def _overrides(arguments: list[str]) -> dict[str, str]:
    """Read `--sft.learning_rate 1e-5` and `--sft.learning_rate=1e-5` into a mapping."""
    overrides = {}
    waiting = list(arguments)
    while waiting:
        flag = waiting.pop(0)
        name, equals, value = flag.partition("=")
        if not name.startswith("--"):
            raise UserError(f"argument {flag!r}: not understood; write options as --name value")
        if not equals:
            if not waiting:
                raise UserError(f"argument {flag}: has no value; write it as --name value")
            value = waiting.pop(0)
        overrides[name.removeprefix("--")] = value
    return overrides


@contextlib.contextmanager
def running(arguments: Arguments, name: str) -> Iterator["Runner"]:
    """Give a runner; its tracker's own run is closed behind the block, as FAILED if the block raises."""
    from solar_repro.device import own_precision, warn_of_emulation
    from solar_repro.running.runner import Runner
    from solar_repro.terminal.output import live_display
    from solar_repro.terminal.progress import show_activity
    from solar_repro.tracking.server import server_errors
    from solar_repro.tracking.tracker import Tracker, mark_failed

    scale = arguments.scale
    for precision in sorted(scale.precisions):
        warn_of_emulation(precision)
    typed = f"python -m entry_points.{Path(sys.argv[0]).stem} {shlex.join(sys.argv[1:])}"
    invocation = Invocation(arguments.options.scale, arguments.overrides, scale.seed, typed)
    with live_display(name), server_errors(arguments.store):
        with show_activity("opening the tracking server"):
            accepted = tuple(scale.execution.tracking.experiments)
            tracker = Tracker(name, scale.name, accepted=accepted, invocation=invocation)
        with mark_failed(tracker.client, tracker.run_id):
            tracker.try_artifacts(as_yaml(scale.in_precision(own_precision())))
            yield Runner(arguments.store, tracker, scale.execution, scale.base.shape)
            tracker.log_usage()
            tracker.finish(tracker.run_id)


def make(doc: str | None, stage: str, choose: Callable[["Plan", str], "Step"], default: str) -> None:
    """Be an entry point that makes one variant's step of a stage, and first whatever that step needs."""
    arguments = parse(doc, variant=variant_option(default))
    make_step(arguments, stage, lambda plan: choose(plan, arguments.options.variant))


SEEDS = {
    "type": int,
    "default": 1,
    "help": "number of training seeds, counted up from the seed of the scale (default: 1)",
}


def plans(arguments: Arguments) -> list["Plan"]:
    """Return a plan for each of `--seeds` seeds of training. Raises UserError where that is less than one."""
    from solar_repro.plan.plan import Plan

    scale, seeds = arguments.scale, arguments.options.seeds
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one seed is needed")
    offsets = range(scale.seed_offset, scale.seed_offset + seeds)
    return [Plan(scale.model_copy(update={"seed_offset": offset})) for offset in offsets]


def plan_main(chosen: list["Plan"]) -> list["Step"]:
    """Return every step of the paper in these plans, or refuse what cannot be made before a run is opened."""
    return [step for plan in chosen for step in plan.main()]


def check_overrides(arguments: Arguments, steps: list["Step"]) -> None:
    """Say in a line on stderr where a setting of `dpo` that was given has no effect on a candidate.

    Raises UserError where it has none on any of these steps and of those that they are made from.
    """
    from solar_repro.plan.step import ordered

    tuned = {step.variant for step in ordered(steps) if step.stage == "dpo"}
    for dotted, value in arguments.overrides.items():
        section, _, name = dotted.partition(".")
        if section != "dpo":
            continue
        name = name.partition(".")[0]
        own = {
            candidate: changed
            for candidate in ("cand_1", "cand_2")
            if candidate in tuned
            and (changed := getattr(getattr(arguments.scale, candidate), name)) is not None
        }
        if not own:
            continue
        keys = [f"{candidate}.{name}" for candidate in own]
        sets = " and ".join(f"{key}={changed}" for key, changed in zip(keys, own.values(), strict=True))
        line = f"{dotted}={value} has no effect on {' and '.join(own)}: the scale sets {sets}; set that"
        if own.keys() == tuned:
            raise UserError(line)
        print(line, file=sys.stderr, flush=True)


def names_in(options: argparse.Namespace, name: str) -> list[str]:
    """Return the names that an option lists, separated by commas; an option that was left out lists none."""
    given = getattr(options, name)
    names = [part.strip() for part in (given or "").split(",") if part.strip()]
    if given and not names:
        raise UserError(f"--{name} {given}: contains no name; give one or more names, separated by commas")
    return names


def variant_option(default: str) -> dict[str, Any]:
    return {"default": default, "help": "name of the variant (default: %(default)s)"}


MODEL_OPTION = {
    "type": place,
    "help": "checkpoint to score instead of a variant: a folder or a hub id",
}


def warn_of_embedded_benchmarks(arguments: Arguments) -> None:
    """Say in a line on stderr where a given checkpoint would be scored on benchmarks that are invented."""
    if arguments.options.model and arguments.scale.data.mirror == EMBEDDED:
        print(
            f"the benchmarks of scale {arguments.scale.name} are those of the embedded world; -P scale=paper "
            "has the real ones, with all items",
            file=sys.stderr,
            flush=True,
        )


def joined(arguments: Arguments, steps: list["Step"]) -> bool:
    """On a machine that is not the first, take part in the trainings of these steps; return whether it is."""
    if not arguments.scale.execution.machine_rank:
        return False
    follow(arguments.store, steps, arguments.scale.execution)
    return True


def make_step(arguments: Arguments, stage: str, choose: Callable[["Plan"], "Step"]) -> Path:
    """Make the chosen step as this command's own run. Prints and returns the folder of its result."""
    from solar_repro.plan.plan import Plan

    step = choose(Plan(arguments.scale))
    check_overrides(arguments, [step])
    if step.stage != stage:
        raise UserError(
            f"variant {step.variant!r} is made by stage {step.stage!r}; run: "
            f"mlflow run . -e {step.stage} -P variant={step.variant}"
        )
    if joined(arguments, [step]):
        return arguments.store / step.folder
    from solar_repro.running.whole_plan import show_plan

    with running(arguments, step.label) as runner:
        show_plan(runner, [step])
        finished = runner.get(step, runner.tracker.run_id)
    print(finished.output)
    print(f"UI: {ui_command()}")
    return finished.output


def run_main(main: Callable[[], None]) -> None:
    """Run an entry point; a user's mistake ends as one line on stderr and exit code 2.

    Asked to end, it says in one line what was stopped, and its exit code is the shell's of that signal: 143
    after SIGTERM, 130 after Ctrl-C.
    """
    with handle_signals(ends_on_second=True) as asked:
        try:
            with interruptible():
                main()
        except UserError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            raise SystemExit(2) from None
        except Stopped as stopped:
            promise = "; the same command continues from there" if is_temporary(stopped) else ""
            print(f"{one_line(str(stopped))}{promise}", file=sys.stderr)
            raise SystemExit(128 + (asked.number or signal.SIGTERM)) from None
        except Exception as error:
            if told := _limit_reached(error):
                print(f"error: {one_line(redact(told))}", file=sys.stderr)
                raise SystemExit(2) from None
            print(printable(redact(traceback.format_exc())), file=sys.stderr)
            raise SystemExit(1) from None


def _limit_reached(error: BaseException | None) -> str | None:
    """Say what to do about an error that a limit of the machine caused; return None for other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _LIMITS:
            return f"{error}; {_LIMITS[error.errno]}"
        error = error.__cause__ or error.__context__
    return None
