"""Runs the neighbour test of Table 9 the plain way and our way, in turn, on the same texts.

    python -m benchmarks.performance.neighbours --mirror ../shared/hub --model ../shared/models/stories260K \\
        --out build/neighbours

The plain way is transformers' `generate` and forward: one batch of 32 neighbours after another, every prompt
and every text computed from its first token. Both draw their own neighbours, so their shares agree only
within chance; the losses of the texts themselves must be the same. Writes neighbours.json.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.contamination.neighbour_test import drawn, neighbour_test
from solar_repro.contamination.texts import contamination_texts
from solar_repro.store.publish import write_atomically

if TYPE_CHECKING:
    from solar_repro.checkpoint.load import Loaded

PLAIN_BATCH = 32


def plain_test(
    model: "Loaded", texts: Sequence[str], neighbours: int, ratio: float = 0.4
) -> tuple[list, list]:
    """Of each text its own loss, and the share of its neighbours with a lower one."""
    network, tokenizer = model
    losses, scores = [], []
    for text in texts:
        words = text.split()
        first = math.ceil(ratio * len(words))
        prompt = tokenizer(" ".join(words[:first]), return_tensors="pt")["input_ids"]
        written = []
        while len(written) < neighbours:
            batch = prompt.expand(min(PLAIN_BATCH, neighbours - len(written)), -1)
            new = network.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                do_sample=True,
                temperature=1.0,
                top_k=50,
                max_new_tokens=len(words) - first,
                pad_token_id=tokenizer.eos_token_id,
            )
            written += tokenizer.batch_decode(new, skip_special_tokens=True)
        own, *others = plain_losses(model, [text, *written])
        losses.append(own)
        scores.append(sum(other < own for other in others) / neighbours)
    return losses, scores


def plain_losses(model: "Loaded", texts: Sequence[str]) -> list[float]:
    """Mean next-token loss of each text behind a BOS, cut at the model's context."""
    network, tokenizer = model
    found = []
    for start in range(0, len(texts), PLAIN_BATCH):
        encoded = tokenizer(list(texts[start : start + PLAIN_BATCH]), add_special_tokens=False)["input_ids"]
        rows = [[tokenizer.bos_token_id, *ids][: network.config.max_position_embeddings] for ids in encoded]
        width = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        wanted = torch.tensor([[1] * (len(row) - 1) + [0] * (width - len(row)) for row in rows])
        with torch.inference_mode():
            log_probs = network(tokens[:, :-1]).logits.log_softmax(-1)
        picked = log_probs.gather(2, tokens[:, 1:, None])[:, :, 0]
        found += (-(picked * wanted).sum(1) / wanted.sum(1)).tolist()
    return found


def main() -> None:
    """Parse the command line, measure, print, write JSON."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n")[0])
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument(
        "--model", type=Path, required=True, help="folder of the model, used as target and as reference"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="GSM8K")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--neighbours", type=int, default=100)
    parser.add_argument(
        "--plain-examples", type=int, default=10, help="how many of these are also tested the plain way"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="rounds of both on those texts; the fastest round counts"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    texts = contamination_texts(options.task, options.mirror)
    settings = {"neighbours": options.neighbours, "batch_tokens": 8192}
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(options.rounds):
        start = time.perf_counter()
        model = load_for_scoring(options.model)
        chosen = [texts[number] for number in drawn(texts, options.plain_examples, 0)]
        losses, scores = plain_test(model, chosen, options.neighbours)
        middle = time.perf_counter()
        model = load_for_scoring(options.model)
        some = neighbour_test(model, model, texts, examples=options.plain_examples, **settings)
        seconds["plain"].append(middle - start)
        seconds["ours"].append(time.perf_counter() - middle)
    start = time.perf_counter()
    every = neighbour_test(model, model, texts, examples=options.examples, **settings)
    whole = time.perf_counter() - start
    plain, ours = min(seconds["plain"]), min(seconds["ours"])
    report = {
        "settings": {key: str(value) for key, value in sorted(vars(options).items())},
        "seconds": seconds,
        "ratio": plain / ours,
        "seconds_all": whole,
        "largest_loss_difference": float(np.abs(np.subtract(losses, some.losses)).max()),
        "mean_score_plain": float(np.mean(scores)),
        "mean_score_ours": float(np.mean(some.scores)),
        "share": every.share,
    }
    print(f"{options.plain_examples} texts: plain {plain:.1f} s, ours {ours:.1f} s, {plain / ours:.1f} times")
    print(f"{options.examples} texts: ours {whole:.1f} s; {every.verdict()}")
    print(
        f"losses of the texts differ by {report['largest_loss_difference']:.1e} at most; mean score "
        f"{report['mean_score_plain']:.3f} plain, {report['mean_score_ours']:.3f} ours"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "neighbours.json", json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
