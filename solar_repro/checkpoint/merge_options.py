"""What a merge can be asked for by name. Importing this module does not import torch."""

from typing import Literal, get_args

Method = Literal["average", "slerp", "ties", "dare", "task_arithmetic"]
METHODS: tuple[Method, ...] = get_args(Method)
TASK_VECTOR_METHODS: tuple[Method, ...] = ("ties", "dare", "task_arithmetic")
"""Methods that merge the parents' differences from a base."""
Dtype = Literal["bfloat16", "float16", "float32", "float64"]
"""Output dtypes."""
