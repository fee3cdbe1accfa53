"""Losses of deeper models right after scaling (Sec. 2), from the base's layers, run in each map's order.

No deeper model is made. Maps that begin alike share what they compute, and all of them share the base's own
pass: depth up-scaling with m costs no more than the n − m layers of its second copy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from solar_repro.checkpoint.layer_map import LayerMap
from solar_repro.errors import UserError

HEAD_TOKENS = 512
"""Positions whose logits are computed at once; each takes as many numbers as the vocabulary has entries."""


class TextScore(NamedTuple):
    """The score of one text under one layer map."""

    tokens: int
    """Tokens that were predicted."""
    nats: float
    """The sum of their losses."""
    distance: float
    """The angular distance of the states that a seam joins, a mean over seams and tokens; 0 without."""


@dataclass
class _Node:
    """A sequence of layers that some maps begin with: the layers that follow, and the maps that end here."""

    following: dict[int, "_Node"] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)


@dataclass
class _Call:
    """What the base gives to a layer beside the hidden states, and whether the layer answers with a tuple."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_tuple: bool = False


class _FixedStates(nn.Module):
    """Stands in the place of all layers, and answers with states that were computed before."""

    def __init__(self, layer: nn.Module, in_tuple: bool) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # not registered as a submodule
        self.in_tuple = in_tuple
        self.states: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a model's loop may ask a layer for, say, its kind of attention
            return getattr(self.__dict__["layer"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return (self.states,) if self.in_tuple else self.states


class UntrainedScorer:
    """Scores texts under any maps of a base's layers.

    `computed` counts the layers that were run, once per batch; `separate` counts those that a model for each
    map would have run.
    """

    def __init__(self, model: PreTrainedModel, layers: int) -> None:
        """Take a base whose decoder has exactly one list of so many layers; UserError for any other."""
        self.model, self.computed, self.separate = model, 0, 0
        owners = [
            (owner, name)
            for owner in model.modules()
            for name, child in owner.named_children()
            if isinstance(child, nn.ModuleList) and len(child) == layers
        ]
        if len(owners) != 1:
            raise UserError(
                f"{type(model).__name__}: has {len(owners)} lists of {layers} layers; a study of its layer "
                "maps needs exactly one"
            )
        self._owner, self._name = owners[0]
        self._layers: nn.ModuleList = getattr(self._owner, self._name)

    def score(
        self, maps: Sequence[LayerMap], sequences: Sequence[np.ndarray], batch_tokens: int
    ) -> Iterator[tuple[int, list[TextScore]]]:
        """Yield the number of each sequence with its scores, one per map, in batches of like length.

        A sequence holds token ids [n]; its first token is not predicted. Zeroed layers are not run, for they
        change nothing.
        """
        root = _Node()
        active = [_active(found) for found in maps]
        for number, layers in enumerate(active):
            node = root
            for layer in layers:
                node = node.following.setdefault(layer, _Node())
            node.ends.append(number)
        order = sorted(
            (number for number, tokens in enumerate(sequences) if len(tokens) > 1),
            key=lambda number: -len(sequences[number]),
        )
        while order:
            count = max(1, batch_tokens // len(sequences[order[0]]))
            batch, order = order[:count], order[count:]
            rows = [torch.from_numpy(sequences[number].astype(np.int64)) for number in batch]
            with torch.no_grad():
                scores = self._batch(root, active, [row.to(self.model.device) for row in rows])
            yield from ((number, scores[line]) for line, number in enumerate(batch))

    def _batch(self, root: _Node, active: list[tuple[int, ...]], rows: list[Tensor]) -> list[list[TextScore]]:
        # Padding stands behind each text, where the tokens of a causal decoder do not see it.
        states, calls = self._base_pass(nn.utils.rnn.pad_sequence(rows, batch_first=True))
        nats: list[list[float]] = [[0.0] * len(active) for _ in rows]

        def walk(node: _Node, hidden: Tensor, depth: int | None) -> None:
            """Score all maps below a node; `depth` is None once a layer was not the base's next one."""
            for number in node.ends:
                for line, found in enumerate(self._nats(hidden, rows, calls[-1].in_tuple)):
                    nats[line][number] = found
            for layer, child in node.following.items():
                if layer == depth:
                    walk(child, states[layer + 1], layer + 1)
                else:
                    walk(child, self._run(layer, hidden, calls[layer]), None)

        walk(root, states[0], 0)
        self.computed += len(self._layers)
        self.separate += sum(map(len, active))
        distances = [self._distances(states, layers, rows) for layers in active]
        return [
            [
                TextScore(len(row) - 1, nats[line][number], distances[number][line])
                for number in range(len(active))
            ]
            for line, row in enumerate(rows)
        ]

    def _base_pass(self, tokens: Tensor) -> tuple[list[Tensor], list[_Call]]:
        """The states before each layer and behind the last one, and what each layer was called with."""
        states: list[Tensor] = []
        calls: list[_Call] = []

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            others = dict(kwargs)
            states.append(args[0] if args else others.pop("hidden_states"))
            calls.append(_Call(args[1:], others))

        def behind(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls[-1].in_tuple = isinstance(output, tuple)
            last[:] = [output[0] if isinstance(output, tuple) else output]

        last: list[Tensor] = []
        hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in self._layers]
        hooks += [layer.register_forward_hook(behind) for layer in self._layers]
        try:
            self.model.base_model(input_ids=tokens, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return [*states, *last], calls

    def _run(self, layer: int, hidden: Tensor, call: _Call) -> Tensor:
        self.computed += 1
        output = self._layers[layer](hidden, *call.args, **call.kwargs)
        return output[0] if isinstance(output, tuple) else output

    def _nats(self, hidden: Tensor, rows: list[Tensor], in_tuple: bool) -> Iterator[float]:
        """Each row's summed loss, by the model's own norm and head, from states behind the last layer."""
        given = _FixedStates(self._layers[-1], in_tuple)
        setattr(self._owner, self._name, nn.ModuleList([given]))
        try:
            for line, row in enumerate(rows):
                total = 0.0
                for start in range(0, len(row) - 1, HEAD_TOKENS):
                    end = min(start + HEAD_TOKENS, len(row) - 1)
                    given.states = hidden[line : line + 1, start:end]
                    logits = self.model(input_ids=row[None, start:end], use_cache=False).logits[0]
                    log_probs = torch.log_softmax(logits.float(), -1)
                    found = log_probs.gather(1, row[start + 1 : end + 1, None])
                    total -= float(found.cpu().double().sum())
                yield total
        finally:
            setattr(self._owner, self._name, self._layers)

    def _distances(self, states: list[Tensor], layers: tuple[int, ...], rows: list[Tensor]) -> list[float]:
        """Each row's angular distance, averaged over seams.

        It lies between the states behind the seam's lower layer and those that the base gives its upper
        layer.
        """
        seams = [(low, high) for low, high in pairwise(layers) if high != low + 1]
        found = []
        for line, row in enumerate(rows):
            ends = [
                (states[low + 1][line, 1 : len(row)], states[high][line, 1 : len(row)]) for low, high in seams
            ]
            found.append(float(np.mean([angular_distance(*pair) for pair in ends])) if ends else 0.0)
        return found


def angular_distance(first: Tensor, second: Tensor) -> float:
    """The mean of arccos of the cosine of states [tokens, width], over π: 0 if alike, 1/2 at right angles.

    It is Eq. 4 of Gromov et al. 2024 (arXiv 2403.17887), who take a text's last token alone.
    """
    cosines = torch.cosine_similarity(first.cpu().double(), second.cpu().double(), dim=-1)
    return float(cosines.clamp(-1, 1).arccos().mean()) / np.pi


def _active(layer_map: LayerMap) -> tuple[int, ...]:
    """The layers of a map that are not zeroed."""
    return tuple(layer for place, layer in enumerate(layer_map.layers) if place not in layer_map.zeroed)
