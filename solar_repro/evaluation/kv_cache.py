"""Key/value caches written in place: room for new tokens is set aside once, nothing is copied per step."""

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """A layer's keys and values: buffers [rows, heads, capacity, head size], of which `length` is filled."""

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
        """Write the new tokens behind the filled part; the views of everything filled are returned."""
        end = self.length + key_states.shape[-2]
        self.key_buffer[:, :, self.length : end] = key_states
        self.value_buffer[:, :, self.length : end] = value_states
        self.length = end
        self._show()
        return self.keys, self.values


def empty_cache() -> DynamicCache:
    """A cache for the first tokens of sequences (full attention in every layer)."""
    return DynamicCache()


def select_rows(cache: Cache, rows: Sequence[int], length: int, extra: int) -> Cache:
    """A cache of these rows (repeats allowed) of another, cut to `length` tokens, with room for `extra`."""
    index = torch.as_tensor(rows, device=cache.layers[0].keys.device)
    layers = []
    for layer in cache.layers:
        buffers = []
        for states in (layer.keys, layer.values):
            _, heads, _, size = states.shape
            buffer = states.new_empty(len(rows), heads, length + extra, size)
            torch.index_select(states[:, :, :length], 0, index, out=buffer[:, :, :length])
            buffers.append(buffer)
        layers.append(PreallocatedLayer(*buffers, length))
    return Cache(layers=layers)
