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
from typing import NoReturn, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from features.errors import ConfigError, FirstRankError, LostRankError, MuxtableError, TrainingError
from sharding.rendezvous import meet

T = TypeVar("T")

TIMEOUT_S = 60.0
# Ranks start together but import as quickly as their machines let them.
START_TIMEOUT_S = 300.0
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
                timeout = timedelta(seconds=timeout_s)
                store, rank, world_size = next(rendezvous("env://", timeout=timeout))
                dist.init_process_group(
                    "nccl" if device_type == "cuda" else "gloo",
                    store=meet(store, rank, world_size, max(timeout_s, START_TIMEOUT_S)),
                    rank=rank,
                    world_size=world_size,
                    timeout=timeout,
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
        counts = self.counts(len(data))
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
                raise FirstRankError(*json.loads(word[1:])[:3])

    def _work_and_tell(self, work: Callable[[], bytes]) -> bytes:
        with ThreadPoolExecutor(1, "first") as thread:
            future = thread.submit(work)
            while not wait([future], timeout=1.0).done:
                self.share(_BUSY)
        error = future.exception()
        if error is not None:
            self.share(_FAILED + json.dumps(_described(error)).encode())
            raise error
        self.share(_DONE + future.result())
        return future.result()

    def together(self, work: Callable[[], T]) -> T:
        """Returns what `work` gives on each rank, once it is done on all; raises as `agree`.

        `work` calls no other rank.
        """
        error: BaseException | None = None
        try:
            result = work()
        except LostRankError:
            raise  # nobody can be told
        except BaseException as exc:  # noqa: BLE001  raised again by `agree`, on every rank
            error = exc
        self.agree(error)
        return result

    def agree(self, error: BaseException | None, report: str = "") -> list[str]:
        """Returns the reports of all ranks on rank 0, and an empty list elsewhere.

        Where any rank brings an error, all raise: rank 0 an error of the kind that the first rank
        to fail had, the others FirstRankError; one that is none of ours is raised where it is, too.
        """
        if self.group is None:
            if error is not None:
                raise error
            return [report]
        said = None if error is None else _described(error)
        heard = [
            json.loads(each)
            for each in self.gather(json.dumps({"error": said, "report": report}).encode())
        ]
        failed = [(rank, each["error"]) for rank, each in enumerate(heard) if each["error"]]
        verdict = json.loads(self.share(json.dumps(failed[:1]).encode()))
        if verdict:
            self._raise_of(error, *verdict[0])
        return [each["report"] for each in heard]

    def _raise_of(
        self, error: BaseException | None, failed: int, said: tuple[str, str, int, str]
    ) -> NoReturn:
        what, fix, exit_code, name = said
        if error is not None and (self.is_first or not isinstance(error, MuxtableError)):
            raise error
        told = f"rank {failed}: {what}"
        if not self.is_first:
            raise FirstRankError(told, fix, exit_code) from error
        kind = {each.__name__: each for each in MuxtableError.__subclasses__()}.get(name)
        raise (kind or TrainingError)(told, fix)

    def from_first(self, work: Callable[[], str]) -> str:
        """Returns on every rank what `work` returns on rank 0, where alone it runs, soon."""
        result = self.together(work if self.is_first else str)
        return self.share(result.encode()).decode()

    def until_all(self, is_done: Callable[[], bool], has_failed: Callable[[], bool]) -> bool:
        """Returns when all ranks are done, or one has failed: then True.

        `is_done` waits a moment. In rounds, so that a rank that takes long is told from a lost one.
        """
        while True:
            state = torch.tensor([is_done(), has_failed()], dtype=torch.int64)
            num_done, num_failed = self.sum(state).tolist()
            if num_failed or num_done == self.world_size:
                return bool(num_failed)

    def counts(self, count: int) -> list[int]:
        """Returns the count that each rank brings."""
        counts = torch.zeros(self.world_size, dtype=torch.int64)
        counts[self.rank] = count
        return [int(each) for each in self.sum(counts)]

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        self.sum(torch.zeros(1))

    def leave(self) -> None:
        """Lets the process group go; nothing may be called afterwards."""
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group()
        self.group = None


def _described(error: BaseException) -> tuple[str, str, int, str]:
    name = type(error).__name__
    if isinstance(error, MuxtableError):
        return error.what, error.fix, error.exit_code, name
    return f"{name}: {error}"[:500], "see the log of that rank", 1, name


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
