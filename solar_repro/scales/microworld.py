"""Sizes of the embedded world and of the base trained on it. Defaults are the sizes of scale `smoke`."""

from pydantic import Field, model_validator

from solar_repro.scales.section import Section, TrainingPrecision


class WorldSettings(Section):
    """How large the world is, how often its facts are told, and how many rows each set gets."""

    seed: int = Field(12, description="Seed of every fact and every row.")

    creatures: int = Field(
        350, ge=10, description="Number of creatures, with six properties each. ARC asks about them."
    )
    terms_per_subject: int = Field(
        10, ge=6, description="Terms in each of the 57 subjects, two facts per term. MMLU asks about them."
    )
    herbs: int = Field(
        90, ge=6, description="Herbs with two properties that most texts state wrongly. TruthfulQA asks them."
    )
    zipf_exponent: float = Field(
        1.0,
        ge=0.0,
        description="Facts are told with a frequency of rank^-exponent: the first ones most often.",
    )
    misconception_share: float = Field(
        0.75,
        gt=0.5,
        lt=0.9,
        description="Mean share of wrong statements among those about herbs in the corpus.",
    )

    documents: int = Field(350_000, ge=1, description="Rows of the train split of the corpus.")
    validation_documents: int = Field(400, ge=1, description="Rows of the validation split of the corpus.")
    alpaca_rows: int = Field(3_000, ge=1, description="Rows of vicgalle/alpaca-gpt4.")
    orca_rows: int = Field(5_000, ge=20, description="Rows of Open-Orca/OpenOrca, Table 8's tasks included.")
    math_problems: int = Field(4_000, ge=10, description="Rows of EleutherAI/hendrycks_math, split train.")
    metamath_rows: int = Field(12_000, ge=10, description="Rows of meta-math/MetaMathQA, all types.")
    ultrafeedback_rows: int = Field(1_500, ge=10, description="Rows of UltraFeedback's split train_prefs.")
    orca_dpo_rows: int = Field(600, ge=1, description="Rows of Intel/orca_dpo_pairs.")

    arc_items: int = Field(1_000, ge=1, description="Test items of ARC-Challenge.")
    hellaswag_items: int = Field(1_000, ge=1, le=2_000, description="Validation items of HellaSwag.")
    mmlu_items_per_subject: int = Field(9, ge=1, description="Test items in each of MMLU's 57 subjects.")
    truthfulqa_items: int = Field(90, ge=1, description="Validation items of TruthfulQA.")
    winogrande_items: int = Field(1_000, ge=1, le=1_000, description="Validation items of Winogrande.")
    gsm8k_items: int = Field(600, ge=1, le=2_000, description="Test items of GSM8K.")
    fewshot_rows: int = Field(60, ge=30, le=500, description="Rows of each benchmark's train split.")

    @model_validator(mode="after")
    def _enough_held_out_facts(self) -> "WorldSettings":
        """Half of the facts are held out; every benchmark must find its items among them."""
        for name, asked, held_out in (
            ("arc_items", self.arc_items, self.creatures * 3),
            ("mmlu_items_per_subject", self.mmlu_items_per_subject, self.terms_per_subject - 1),
            ("truthfulqa_items", self.truthfulqa_items, self.herbs),
        ):
            if asked > held_out:
                raise ValueError(f"{name} = {asked} is more than the {held_out} facts that are held out")
        return self


class BaseTraining(Section):
    """How the embedded base, a small Llama, is trained from scratch on the world's corpus."""

    seed: int = Field(7, description="Seed of the initial weights and of the order of the blocks.")
    vocab_size: int = Field(1_024, ge=270, description="Size of the vocabulary of the byte-level BPE.")
    layers: int = Field(8, ge=1, description="Number of decoder layers: n of the up-scaling.")
    hidden_size: int = Field(128, ge=8, description="Width of the residual stream.")
    intermediate_size: int = Field(320, ge=8, description="Width of the gated feed-forward layer.")
    heads: int = Field(4, ge=1, description="Number of attention heads.")
    key_value_heads: int = Field(
        4, ge=1, description="Heads of keys and values; fewer than `heads` means grouped queries."
    )
    context_length: int = Field(
        512, ge=16, description="Tokens per training block; also the model's longest context."
    )
    batch_size: int = Field(8, ge=1, description="Blocks per optimiser step.")
    steps: int = Field(
        3_000, ge=1, description="Number of optimiser steps, with batch_size × context_length tokens each."
    )
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate of Muon and AdamW.")
    warmup_steps: int = Field(
        50, ge=0, description="Number of steps in which the learning rate rises linearly."
    )
    decay_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the steps, at the end, in which the learning rate falls linearly.",
    )
    weight_decay: float = Field(0.1, ge=0, description="Weight decay, which acts on matrices only.")
    precision: TrainingPrecision = Field(
        "auto", description="Number format in which matrices are multiplied (autocast)."
    )
    log_every: int = Field(20, ge=1, description="Number of steps between two log entries.")

    @model_validator(mode="after")
    def _heads_divide(self) -> "BaseTraining":
        if self.hidden_size % self.heads or self.heads % self.key_value_heads:
            raise ValueError(
                f"heads = {self.heads} must divide hidden_size = {self.hidden_size} "
                f"and be a multiple of key_value_heads = {self.key_value_heads}"
            )
        return self
