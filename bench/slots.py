"""Memory stores: the time of a step of a sequence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.measure import Result, Setting, interleaved
from bench.specs import compiled, head
from r2d2c.loops import NEVER

DIGITS = 8
# What every slot is computed to: one layer, two, or the gates of an LSTM on what the slot holds.
CELLS = {
    "two layers": "rep = concat(state, token) |> linear(S) |> gelu |> linear(S)",
    "layer": "rep = tanh(linear(concat(state, token), S))",
    "gates": "both = concat(state, token)\n"
    "c = sigmoid(linear(both, S)) * tanh(linear(both, S)) + sigmoid(linear(both, S)) * state\n"
    "rep = sigmoid(linear(both, S)) * tanh(c)",
}


def spec(width: int, slots: int, tokens: int, cell: str) -> str:
    """A memory of tokens and states that predicts the next token from all of its slots and their ages."""
    text = head("slots", {"S": width, "K": slots, "V": tokens}, "f32[B, T, V]", "i64[B, T]")
    each = CELLS[cell].replace("\n", "\n      ")
    return (
        f"{text}memories:\n  m:\n    slots: K\n"
        '    fields: {state: "f32[S]", token: "f32[V]", surprise: f32}\n'
        f"    each_slot: |\n      {each}\n"
        "loops:\n  read(x):\n    over: T\n    each: {xt: x}\n    stateful: true\n"
        "    carry:\n      last: f32[B, S] = zeros\n      pred: f32[B, V] = zeros\n    body: |\n"
        "      m = write(m, state=last, token=xt, surprise=missed(pred, xt))\n"
        "      last = stop(m.newest.rep)\n"
        f"      out = linear(concat(flatten(m.rep), flatten(bits(m.age, {DIGITS}))), V)\n"
        "      pred = stop(softmax(out))\n"
        "tasks:\n  t:\n    behavior: out = read(x).out.steps\n"
        "    distance: cross_entropy(reshape(out, (-1, V)), reshape(y, -1))\n"
        "outputs:\n  out: t.out\n"
    )


def tokens_of(size: int, length: int, tokens: int, device: str) -> tuple[Tensor, Tensor]:
    """Random tokens, and the next ones."""
    drawn = torch.randint(0, tokens, (size, length + 1), generator=torch.Generator().manual_seed(0))
    return F.one_hot(drawn[:, :-1], tokens).float().to(device), drawn[:, 1:].contiguous().to(device)


class Gates(nn.Module):
    """The gates of an LSTM, on what a slot holds."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.width, self.gates = width, nn.Linear(width + tokens, 4 * width)

    def forward(self, both: Tensor) -> Tensor:
        i, g, f, o = self.gates(both).chunk(4, -1)
        c = torch.sigmoid(i) * torch.tanh(g) + torch.sigmoid(f) * both[..., : self.width]
        return torch.sigmoid(o) * torch.tanh(c)


class EveryStep:
    """The same by hand: at every step all slots are computed again, and a backward goes through them."""

    def __init__(self, width: int, slots: int, tokens: int, cell: str, device: str) -> None:
        self.width, self.slots, self.tokens, self.device = width, slots, tokens, device
        layer = nn.Sequential(nn.Linear(width + tokens, width), nn.Tanh())
        two = nn.Sequential(nn.Linear(width + tokens, width), nn.GELU(), nn.Linear(width, width))
        cells = {"layer": layer, "two layers": two, "gates": Gates(width, tokens)}
        self.cell: nn.Module = cells[cell].to(device)
        self.out = nn.Linear(slots * (width + DIGITS), tokens).to(device)

    def learn(self, x: Tensor, y: Tensor) -> None:
        """Accumulate the gradients of all steps."""
        size, length, device = len(x), x.shape[1], self.device
        state = torch.zeros(size, self.slots, self.width, device=device)
        token = torch.zeros(size, self.slots, self.tokens, device=device)
        surprise = torch.zeros(size, self.slots, device=device)
        age = torch.full((size, self.slots), NEVER, device=device)
        last = torch.zeros(size, self.width, device=device)
        pred = torch.zeros(size, self.tokens, device=device)
        rows, places = torch.arange(size, device=device), torch.arange(DIGITS, device=device)
        for t in range(length):
            missed = 1 - (pred * x[:, t]).sum(1) if t else torch.zeros(size, device=device)
            chosen = surprise.masked_fill(age == NEVER, -torch.inf).argmin(1)
            state[rows, chosen], token[rows, chosen], surprise[rows, chosen] = last, x[:, t], missed
            age = age + (age < NEVER - 1)
            age[rows, chosen] = 0
            rep = self.cell(torch.cat([state, token], 2))
            digits = (age.clamp(max=2**DIGITS - 1).unsqueeze(2) >> places) & 1
            out = self.out(torch.cat([rep.flatten(1), digits.flatten(1).float()], 1))
            (F.cross_entropy(out, y[:, t]) / length).backward()
            last, pred = rep.detach()[rows, age.argmin(1)], out.detach().softmax(1)


class Recurrent(nn.Module):
    """An LSTM with backpropagation through time."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(tokens, width, batch_first=True), nn.Linear(width, tokens)

    def learn(self, x: Tensor, y: Tensor) -> None:
        logits = self.out(self.lstm(x)[0])
        F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()


def step(
    setting: Setting, against: str, cell: str, width: int, slots: int, tokens: int, size: int, length: int
) -> Result:
    """A learning pass, by step of the sequence, against every step by itself or against an LSTM."""
    if setting.quick:
        width, slots, tokens, size, length = 4, 3, 5, 2, 6
    x, y = tokens_of(size, length, tokens, setting.device)
    model = compiled(spec(width, slots, tokens, cell), setting.device)
    other: EveryStep | Recurrent = (
        Recurrent(width, tokens).to(setting.device)
        if against == "lstm"
        else EveryStep(width, slots, tokens, cell, setting.device)
    )

    def ours() -> None:
        model.zero_grad()
        model.learn(x=x, y=y)

    parts = [other] if isinstance(other, Recurrent) else [other.cell, other.out]

    def theirs() -> None:
        for part in parts:
            part.zero_grad()
        other.learn(x, y)

    return interleaved(ours, theirs, setting, seconds=10.0)
