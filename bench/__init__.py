"""Side-by-side benchmarks: ours against hand-written PyTorch of the same work, in one run, on one thread."""
