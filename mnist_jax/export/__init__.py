"""A trained trial as one file for other programs: safetensors, StableHLO or ONNX."""
