"""`Link`: values on their way from one process to the next, while both compute."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

DEPTH = 2  # batches on their way: one that is read, one that is computed on
END = 1 << 30  # instead of flags: no batch comes any more
_KINDS = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
_DIMS = 8


@dataclass(frozen=True, slots=True)
class Message:
    """What a process tells the next one of a batch."""

    flags: int
    values: tuple[torch.Tensor, ...]


def pack(message: Message, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A head i64[2 + 10·count] with flags, bytes and shapes, and the numbers u8[bytes]."""
    head = [message.flags, 0]
    parts = []
    for value in message.values:
        shape = list(value.shape)
        head += [_KINDS.index(value.dtype), len(shape), *shape, *[0] * (_DIMS - len(shape))]
        parts.append(value.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8))
    body = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)
    head[1] = body.numel()
    head += [0] * (2 + (2 + _DIMS) * count - len(head))
    return torch.tensor(head, dtype=torch.int64), body


def unpack(head: torch.Tensor, body: torch.Tensor, count: int) -> Message:
    """The message of `pack`."""
    flags, _, *rest = head.tolist()
    values, at = [], 0
    for number in range(count if flags != END else 0):
        kind, rank, *shape = rest[number * (2 + _DIMS) : (number + 1) * (2 + _DIMS)]
        dtype, size = _KINDS[kind], torch.Size(shape[:rank])
        end = at + size.numel() * dtype.itemsize
        # Aligned anew: a value begins where another of one byte an element may have ended.
        values.append(body[at:end].clone().view(dtype).view(size))
        at = end
    return Message(flags, tuple(values))


class Sender(threading.Thread):
    """Sends messages in the order in which they are put."""

    def __init__(self, to: int, group: Any, count: int) -> None:
        super().__init__(daemon=True)
        self.to, self.group, self.count = to, group, count
        self.waiting: queue.Queue[Message] = queue.Queue(DEPTH)
        self.error: RuntimeError | None = None
        self.waited = 0.0
        self.start()

    def put(self, message: Message) -> None:
        """Send it some time; waits while two others are on their way."""
        before = time.perf_counter()
        while True:
            if self.error is not None:
                raise self.error
            try:
                self.waiting.put(message, timeout=1.0)
                break
            except queue.Full:
                continue
        self.waited += time.perf_counter() - before

    def run(self) -> None:
        try:
            while True:
                message = self.waiting.get()
                head, body = pack(message, self.count)
                dist.send(head, self.to, group=self.group)
                if body.numel():
                    dist.send(body, self.to, group=self.group)
                if message.flags == END:
                    return
        except RuntimeError as error:
            self.error = error


class Receiver(threading.Thread):
    """Receives ahead of who gets."""

    def __init__(self, source: int, group: Any, count: int) -> None:
        super().__init__(daemon=True)
        self.source, self.group, self.count = source, group, count
        self.ready: queue.Queue[Message | RuntimeError] = queue.Queue(DEPTH)
        self.waited = 0.0
        self.start()

    def get(self) -> Message:
        """The next message."""
        before = time.perf_counter()
        found = self.ready.get()
        self.waited += time.perf_counter() - before
        if isinstance(found, RuntimeError):
            raise found
        return found

    def run(self) -> None:
        try:
            while True:
                head = torch.empty(2 + (2 + _DIMS) * self.count, dtype=torch.int64)
                dist.recv(head, self.source, group=self.group)
                body = torch.empty(int(head[1]), dtype=torch.uint8)
                if body.numel():
                    dist.recv(body, self.source, group=self.group)
                message = unpack(head, body, self.count)
                if message.flags == END:
                    return
                self.ready.put(message)
        except RuntimeError as error:
            self.ready.put(error)
