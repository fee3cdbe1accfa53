"""Score one variant, or any checkpoint, on H6 and its six tasks (Sec. 4.1)."""

from entry_points.command import (
    MODEL_OPTION,
    make_step,
    parse,
    run_main,
    variant_option,
    warn_of_embedded_benchmarks,
)


def main() -> None:
    arguments = parse(__doc__, variant=variant_option("solar_instruct"), model=MODEL_OPTION)
    from solar_repro.h6.scores import read_scores

    warn_of_embedded_benchmarks(arguments)
    variant, model = arguments.options.variant, arguments.options.model
    folder = make_step(
        arguments,
        "evaluate",
        lambda plan: plan.evaluation_of(model) if model else plan.evaluation(variant),
    )
    print(read_scores(folder).table())


if __name__ == "__main__":
    run_main(main)
