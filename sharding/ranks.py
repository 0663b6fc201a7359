"""The ranks of a training, and what they say to each other.

    ranks = Ranks.join()        in each of W processes: torchrun's environment, or Ray's, names them
    ranks = Ranks.alone()       a world of one: every call below returns at once

All ranks have to make the same calls in the same order. What passes between them is tensors and
bytes; nothing is pickled. A lost rank is a LostRankError on all others, at the latest after the
timeout.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from features.errors import ConfigError, FirstRankError, LostRankError, MuxtableError

T = TypeVar("T")

TIMEOUT_S = 60.0
# What rank 0 says while the others wait for it.
_BUSY, _DONE, _FAILED = b"b", b"d", b"f"
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """This process's place among the ranks, and their process group."""

    def __init__(self, group: dist.ProcessGroup | None, timeout_s: float = TIMEOUT_S) -> None:
        """Use `join` or `alone`."""
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world_size = 1 if group is None else dist.get_world_size(group)
        self.timeout_s = timeout_s
        self.bytes_sent = 0
        """Payload this rank has handed to other ranks through `exchange` and `sum`."""

    @classmethod
    def alone(cls) -> Self:
        """Returns the world of one process."""
        return cls(None)

    @classmethod
    def join(cls, *, device_type: str = "cpu", timeout_s: float = TIMEOUT_S) -> Self:
        """Joins the ranks that the environment names, or the group that exists already.

        Raises ConfigError where the environment names none, LostRankError where not all come.
        """
        if not dist.is_initialized():
            missing = [name for name in _ENVIRONMENT if name not in os.environ]
            if missing:
                raise ConfigError(
                    f"this process is no rank: {', '.join(missing)} not set in the environment",
                    "start it with torchrun, or with `muxtable train --workers N`",
                )
            with _translated():
                dist.init_process_group(
                    "nccl" if device_type == "cuda" else "gloo",
                    timeout=timedelta(seconds=timeout_s),
                )
        return cls(dist.group.WORLD, timeout_s)

    @staticmethod
    def in_environment() -> int:
        """Returns the number of ranks the environment names, 1 where it names none."""
        return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1

    @staticmethod
    def on_this_machine() -> int:
        """Returns how many of the ranks the environment puts on this machine, at least 1."""
        return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def beside(self) -> "Ranks":
        """Returns the same ranks with a process group of their own, for another thread.

        It takes tensors of the CPU, whatever the device of the first one.
        """
        if self.group is None:
            return Ranks(None, self.timeout_s)
        with _translated():
            group = dist.new_group(timeout=timedelta(seconds=self.timeout_s), backend="gloo")
        return Ranks(group, self.timeout_s)

    def sum(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor by its sum over the ranks; the same bits on all of them."""
        if self.group is not None:
            with _translated():
                dist.all_reduce(tensor, group=self.group)
            self.bytes_sent += 2 * tensor.nbytes * (self.world_size - 1) // self.world_size
        return tensor

    def exchange(
        self, out: Tensor, tensor: Tensor, out_sizes: Sequence[int], sizes: Sequence[int]
    ) -> Tensor:
        """Sends sizes[r] rows of `tensor` to each rank r, in order; fills and returns `out` with
        the out_sizes[r] rows that each rank r sent here, in the order of the ranks."""
        if self.group is None:
            return out.copy_(tensor)
        with _translated():
            dist.all_to_all_single(out, tensor, list(out_sizes), list(sizes), group=self.group)
        if len(tensor):
            own = sizes[self.rank]
            self.bytes_sent += (len(tensor) - own) * (tensor.nbytes // len(tensor))
        return out

    def gather(self, data: bytes) -> list[bytes]:
        """Returns the bytes of every rank on rank 0, and an empty list elsewhere."""
        if self.group is None:
            return [data]
        sizes = torch.zeros(self.world_size, dtype=torch.int64)
        sizes[self.rank] = len(data)
        counts: list[int] = self.sum(sizes).tolist()
        to_first = [len(data)] + [0] * (self.world_size - 1)
        from_all = counts if self.is_first else [0] * self.world_size
        received = torch.empty(sum(from_all), dtype=torch.uint8)
        self.exchange(received, _as_tensor(data), from_all, to_first)
        if not self.is_first:
            return []
        whole = received.numpy().tobytes()
        ends = [sum(counts[: rank + 1]) for rank in range(self.world_size)]
        return [whole[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def share(self, data: bytes | None) -> bytes:
        """Returns on every rank the bytes that rank 0 gives; the others give None."""
        if self.group is None:
            return data or b""
        size = torch.tensor([len(data or b"")])
        with _translated():
            dist.broadcast(size, group_src=0, group=self.group)
            whole = _as_tensor(data or b"") if self.is_first else torch.empty(0, dtype=torch.uint8)
            if not self.is_first:
                whole = torch.empty(int(size), dtype=torch.uint8)
            if int(size):
                dist.broadcast(whole, group_src=0, group=self.group)
        return whole.numpy().tobytes()

    def by_first(self, work: Callable[[], bytes]) -> bytes:
        """Returns on every rank what `work` gives on rank 0, which alone does it.

        It may take longer than the timeout: meanwhile the others hear every second that rank 0
        lives. An error of `work` is raised by rank 0, and the others raise FirstRankError.
        """
        if self.group is None:
            return work()
        if self.is_first:
            return self._work_and_tell(work)
        while True:
            word = self.share(None)
            if word[:1] == _DONE:
                return word[1:]
            if word[:1] == _FAILED:
                raise FirstRankError(*json.loads(word[1:]))

    def _work_and_tell(self, work: Callable[[], bytes]) -> bytes:
        with ThreadPoolExecutor(1, "first") as thread:
            future = thread.submit(work)
            while not wait([future], timeout=1.0).done:
                self.share(_BUSY)
        error = future.exception()
        if error is not None:
            self.share(_FAILED + _bytes_of(error))
            raise error
        self.share(_DONE + future.result())
        return future.result()

    def together(self, work: Callable[[], T]) -> T:
        """Returns what `work` gives on each rank; where it fails on any of them, on none.

        Rank 0 raises the error of the first rank that failed, the others FirstRankError. Only a
        MuxtableError is waited for; `work` calls no other rank.
        """
        if self.group is None:
            return work()
        error: MuxtableError | None = None
        try:
            result = work()
        except MuxtableError as exc:
            error = exc
        told = self.gather(b"" if error is None else _bytes_of(error))
        failed = next((rank for rank, data in enumerate(told) if data), None)
        answer = self.share(b"" if failed is None else told[failed])
        if not answer:
            return result
        if not self.is_first:
            raise FirstRankError(*json.loads(answer))
        if error is not None:
            raise error
        what, fix, exit_code = json.loads(answer)
        raise _OtherRankError(f"rank {failed}: {what}", fix, exit_code)

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        self.sum(torch.zeros(1))

    def leave(self) -> None:
        """Lets the process group go; nothing may be called afterwards."""
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group()
        self.group = None


class _OtherRankError(FirstRankError):
    """What another rank reported to rank 0."""


def _bytes_of(error: BaseException) -> bytes:
    if isinstance(error, MuxtableError):
        return json.dumps([error.what, error.fix, error.exit_code]).encode()
    text = f"rank 0 failed: {type(error).__name__}: {error}"
    return json.dumps([text, "look at what rank 0 says", 1]).encode()


def _as_tensor(data: bytes) -> Tensor:
    return (
        torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if data
        else torch.empty(0, dtype=torch.uint8)
    )


@contextmanager
def _translated() -> Iterator[None]:
    """Turns what the transport says of a lost rank into one clear error."""
    try:
        yield
    except (dist.DistError, RuntimeError) as exc:
        text = str(exc)
        signs = ("onnection", "Timed out", "timed out", "timeout", "Broken pipe", "peer")
        if isinstance(exc, dist.DistError) or any(sign in text for sign in signs):
            raise LostRankError(
                f"another rank was lost ({text.splitlines()[0][:200]})",
                "look at the first rank that failed; the run goes on from its last checkpoint",
            ) from exc
        raise
