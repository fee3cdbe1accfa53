"""Key-value caches that are written in place: room is allocated once, and nothing is copied per step."""

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """A layer's keys and values: buffers [rows, heads, capacity, head size] that hold `length` tokens."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        super().__init__()
        self.key_buffer, self.value_buffer, self.length = keys, values, length
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._show()

    def _show(self) -> None:
        self.keys = self.key_buffer[:, :, : self.length]
        self.values = self.value_buffer[:, :, : self.length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens behind those that are there, and return views of all of them."""
        end = self.length + key_states.shape[-2]
        self.key_buffer[:, :, self.length : end] = key_states
        self.value_buffer[:, :, self.length : end] = value_states
        self.length = end
        self._show()
        return self.keys, self.values


def empty_cache() -> DynamicCache:
    """A cache for the first tokens of sequences, of a model with full attention in every layer."""
    return DynamicCache()


def select_rows(cache: Cache, rows: Sequence[int], length: int, extra: int) -> Cache:
    """A cache of some rows of another one, cut to `length` tokens, with room for `extra`; rows may repeat."""
    selected = room_for(cache, len(rows), length + extra, length)
    copy_rows(cache, torch.as_tensor(rows, device=cache.layers[0].keys.device), selected, 0)
    return selected


def room_for(like: Cache, rows: int, capacity: int, length: int) -> Cache:
    """A cache like another one, for `rows` of `capacity` tokens, of which `length` count as written."""
    layers = []
    for layer in like.layers:
        heads, size = layer.keys.shape[1], layer.keys.shape[3]
        keys, values = (layer.keys.new_empty(rows, heads, capacity, size) for _ in range(2))
        layers.append(PreallocatedLayer(keys, values, length))
    return Cache(layers=layers)


def copy_rows(source: Cache, rows: torch.Tensor, target: Cache, first: int) -> None:
    """Copy some rows of one cache to the lines of another one, from line `first` on; rows may repeat.

    As many tokens are copied as both caches hold. Behind them, as far as the target counts as written, are
    zeros.
    """
    for old, layer in zip(source.layers, target.layers, strict=True):
        for states, buffer in ((old.keys, layer.key_buffer), (old.values, layer.value_buffer)):
            length = min(states.shape[2], layer.length)
            lines = buffer[first : first + len(rows)]
            if buffer.device.type == "mps":  # whose index_select writes as if `out` had no gaps
                lines[:, :, :length] = states[:, :, :length].index_select(0, rows)
            else:
                torch.index_select(states[:, :, :length], 0, rows, out=lines[:, :, :length])
            # Attention does not see these, but NaN in uninitialised memory would pass through its products.
            lines[:, :, length : layer.length] = 0
