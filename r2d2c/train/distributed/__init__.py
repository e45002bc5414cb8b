"""Training with several processes, which `torchrun` starts: shares of every batch, or groups of tasks.

`Alone` is what a training asks of the processes it runs in; `DataParallel` and `TaskParallel` answer for several.
"""
