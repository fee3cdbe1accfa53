"""Free disk: results in the store that no run refers to and the scale's plan does not name."""

from entry_points.command import parse, run_main, running


def main() -> None:
    arguments = parse(
        __doc__,
        delete={
            "default": "false",
            "choices": ["true", "false"],
            "help": "delete what is listed (default: list it)",
        },
    )
    from solar_repro.garbage import unneeded
    from solar_repro.plan import Plan

    planned = {step.folder for step in Plan(arguments.scale).everything()}
    with running(arguments, "gc") as runner:
        found = unneeded(runner.store, planned, runner.tracker.knows)
        for item in found:
            state = ""
            if arguments.options.delete == "true":
                state = "deleted  " if item.remove() else "in use   "
            print(f"{state}{item.bytes / 1e6:>12,.1f} MB  {item.why:<22}  {item.path.name}")
        print(f"{len(found)} folders, {sum(item.bytes for item in found) / 1e6:,.1f} MB, in {runner.store}")
        if found and arguments.options.delete != "true":
            print("nothing was deleted; -P delete=true deletes")


if __name__ == "__main__":
    run_main(main)
