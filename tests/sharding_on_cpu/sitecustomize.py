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
