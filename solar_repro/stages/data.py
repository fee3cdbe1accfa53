"""One set of Table 1 by itself: loaded, filtered, tokenised, compared with the benchmarks, reported."""

from pathlib import Path

from solar_repro.checkpoint.load import load_training_tokenizer
from solar_repro.contract import DataSettings, TuningInputs
from solar_repro.data.card import write_card
from solar_repro.data.decontamination import benchmark_index, overlap
from solar_repro.data.templates import set_chat_template
from solar_repro.data.tokens import tokenise_instruction, tokenise_preferences
from solar_repro.paper.data_sets import DATASETS
from solar_repro.store.result import Log
from solar_repro.training.tuning_data import figures, instruction_rows, preference_rows


def run(out: Path, log: Log, settings: DataSettings, inputs: TuningInputs) -> None:
    """Write the set's data card to `out`; the model gives the tokenizer, the log gets the counts."""
    tokenizer = load_training_tokenizer(inputs.model)
    set_chat_template(tokenizer, settings.template)
    name = settings.dataset.name
    if DATASETS[name].stage == "instruction":
        load, tokenise = instruction_rows, tokenise_instruction
    else:
        load, tokenise = preference_rows, tokenise_preferences
    rows = load(settings.dataset, settings.seed, inputs)
    tokenised, report = tokenise(rows, tokenizer, settings.max_length, num_proc=inputs.num_proc)
    lines, _ = overlap(rows, benchmark_index(inputs.mirror), num_proc=inputs.num_proc)
    write_card(out, name, rows.report, report, tokenised, lines)
    counts = figures(rows, report) | {f"overlap/{line.benchmark}": line.hit for line in lines}
    log({f"data/{name}/{figure}": value for figure, value in counts.items()})
