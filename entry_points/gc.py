"""Free disk space: find results in the store that no run refers to and the scale's plan does not need."""

from entry_points.command import parse, run_main, running
from solar_repro.safety.redact import printable
from solar_repro.store.fingerprint import default_cache_folder
from solar_repro.tracking.server import server_uri


def main() -> None:
    arguments = parse(
        __doc__,
        delete={
            "default": "false",
            "choices": ["true", "false"],
            "help": "true: delete what is listed (default: only list it)",
        },
        elsewhere={
            "default": "false",
            "choices": ["true", "false"],
            "help": "true: also delete results that another tracking server may need (default: false)",
        },
        damaged={
            "default": "false",
            "choices": ["true", "false"],
            "help": "delete what was set aside as damaged, too (default: false)",
        },
    )
    from benchmarks import regression
    from solar_repro.plan.plan import Plan
    from solar_repro.running.garbage import DAMAGED, ELSEWHERE, STRANGE, unneeded

    options = arguments.options
    planned = {step.folder for step in Plan(arguments.scale).everything()}
    with running(arguments, "gc") as runner:
        beside = (runner.store / "report", default_cache_folder(), regression.FOLDER)
        found = unneeded(runner.store, planned, runner.tracker, beside)
        told = {ELSEWHERE: options.elsewhere, DAMAGED: options.damaged}
        kept = {STRANGE, *(why for why, choice in told.items() if choice == "false")}
        for item in found:
            state = ""
            if options.delete == "true":
                left = "kept" if item.why in kept else item.remove()
                state = f"{left or 'deleted':<9}"
            inside = item.path.is_relative_to(runner.store)
            name = item.path.relative_to(runner.store) if inside else item.path
            print(printable(f"{state}{item.bytes / 1e6:>12,.1f} MB  {item.why:<22}  {name}"))
        megabytes = sum(item.bytes for item in found) / 1e6
        print(f"{len(found)} folders and files, {megabytes:,.1f} MB, in {runner.store}")
        if ELSEWHERE in kept.intersection(item.why for item in found):
            print(
                f"{ELSEWHERE}: {server_uri()} has no run that made it and may be the wrong server; "
                "set MLFLOW_TRACKING_URI to the right one, or -P delete=true -P elsewhere=true deletes it"
            )
        if DAMAGED in kept.intersection(item.why for item in found):
            print(f"{DAMAGED}: kept to be looked at; -P delete=true -P damaged=true deletes it")
        if found and options.delete != "true":
            print("nothing was deleted; to delete these, add -P delete=true")


if __name__ == "__main__":
    run_main(main)
