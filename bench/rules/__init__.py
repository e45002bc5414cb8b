"""Every credit rule by hand, in plain PyTorch: what the compiler is measured and checked against.

Each rule is a module over a `Stack` of layers: ``learn(x, y)`` leaves the rule's update in ``.grad`` and gives the
loss, ``logits(x)`` is what the trained model answers. Nothing here imports r2d2c.
"""
