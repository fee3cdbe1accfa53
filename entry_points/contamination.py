"""Run the contamination test of Table 9, and Min-K % Prob, for one variant or for any checkpoint."""

from entry_points.command import (
    MODEL_OPTION,
    make_step,
    parse,
    run_main,
    variant_option,
    warn_of_embedded_benchmarks,
)


def main() -> None:
    arguments = parse(
        __doc__,
        variant=variant_option("solar_instruct"),
        model=MODEL_OPTION,
        control={
            "default": "none",
            "choices": ["none", "positive"],
            "help": "positive: first train a copy of the model on the tested texts (default: %(default)s)",
        },
    )
    warn_of_embedded_benchmarks(arguments)
    options = arguments.options
    positive = options.control == "positive"
    folder = make_step(
        arguments,
        "contamination",
        lambda plan: (
            plan.contamination_of(options.model, positive=positive)
            if options.model
            else plan.contamination(options.variant, positive=positive)
        ),
    )
    from solar_repro.stages.contamination import verdicts

    print("\n".join(verdicts(folder)))


if __name__ == "__main__":
    run_main(main)
