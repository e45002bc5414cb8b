"""From flat graphs to torch.fx. The only part of the compiler, beside training, that imports torch."""
