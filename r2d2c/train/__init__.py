"""Training: data, optimizers, metrics, checkpoints and run folders."""
