"""The embedded world, written as a local mirror: Table 1's sets, a corpus and the six benchmarks."""

from pathlib import Path

from solar_repro.microworld import benchmarks, corpus, instructions, mathematics, preferences
from solar_repro.microworld.hub_layout import write_dataset
from solar_repro.microworld.stored_corpus import CORPUS
from solar_repro.microworld.words import MMLU_SUBJECTS
from solar_repro.microworld.world import build_world
from solar_repro.scales.microworld import WorldSettings

ABOUT = (
    "Generated text about a small closed world, in the columns of the set of this name; "
    "it holds nothing of the original."
)


def write_mirror(folder: Path, settings: WorldSettings) -> dict[str, dict[str, int]]:
    """Write every set to `folder/<org>/<name>/`, and return its numbers of rows by hub id and `config/split`.

    The same settings write the same bytes. Raises UserError where a set's folder exists.
    """
    world = build_world(settings)
    few = settings.fewshot_rows
    exercises = mathematics.exercises(world, "train", settings.math_problems)
    held_back = mathematics.exercises(world, "test", few)
    subjects = {subject: benchmarks.mmlu_rows(world, subject) for subject in MMLU_SUBJECTS}
    subjects["all"] = {
        split: [row for subject in MMLU_SUBJECTS for row in subjects[subject][split]]
        for split in ("test", "validation", "dev")
    }
    sets = {
        CORPUS: {
            "default": {
                "train": ({"text": text} for text in corpus.documents(world, "train", settings.documents)),
                "validation": (
                    {"text": text}
                    for text in corpus.documents(world, "validation", settings.validation_documents)
                ),
            }
        },
        "vicgalle/alpaca-gpt4": {"default": {"train": instructions.alpaca_rows(world)}},
        "Open-Orca/OpenOrca": {"default": {"train": instructions.orca_rows(world)}},
        "meta-math/MetaMathQA": {"default": {"train": mathematics.metamath_rows(world, exercises)}},
        "EleutherAI/hendrycks_math": {
            "default": {
                "train": mathematics.hendrycks_rows(exercises),
                "test": mathematics.hendrycks_rows(held_back),
            }
        },
        "allenai/ultrafeedback_binarized_cleaned": {
            "default": {
                "train_prefs": preferences.ultrafeedback_rows(world, "train", settings.ultrafeedback_rows),
                "test_prefs": preferences.ultrafeedback_rows(world, "test", few),
            }
        },
        "Intel/orca_dpo_pairs": {"default": {"train": preferences.orca_dpo_rows(world)}},
        "allenai/ai2_arc": {
            config: {
                "train": benchmarks.arc_rows(world, config, "train", few),
                "validation": benchmarks.arc_rows(world, config, "validation", few),
                "test": benchmarks.arc_rows(world, config, "test", settings.arc_items),
            }
            for config in ("ARC-Challenge", "ARC-Easy")
        },
        "Rowan/hellaswag": {
            "default": {
                "train": benchmarks.hellaswag_rows(world, "train", few),
                "validation": benchmarks.hellaswag_rows(world, "validation", settings.hellaswag_items),
            }
        },
        "cais/mmlu": subjects,
        "truthfulqa/truthful_qa": {"multiple_choice": {"validation": benchmarks.truthfulqa_rows(world)}},
        "allenai/winogrande": {
            "winogrande_xl": {
                "train": benchmarks.winogrande_rows(world, "train", few),
                "validation": benchmarks.winogrande_rows(world, "validation", settings.winogrande_items),
            }
        },
        "openai/gsm8k": {
            "main": {
                "train": benchmarks.gsm8k_rows(world, "train"),
                "test": benchmarks.gsm8k_rows(world, "test"),
            }
        },
    }
    return {hub_id: write_dataset(folder, hub_id, configs, ABOUT) for hub_id, configs in sets.items()}
