"""Streams tensors through a merge: a few threads read, merge and write chunks in bounded memory."""

import math
import os
from collections.abc import Sequence
from itertools import combinations_with_replacement
from threading import Lock, Thread

import torch

from solar_repro.checkpoint.headers import DTYPE_BITS
from solar_repro.checkpoint.merge_methods import (
    close_histograms,
    histograms,
    inner_products,
    merge_block,
)
from solar_repro.checkpoint.merge_schedule import ChunkStatistics, ChunkTask, TensorMerge, schedule
from solar_repro.errors import UserError
from solar_repro.safety.regular_files import regular_descriptor
from solar_repro.store.hashing import FollowingHasher
from solar_repro.terminal.progress import Progress

WORKERS = 4  # two compute while two wait for the disk
BLOCK_ELEMENTS = 1 << 18  # so many elements stay in the processor's cache
BUFFER_BYTES = 48 << 20  # for all inputs of one worker
BASE_PRODUCT = (-1, -1)  # key of the base's inner product with itself, which only reveals NaN and Inf


def stream_merge(
    tensors: Sequence[TensorMerge], accumulate: str, device: str, hasher: FollowingHasher, progress: Progress
) -> None:
    """Merge all tensors into their files, which exist at full size; the first error ends it and is raised.

    `accumulate` names the dtype of the arithmetic, float32 or float64.
    """
    widest = (
        max(DTYPE_BITS[part.dtype] for tensor in tensors for part in (*tensor.inputs, tensor.output)) // 8
    )
    most_inputs = max(len(tensor.inputs) for tensor in tensors) + 1
    chunk_elements = max(
        BLOCK_ELEMENTS, BUFFER_BYTES // (widest * most_inputs) // BLOCK_ELEMENTS * BLOCK_ELEMENTS
    )
    tasks = list(schedule(tensors, chunk_elements))
    run = _Run(tasks, hasher, progress)
    threads = torch.get_num_threads()
    workers = [
        Thread(target=run.work, args=(_Buffers(most_inputs, chunk_elements, widest, accumulate, device),))
        for _ in range(min(WORKERS, len(tasks)))
    ]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except BaseException as interruption:
        run.fail(interruption)
        for worker in workers:
            worker.join()
    finally:
        torch.set_num_threads(threads)
    if run.error is not None:
        raise run.error


class _Buffers:
    """One worker's memory: raw bytes of each input and the output, and a wide block of each."""

    def __init__(self, inputs: int, chunk_elements: int, itemsize: int, accumulate: str, device: str) -> None:
        self.raw = [torch.empty(chunk_elements * itemsize, dtype=torch.uint8) for _ in range(inputs)]
        self.views = [memoryview(raw.numpy()) for raw in self.raw]
        dtype = getattr(torch, accumulate)
        self.wide = [torch.empty(BLOCK_ELEMENTS, dtype=dtype, device=device) for _ in range(inputs)]


