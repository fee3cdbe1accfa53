"""The checkpoint engine: safetensors as bytes (Sec. 2, depthwise scaling) and merge arithmetic (Sec. 4.1)."""
