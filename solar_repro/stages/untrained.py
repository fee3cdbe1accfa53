"""Sec. 2 before any training: the held-out loss of every layer map of a base, without a checkpoint of it."""

import json
from pathlib import Path

import numpy as np

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import LayerMap, variant_map
from solar_repro.checkpoint.load import load_for_training
from solar_repro.checkpoint.upscale import plan_upscale
from solar_repro.contract import TrainedInputs, UntrainedSettings
from solar_repro.device import device
from solar_repro.errors import UserError
from solar_repro.safety.json_files import write_json
from solar_repro.shared_prefix.layer_maps import TextScore, UntrainedScorer
from solar_repro.shared_prefix.token_scores import context_length, encode_with_bos
from solar_repro.store.result import Log
from solar_repro.terminal.progress import Progress
from solar_repro.training.held_out import held_out_texts

MAPS_FILE = "maps.json"
"""In the result: a row for each map, the base's own order first."""
BASE = "base"
"""The base's own layers in their order, among the maps."""
BATCH_TOKENS = 2048
FEWEST_LAYERS = 4


def losses_file(kind: str) -> str:
    """Name of the file with the losses of a map's texts, as `write_losses` writes them."""
    return f"losses-{kind.replace(':', '_').replace(',', '_')}.json"


def sweep(n: int) -> list[str]:
    """The layer maps of a base of n layers: all m of depth up-scaling, and other ways to make it deeper."""
    return [*(f"dus:{m}" for m in range(1, (n + 1) // 2)), "repeat", "interleave", "block_expansion"]


def run(out: Path, log: Log, settings: UntrainedSettings, inputs: TrainedInputs) -> None:
    """Write `maps.json` and each map's losses to `out`; the log gets each map's mean loss.

    The maps are those of `sweep`, and `extra` ones, named as for `variant_map`. Texts are cut to `max_length`
    tokens. A map whose layers cannot be proved to keep their meaning is left out, with the reason. UserError
    for a base of fewer than 4 layers.
    """
    corpus = settings.corpus
    checkpoint = open_checkpoint(inputs.model)
    if checkpoint.layers < FEWEST_LAYERS:
        raise UserError(
            f"base.model: {checkpoint.layers} layers; a study of layer maps needs {FEWEST_LAYERS} or more"
        )
    texts = held_out_texts(corpus, inputs.mirror)
    chosen = {BASE: LayerMap(BASE, checkpoint.layers, tuple(range(checkpoint.layers)))}
    parameters = {BASE: checkpoint.parameters}
    refused: dict[str, str] = {}
    for kind in dict.fromkeys([*sweep(checkpoint.layers), *settings.extra]):
        layer_map = variant_map(kind, checkpoint.layers)
        try:
            parameters[kind] = plan_upscale(inputs.model, layer_map, unproved=settings.unproved).parameters
            chosen[kind] = layer_map
        except UserError as error:
            refused[kind] = str(error)
            print(f"{kind} is left out: {error}")
    network, tokenizer = load_for_training(inputs.model, settings.precision)
    sequences = encode_with_bos(tokenizer, texts, min(settings.max_length, context_length(network)))
    if not any(len(tokens) > 1 for tokens in sequences):
        raise UserError(f"data.corpus: {corpus.id} has no held-out text of a token or more")
    scorer = UntrainedScorer(network.eval().to(device()), checkpoint.layers)
    scores: dict[int, list[TextScore]] = {}
    with Progress("scoring layer maps", len(sequences), "texts") as progress:
        for number, found in scorer.score(list(chosen.values()), sequences, BATCH_TOKENS):
            scores[number] = found
            progress.advance(1)
    rows = []
    for place, (kind, layer_map) in enumerate(chosen.items()):
        found = [scores[number][place] for number in sorted(scores)]
        losses = [[text.tokens, text.nats] for text in found]
        (out / losses_file(kind)).write_text(json.dumps(losses) + "\n", encoding="utf-8")
        tokens = np.array([text.tokens for text in found])
        loss = sum(text.nats for text in found) / tokens.sum()
        rows.append(
            {
                "map": kind,
                "layers": len(layer_map.layers),
                "parameters": parameters[kind],
                "seams": len(layer_map.seams),
                "layer_distance": max((seam.distance for seam in layer_map.seams), default=None),
                "angular_distance": float(np.average([text.distance for text in found], weights=tokens))
                if layer_map.seams
                else None,
                "loss": float(loss),
            }
        )
        log({f"loss/{kind.replace(':', '_').replace(',', '_')}": float(loss)})
    log({"layers_computed": scorer.computed, "layers_of_separate_models": scorer.separate})
    write_json(out / MAPS_FILE, {"maps": rows, "refused": refused})
