"""Forward-forward (Hinton 2022): each layer learns to be active on data with its label, silent on data with a wrong one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.rules.stack import Layer, Rule, Stack, rms_norm


class Goodness(Rule):
    """Per layer mean_b softplus(sharp (threshold − G⁺)) + mean_b softplus(sharp (G⁻ − threshold)), G = mean h².

    Between layers h / rms(h). The label lies over the first C numbers of the input, `overlay` · one-hot; a neutral
    input has overlay / C there. negatives: wrong labels `uniform`, or `hard`: drawn as the read-out's softmax on the
    neutral input draws them. half: the first half of a batch is positive, the second negative.
    infer: `classifier` (the read-out) or `labels` (which label gives most goodness, over layers from `skip` on).
    """

    def __init__(
        self,
        net: Stack,
        threshold: float = 1.0,
        sharp: float = 1.0,
        negatives: str = "hard",
        half: bool = False,
        infer: str = "classifier",
        overlay: float = 1.0,
        skip: int = 0,
        readout_rate: float = 1.0,
        norm_input: bool = False,
    ) -> None:
        super().__init__(net)
        self.threshold, self.sharp, self.negatives, self.split = threshold, sharp, negatives, half
        self.infer, self.overlay, self.skip, self.norm_input = infer, overlay, skip, norm_input
        self.rates = {f"net.layers.{len(net.layers) - 1}.": readout_rate}
        self.neutral_pass = infer == "classifier" or negatives == "hard"

    def overlaid(self, x: Tensor, label: Tensor | None) -> Tensor:
        """A copy of x with the label (None: a neutral one) over its first numbers."""
        shape, classes = x.shape, self.net.classes
        x = x.flatten(1).clone()
        if label is None:
            x[:, :classes] = self.overlay / classes
        else:
            x[:, :classes] = 0.0
            x.scatter_(1, label[:, None], self.overlay)
        x = x.view(shape)
        return rms_norm(x) if self.norm_input else x

    def wrong(self, y: Tensor, logits: Tensor | None) -> Tensor:
        if self.negatives == "uniform":
            return (y + torch.randint(1, self.net.classes, y.shape, device=y.device)) % self.net.classes
        assert logits is not None
        chance = torch.softmax(logits, 1).scatter(1, y[:, None], 0.0) + 1e-6
        chance.scatter_(1, y[:, None], 0.0)
        return torch.multinomial(chance, 1)[:, 0]

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        loss, logits = torch.zeros(()), None
        if self.neutral_pass:
            with torch.no_grad():
                h = self.features(self.overlaid(x, None))
            logits = self.net.top(h)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            logits = logits.detach()
        size = len(y)
        if self.split:
            middle = size // 2
            bad = self.wrong(y[middle:], None if logits is None else logits[middle:])
            seen = self.overlaid(x, torch.cat([y[:middle], bad]))
        else:
            middle = size
            seen = torch.cat([self.overlaid(x, y), self.overlaid(x, self.wrong(y, logits))])
        sign = torch.full((len(seen),), self.sharp, device=x.device)
        sign[:middle] = -self.sharp
        weight = torch.full((len(seen),), 1.0 / (len(seen) - middle), device=x.device)
        weight[:middle] = 1.0 / middle
        for layer in self.net.hidden:
            h = layer(seen)
            goodness = h.square().flatten(1).mean(1)
            loss_of = (F.softplus(sign * (goodness - self.threshold)) * weight).sum()
            loss_of.backward()
            seen = rms_norm(h.detach())
        return loss.detach()

    def features(self, x: Tensor) -> Tensor:
        for layer in self.net.hidden:
            x = rms_norm(layer(x))
        return x

    def logits(self, x: Tensor) -> Tensor:
        if self.infer == "classifier":
            out: Tensor = self.net.top(self.features(self.overlaid(x, None)))
            return out
        found = []
        for label in range(self.net.classes):
            h = self.overlaid(x, torch.full((len(x),), label, device=x.device))
            total = torch.zeros(len(x), device=x.device)
            for k, layer in enumerate(self.net.hidden):
                assert isinstance(layer, Layer)
                h = layer(h)
                if k >= self.skip:
                    total = total + h.square().flatten(1).mean(1)
                h = rms_norm(h)
            found.append(total)
        return torch.stack(found, 1)
