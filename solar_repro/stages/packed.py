"""The text of continued pretraining (Sec. 2), tokenised and packed once, before any GPU is taken.

All models that are trained on it share the tokenizer of their base, so they share its blocks.
"""

import time
from pathlib import Path

from solar_repro.checkpoint.load import load_training_tokenizer
from solar_repro.contract import PackedInputs, PackedSettings
from solar_repro.data.card import write_corpus_card
from solar_repro.data.locate import fingerprint, text_location
from solar_repro.data.packed_text import corpus_figures, write_packed_text
from solar_repro.data.packing import pack_text, refuse_short_text
from solar_repro.data.text_stream import load_text
from solar_repro.store.disk import make_shared_folder
from solar_repro.store.result import CARDS, Log
from solar_repro.store.resume import ResumeFolder


def run(
    out: Path, log: Log, settings: PackedSettings, inputs: PackedInputs, resume: ResumeFolder | None = None
) -> None:
    """Write `tokens` tokens of the text as blocks of `max_length`; the log gets counts and tokens per second.

    The text is repeated as often as needed. Whole shards of blocks are kept where `resume` says, so that the
    run after a killed one goes on behind them.
    """
    location = text_location(settings.id, inputs.mirror)
    load_text(location, inputs.held_out_split, settings.column)
    tokenizer = load_training_tokenizer(inputs.model)
    once, endless = (
        load_text(location, settings.split, settings.column, seed=settings.seed, epochs=epochs)
        for epochs in (1, None)
    )
    refuse_short_text(once, tokenizer, settings.max_length, settings.id)
    about = {"used": location.used, "split": settings.split, "fingerprint": fingerprint(location)}
    if resume:
        make_shared_folder(resume.folder)
    resumed = resume is not None and any(resume.folder.iterdir())
    started = time.monotonic()
    blocks, report = pack_text(
        endless,
        tokenizer,
        settings.max_length,
        key=f"{about['fingerprint']} {settings.split} {settings.column} {settings.seed}",
        max_tokens=settings.tokens,
        num_proc=inputs.num_proc,
        cache_dir=resume.folder if resume else None,
    )
    seconds = time.monotonic() - started
    write_packed_text(out, blocks, report, tokenizer)
    write_corpus_card(out / CARDS, about, report, blocks, tokenizer.bos_token_id)
    log(corpus_figures(report) | {name: report[name] for name in ("blocks", "tokens_left_out")})
    if not resumed:
        log({"tokens_per_second": report["tokens"] / seconds})
