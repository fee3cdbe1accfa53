"""Python runs this first where a test puts its folder on PYTHONPATH: launched processes shard on CPUs too.

accelerate shards a model on accelerators alone; torch does it on CPUs as well, with gloo.
"""

import os
from typing import Any

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    from accelerate import DistributedType, PartialState

    begin = PartialState.__init__

    def begun(self: PartialState, *arguments: Any, **settings: Any) -> None:
        begin(self, *arguments, **settings)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = begun

if folder := os.environ.get("READERS_OF_WEIGHTS"):
    from pathlib import Path

    from transformers import AutoModelForCausalLM

    read = AutoModelForCausalLM.from_pretrained

    def told(*arguments: Any, **settings: Any) -> Any:
        """Leave a note of each rank that reads a checkpoint's weights."""
        Path(folder, os.environ["RANK"]).touch()
        return read(*arguments, **settings)

    AutoModelForCausalLM.from_pretrained = told
