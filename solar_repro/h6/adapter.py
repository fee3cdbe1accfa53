"""lm-evaluation-harness's Hugging Face model, several times faster with the same scores.

Prompts, tokenisation, truncation and the sums are the harness's; only the order of the arithmetic differs. A
prefix that several requests share is computed once, batches are formed by tokens, logits are computed only
where a score is read, and generation writes into caches that are allocated beforehand.
"""

import itertools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from solar_repro.errors import UserError
from solar_repro.layers.cpu_attention import use_scoring_attention
from solar_repro.layers.fused_scoring import fuse_for_scoring
from solar_repro.shared_prefix.decode import StopStrings, decode
from solar_repro.shared_prefix.shared_forward import CACHE_BUDGETS, SharedPrefixScorer, shares_prefixes

TEXTS_AT_ONCE = 512
"""Texts that are tokenised at once."""
HARMLESS_GENERATION_KEYS = {
    "_from_model_config", "bos_token_id", "do_sample", "eos_token_id", "max_length", "max_new_tokens",
    "output_attentions", "output_hidden_states", "pad_token_id", "temperature", "top_k", "top_p",
    "transformers_version", "use_cache",
}  # fmt: skip
"""Entries of a generation_config that leave greedy decoding as it is."""


class SharedPrefixLM(HFLM):
    """A drop-in for `HFLM` with a loaded decoder-only model, with the same scores up to rounding.

    `batch_tokens` bounds the positions of one forward pass, padding included. `encodings` keeps token ids,
    and models with the same tokenizer may share it. None for `max_length` means the model's own context.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int,
        max_length: int | None = None,
        encodings: dict[Any, Any] | None = None,
    ) -> None:
        fuse_for_scoring(model)
        use_scoring_attention(model)
        log = logging.getLogger("lm_eval.models.huggingface")
        level = log.level
        log.setLevel(logging.ERROR)  # it warns of every model handed over ready
        super().__init__(pretrained=model, tokenizer=tokenizer, max_length=max_length, batch_size=1)
        log.setLevel(level)
        self.batch_tokens = batch_tokens
        self.scorer = SharedPrefixScorer(model, batch_tokens, self.softmax_dtype)
        self.encodings = {} if encodings is None else encodings
        self.decoded_tokens = 0
        self.generated_tokens = 0

    @property
    def fast(self) -> bool:
        """Whether prefixes are shared. Where they are not, the stock adapter's own code scores."""
        return shares_prefixes(self.model, self.max_length)

    @property
    def tokens_computed(self) -> int:
        """Positions that have gone through the model so far, padding included."""
        return self.scorer.tokens_computed + self.decoded_tokens

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As the harness: each continuation's log-likelihood (nats), and whether it is the greedy one."""
        pairs = [request.args for request in requests]
        encoded = self.encode_pairs(pairs)
        return self._loglikelihood_tokens(
            [(pair, *tokens) for pair, tokens in zip(pairs, encoded, strict=True)], disable_tqdm=True
        )

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, Any, Any]], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if not self.fast:
            plain = [(text, list(context), list(continuation)) for text, context, continuation in requests]
            self.batch_size_per_gpu = max(1, self.batch_tokens // self.max_length)
            return super()._loglikelihood_tokens(plain, disable_tqdm=True, override_bs=override_bs)
        sequences, targets = [], []
        for text, context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise UserError(
                    f"continuation {text and text[1]!r}: has {len(continuation)} tokens, but the model "
                    f"takes 1 to {self.max_length}; use a model with a longer context"
                )
            whole = np.concatenate([context, continuation]).astype(np.int32)
            sequences.append(whole[-(self.max_length + 1) : -1])
            targets.append(np.asarray(continuation, dtype=np.int32))
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)

        def done(finished: list[int], sums: np.ndarray, greedy: np.ndarray) -> None:
            for index, value, best in zip(finished, sums.tolist(), greedy.tolist(), strict=True):
                answers[index] = (value, best)
                if requests[index][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], answers[index])

        self.scorer.score(sequences, targets, done)
        return answers

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Token ids (int32) of contexts and continuations, split as the harness does, each encoded once."""
        missing = list(dict.fromkeys(pair for pair in pairs if pair not in self.encodings))
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            self._encode_missing(missing[start : start + TEXTS_AT_ONCE])
        return [self.encodings[pair] for pair in pairs]

    def _encode_missing(self, pairs: Sequence[tuple[str, str]]) -> None:
        # The harness moves a context's trailing spaces to the continuation, then encodes the joined text.
        stripped = {pair: pair[0].rstrip() for pair in pairs}
        texts = list(dict.fromkeys(text for text in stripped.values() if text))
        contexts = dict(zip(texts, self.encode_texts(texts), strict=True))
        joined = [pair for pair in pairs if stripped[pair]]
        whole = self.encode_texts([context + continuation for context, continuation in joined])
        for pair, tokens in zip(joined, whole, strict=True):
            context = contexts[stripped[pair]]
            self.encodings[pair] = (context, tokens[len(context) :].copy())
        for pair in pairs:
            if not stripped[pair]:  # empty or blank contexts are rare: the harness's own code
                self.encodings[pair] = self._encode_blank(*pair)

    def _encode_blank(self, context: str, continuation: str) -> tuple[np.ndarray, np.ndarray]:
        if context:
            encoded = self._encode_pair(context, continuation)
        else:
            tokens = self.tok_encode(continuation, add_special_tokens=False)
            prefix = self.prefix_token_id
            encoded = ([prefix], tokens) if tokens[0] != prefix else (tokens[:1], tokens[1:])
        return np.array(encoded[0], dtype=np.int32), np.array(encoded[1], dtype=np.int32)

    def encode_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The harness's `tok_encode` of texts: adds special tokens unless a text spells out its BOS."""
        prefix = self.tokenizer.decode(self.prefix_token_id)
        encoded: list[np.ndarray] = []
        for bare, run in itertools.groupby(texts, key=lambda text: has_bos_prefix(text, prefix)):
            ids = self.tokenizer(list(run), add_special_tokens=not bare, verbose=False)["input_ids"]
            encoded.extend(np.array(tokens, dtype=np.int32) for tokens in ids)
        return encoded

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """As the harness: greedy text up to the first stop string. The stock adapter does any sampling."""
        answers: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        for members in groups.values():
            settings = normalize_gen_kwargs(requests[members[0]].args[1], self.max_gen_toks)
            texts = [requests[index].args[0] for index in members]
            if (
                not self.fast
                or settings.get("temperature")
                or settings.get("do_sample")
                or self._changes_greedy()
            ):
                self.batch_size_per_gpu = max(1, self.batch_tokens // self.max_length)
                found = super().generate_until([requests[index] for index in members], disable_tqdm=True)
                for index, text in zip(members, found, strict=True):
                    answers[index] = text
                continue
            until = handle_stop_sequences(
                settings["until"], eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False)
            )
            for batch, found in self._decode_batches(texts, until, settings["max_gen_toks"]):
                for number, text in zip(batch, found, strict=True):
                    answers[members[number]] = text
                    self.cache_hook.add_partial("generate_until", requests[members[number]].args, text)
        return answers

    def _changes_greedy(self) -> bool:
        """Whether the checkpoint's generation_config changes greedy decoding (a repetition penalty, say)."""
        return not set(self.model.generation_config.to_diff_dict()) <= HARMLESS_GENERATION_KEYS

    def prompt_tokens(self, texts: Sequence[str], max_new: int) -> list[np.ndarray]:
        """Token ids of prompts, cut on the left to leave room for `max_new`; UserError if there is none."""
        room = self.max_length - max_new
        if room <= 0:
            raise UserError(
                f"generating {max_new} tokens: the model's context holds only {self.max_length}; leave "
                "this task out or use a model with a longer context"
            )
        return [tokens[-room:] for tokens in self.encode_prompts(texts)]

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int32) of prompts, each encoded once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.encodings]
        self.encodings.update(zip(missing, self.encode_texts(missing), strict=True))
        return [self.encodings[text] for text in texts]

    def _decode_batches(
        self, texts: Sequence[str], until: Sequence[str], max_new: int
    ) -> Iterator[tuple[list[int], list[str]]]:
        """Yield batches of prompts that were continued: their numbers and the new texts."""
        prompts = self.prompt_tokens(texts, max_new)
        ends = self.model.generation_config.eos_token_id
        end_tokens = set(ends) if isinstance(ends, list) else {ends} - {None}
        stop = StopStrings(self.tokenizer, until, end_tokens)
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        most = max(1, CACHE_BUDGETS * self.batch_tokens // (len(prompts[order[0]]) + max_new))
        # All batches have one size, for a step of few rows takes hardly less time than one of many.
        size = math.ceil(len(order) / math.ceil(len(order) / most))
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            new, computed = decode(
                self.model,
                [prompts[index] for index in batch],
                [max_new] * len(batch),
                pick=lambda logits, rows: logits.argmax(dim=-1),
                finished=lambda row, tokens: stop.found(tokens),
                batch_tokens=self.batch_tokens,
            )
            self.decoded_tokens += computed
            self.generated_tokens += sum(map(len, new))
            yield batch, [postprocess_generated_text(self.tok_decode(tokens), until, None) for tokens in new]

    def exceeds(self, request: Instance) -> bool:
        """Whether the harness cuts the beginning off a request's prompt, to fit the model's context."""
        if request.request_type == "generate_until":
            settings = normalize_gen_kwargs(request.args[1], self.max_gen_toks)
            room = self.max_length - settings["max_gen_toks"]
            return len(self.encode_prompts([request.args[0]])[0]) > room
        ((context, continuation),) = self.encode_pairs([request.args])
        return len(context) + len(continuation) > self.max_length + 1
