"""An NVIDIA device: whether it is there, its memory and events, what its driver says."""