class _Run:
    """State that the workers share."""

    def __init__(self, tasks: list[ChunkTask], hasher: FollowingHasher, progress: Progress) -> None:
        self.tasks, self.hasher, self.progress = tasks, hasher, progress
        self.next = 0
        self.lock = Lock()
        self.error: BaseException | None = None

    def work(self, buffers: _Buffers) -> None:
        torch.set_num_threads(1)  # for this thread only, because the workers run in parallel
        try:
            while (task := self._take()) is not None:
                self._perform(task, buffers)
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        with self.lock:
            self.error = self.error or error
        for task in self.tasks:  # no worker may wait for a pass that will not end
            for done in task.tensor.passes_done:
                done.set()

    def _take(self) -> ChunkTask | None:
        with self.lock:
            if self.error is not None or self.next == len(self.tasks):
                return None
            self.next += 1
            ahead = self.tasks[min(self.next + WORKERS, len(self.tasks) - 1)]
            task = self.tasks[self.next - 1]
        if ahead.step == 0 and hasattr(os, "posix_fadvise"):
            for part in ahead.tensor.inputs:
                size = DTYPE_BITS[part.dtype] // 8
                start, length = part.offset + ahead.start * size, (ahead.stop - ahead.start) * size
                with regular_descriptor(part.file) as file:
                    os.posix_fadvise(file, start, length, os.POSIX_FADV_WILLNEED)
        return task

    def _perform(self, task: ChunkTask, buffers: _Buffers) -> None:
        tensor, last = task.tensor, task.step == len(task.tensor.passes_done) - 1
        inputs = [self._read(task, number, buffers) for number in range(len(tensor.inputs))]
        if task.step:
            tensor.passes_done[task.step - 1].wait()
            if self.error is not None:
                return
        output = buffers.raw[-1].view(torch_dtype(tensor.output.dtype))
        found = ChunkStatistics()
        for start in range(0, task.stop - task.start, BLOCK_ELEMENTS):
            block = slice(start, min(start + BLOCK_ELEMENTS, task.stop - task.start))
            wide = [
                memory[: block.stop - start].copy_(raw[block])
                for memory, raw in zip(buffers.wide, inputs, strict=False)
            ]
            base = wide.pop() if tensor.has_base else None
            if task.step == 0:
                found.add_products(inner_products(wide))
                if base is not None:
                    found.add_products({BASE_PRODUCT: inner_products([base])[0, 0]})
            if last:
                number = (task.start + start) // BLOCK_ELEMENTS
                merged = merge_block(tensor.recipe, tensor.findings, tensor.name, number, wide, base)
                low, high = merged.aminmax()
                if not max(-low.item(), high.item()) <= torch.finfo(output.dtype).max:
                    _refuse_not_finite(tensor, inputs)
                    raise UserError(
                        f"tensor {tensor.name!r}: merged values overflow {tensor.output.dtype}; "
                        "choose another dtype or other weights"
                    )
                output[block].copy_(merged)
            elif tensor.recipe.method == "ties":
                deltas = [parent.sub_(base) for parent in wide]
                found.add_counts(histograms(tensor.findings, task.step, deltas))
        if not all(map(math.isfinite, found.gram.values())):
            _refuse_not_finite(tensor, inputs)
            raise UserError(f"tensor {tensor.name!r}: its squares overflow; accumulate in float64")
        if last:
            self._write(task, buffers)
        self._close(task, found)

    def _read(self, task: ChunkTask, number: int, buffers: _Buffers) -> torch.Tensor:
        part = task.tensor.inputs[number]
        size = DTYPE_BITS[part.dtype] // 8
        length = (task.stop - task.start) * size
        view, done = buffers.views[number][:length], 0
        with regular_descriptor(part.file) as file:
            while done < length:
                count = os.preadv(file, [view[done:]], part.offset + task.start * size + done)
                if count == 0:
                    raise UserError(
                        f"{part.file}: ends in the middle of {task.tensor.name!r}, as it was changed during "
                        "the merge; merge again"
                    )
                done += count
        return buffers.raw[number][:length].view(torch_dtype(part.dtype))

    def _write(self, task: ChunkTask, buffers: _Buffers) -> None:
        target = task.tensor.output
        size = DTYPE_BITS[target.dtype] // 8
        offset, length = target.offset + task.start * size, (task.stop - task.start) * size
        done = 0
        with regular_descriptor(target.file, os.O_WRONLY) as file:
            while done < length:
                done += os.pwrite(file, buffers.views[-1][done:length], offset + done)
        self.hasher.written(target.file, offset, length)
        with self.lock:
            self.progress.advance(length)

    def _close(self, task: ChunkTask, found: ChunkStatistics) -> None:
        """Keep what a chunk found; the last chunk of a pass combines all in the order of the chunks."""
        tensor, findings = task.tensor, task.tensor.findings
        with self.lock:
            tensor.parts[task.chunk] = found
            if len(tensor.parts) < task.chunks:
                return
        parts = [tensor.parts[chunk] for chunk in range(task.chunks)]
        tensor.parts = {}
        if task.step == 0:
            pairs = combinations_with_replacement(range(len(tensor.recipe.weights)), 2)
            findings.gram = {pair: math.fsum(part.gram.get(pair, 0.0) for part in parts) for pair in pairs}
        if parts[0].counts:
            counts = [sum(of_parent) for of_parent in zip(*(part.counts for part in parts), strict=True)]
            close_histograms(findings, task.step, counts, tensor.recipe.density, tensor.elements)
        tensor.passes_done[task.step].set()


def _refuse_not_finite(tensor: TensorMerge, inputs: Sequence[torch.Tensor]) -> None:
    for part, values in zip(tensor.inputs, inputs, strict=True):
        if not values.isfinite().all():
            raise UserError(f"{part.file}: tensor {tensor.name!r} holds NaN or Inf; take another checkpoint")


def torch_dtype(dtype: str) -> torch.dtype:
    """Return the torch dtype of a floating-point dtype of safetensors."""
    return {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}[dtype]
