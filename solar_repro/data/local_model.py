"""Asking a local Hugging Face model in the place of a server."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from solar_repro.checkpoint.tokenizer import set_pad_token
from solar_repro.data.answer_file import Answer, AnswerFile, Counts
from solar_repro.data.rephrase_by_model import Request
from solar_repro.errors import UserError
from solar_repro.safety.sandbox import render_chat_template

BATCH_REQUESTS = 8


class LocalModel:
    """A `Complete` that samples from a model and keeps every answer in a file.

    Each request draws from a random generator of its own, so that its answer does not depend on what is asked
    beside it. Prompts are rendered with the tokenizer's chat template; without one, UserError is raised.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, answers: AnswerFile
    ) -> None:
        if tokenizer.chat_template is None:
            raise UserError(
                f"model {tokenizer.name_or_path}: its tokenizer has no chat template; take a model that was "
                "tuned on instructions (data.math_generation.model)"
            )
        self._model, self._tokenizer = model, tokenizer
        self._answers, self.counts = answers, Counts()
        set_pad_token(tokenizer)

    def __call__(self, requests: Sequence[Request]) -> Iterator[str | None]:
        missing = self._answers.missing(requests)
        self.counts.cached += len(requests) - len(missing)
        texts = self._rendered(missing) if missing else []
        for start in range(0, len(missing), BATCH_REQUESTS):
            part = slice(start, start + BATCH_REQUESTS)
            for request, answer in zip(missing[part], self._batch(missing[part], texts[part]), strict=True):
                self._answers.keep(request, answer)
                self.counts.answered += 1
        for request in requests:
            answer = self._answers.get(request)
            self.counts.prompt_tokens += answer.prompt_tokens
            self.counts.completion_tokens += answer.completion_tokens
            yield answer.text

    def _rendered(self, requests: Sequence[Request]) -> list[str]:
        conversations = [[{"role": "user", "content": request.prompt}] for request in requests]
        tokens = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items()}
        template = self._tokenizer.get_chat_template()
        return render_chat_template(template, tokens, conversations, f"model {self._tokenizer.name_or_path}")

    def _batch(self, requests: Sequence[Request], texts: list[str]) -> list[Answer]:
        inputs = self._tokenizer(
            texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        ).to(self._model.device)
        with torch.no_grad():
            ids = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=False,
                logits_processor=LogitsProcessorList([_GumbelNoise(requests)]),
                max_new_tokens=self._answers.max_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                eos_token_id=self._tokenizer.eos_token_id,
            )
        new = ids[:, inputs["input_ids"].shape[1] :]
        answers = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        asked = inputs["attention_mask"].sum(1).tolist()
        given = new.ne(self._tokenizer.pad_token_id).sum(1).tolist()
        return [Answer(*parts) for parts in zip(answers, asked, given, strict=True)]


class _GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise to logits / temperature, row by row: the maximum is then a sample of the softmax."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._rows = []
        for request in requests:
            digest = hashlib.sha256(json.dumps(asdict(request), sort_keys=True).encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            self._rows.append((request.temperature, generator))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = scores.float().clone()
        for row, (temperature, generator) in zip(drawn, self._rows, strict=True):
            if temperature:
                noise = torch.empty(row.shape).exponential_(generator=generator).log()
                row.div_(temperature).sub_(noise.to(row.device))
        return drawn
