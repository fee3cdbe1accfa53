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

if folder_of_meshes := os.environ.get("SHAPES_OF_MESHES"):
    from pathlib import Path

    from torch.distributed import fsdp

    shard = fsdp.fully_shard

    def noted(*arguments: Any, mesh: Any, **settings: Any) -> Any:
        """Leave a note of the copies of a model and the processes of each, as in `2x2`."""
        Path(folder_of_meshes, "x".join(map(str, mesh.shape))).touch()
        return shard(*arguments, mesh=mesh, **settings)

    fsdp.fully_shard = noted
