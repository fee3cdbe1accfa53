"""Asking a local Hugging Face model, in the place of a server."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from solar_repro.data.generate import Request

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LocalModel:
    """A `Complete` that samples from a model; the same requests in the same batches give the same answers.

    The prompt is rendered with the tokenizer's chat template; the tokenizer needs one and a pad token.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    max_new_tokens: int = 512
    batch_size: int = 8

    def __call__(self, requests: Sequence[Request]) -> Iterator[str | None]:
        for start in range(0, len(requests), self.batch_size):
            yield from self._batch(requests[start : start + self.batch_size])

    def _batch(self, requests: Sequence[Request]) -> list[str]:
        import torch

        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": request.prompt}], tokenize=False, add_generation_prompt=True
            )
            for request in requests
        ]
        inputs = self.tokenizer(
            texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        ).to(self.model.device)
        first = requests[0]
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(first.seed + first.sample)
            ids = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=first.temperature > 0,
                temperature=first.temperature or None,
                max_new_tokens=self.max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
            )
        new = ids[:, inputs["input_ids"].shape[1] :]
        return self.tokenizer.batch_decode(new, skip_special_tokens=True)
