"""The card of a prepared set: rows in, dropped by reason, tokens, and the lengths as a picture."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.data.report import Report

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from solar_repro.data.overlap import Overlap

BARS = 48


def write_card(
    out: Path,
    name: str,
    rows: Report,
    tokens: Report,
    tokenised: "Dataset",
    overlaps: "list[Overlap] | None" = None,
) -> None:
    """Write `<name>.md`, `<name>.json` and `<name>_lengths.png` into `out`, from the reports of loading and
    tokenising and, where it was done, of decontamination."""
    out.mkdir(parents=True, exist_ok=True)
    lengths = sequence_lengths(tokenised)
    figures = {"rows": rows, "tokens": tokens, "lengths": quantiles(lengths)}
    if overlaps is not None:
        figures["overlap"] = [vars(line) for line in overlaps]
    text = json.dumps(figures, indent=2, ensure_ascii=False, sort_keys=True, default=list)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(_markdown(name, rows, tokens, lengths, overlaps), encoding="utf-8")
    _picture(out / f"{name}_lengths.png", name, lengths)


def sequence_lengths(tokenised: "Dataset") -> "np.ndarray":
    """Tokens of each row: of `input_ids`, or of the prompt and the longer of its two answers."""
    import numpy as np
    import pyarrow.compute as pc

    def lengths(name: str) -> np.ndarray:
        return pc.list_value_length(tokenised.with_format("arrow")[:][name]).to_numpy()

    if "input_ids" in tokenised.column_names:
        return lengths("input_ids")
    return lengths("prompt_ids") + np.maximum(lengths("chosen_ids"), lengths("rejected_ids"))


def quantiles(lengths: "np.ndarray") -> dict[str, float]:
    """Mean, median, 90th, 99th percentile and greatest length, in tokens; nothing of no rows."""
    import numpy as np

    if not len(lengths):
        return {}
    named = {"median": 50, "p90": 90, "p99": 99, "longest": 100}
    return {"mean": round(float(lengths.mean()), 1)} | {
        name: float(np.percentile(lengths, share, method="higher")) for name, share in named.items()
    }


def _markdown(
    name: str, rows: Report, tokens: Report, lengths: "np.ndarray", overlaps: "list[Overlap] | None"
) -> str:
    stand_in = "" if rows["used"] == rows["hub_id"] else f", in place of `{rows['hub_id']}`"
    lines = [
        f"# {name}",
        "",
        f"Source: `{rows['used']}`{stand_in}, split `{rows['split']}`  ",
        f"Fingerprint: `{rows['fingerprint']}`",
        "",
        "| | rows |",
        "|---|--:|",
        f"| read | {rows['rows_in']:,} |",
        *(f"| dropped: {reason} | {count:,} |" for reason, count in rows["dropped"].items()),
        f"| usable | {rows['usable']:,} |",
        f"| kept under the cap | {rows['kept']:,} |",
        *(f"| dropped: {reason} | {count:,} |" for reason, count in tokens["dropped"].items()),
        f"| tokenised | {tokens['kept']:,} |",
        f"| of these with the left of the prompt cut | {tokens['prompts_truncated']:,} |",
        f"| of these with an answer cut | {tokens['answers_cut']:,} |",
        "",
        f"Tokens: {tokens['tokens']:,}, of which answers {tokens['answer_tokens']:,}. Lengths: "
        + ", ".join(f"{key} {value:,.0f}" for key, value in quantiles(lengths).items())
        + ".",
    ]
    if "filter" in rows:
        told = {key: value for key, value in rows["filter"].items() if key != "removed"}
        lines += ["", f"Filter of Table 8: {json.dumps(told, ensure_ascii=False)}"]
    if overlaps is not None:
        lines += ["", "| benchmark | rows sharing a 13-gram | example |", "|---|--:|---|"]
        for line in overlaps:
            # Inside a code span nothing of a row's own id is taken for markup.
            shown = (
                "`" + " ".join(line.examples[0][0].split()).replace("`", "'") + "`" if line.examples else ""
            )
            lines.append(f"| {line.benchmark} | {line.hit:,} | {shown} |")
    return "\n".join([*lines, "", f"![lengths]({name}_lengths.png)", ""])


def _picture(file: Path, name: str, lengths: "np.ndarray") -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.hist(lengths, bins=BARS)
    axes.set(xlabel="tokens a row", ylabel="rows", title=f"{name}: {len(lengths):,} rows")
    # Without the library's version in it the same rows give the same bytes.
    figure.savefig(file, metadata={"Software": None})
