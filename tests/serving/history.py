"""Clients that write down what they were told, and a checker that reads it afterwards.

Each client looks random values up and records when it asked, when it was answered, and by which
version and promotion. The checker knows the rows of every version and the promotions an operator
made, each with when it was asked for and when it was acknowledged.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.client import Client


@dataclass(frozen=True)
class Answer:
    client: int
    began: float
    ended: float
    version: str
    counter: int
    is_right: bool


@dataclass(frozen=True)
class Promotion:
    began: float
    ended: float
    version: str
    counter: int


@dataclass
class History:
    answers: list[Answer] = field(default_factory=list)
    failures: list[tuple[float, Exception]] = field(default_factory=list)
    promotions: list[Promotion] = field(default_factory=list)

    def violations(self) -> list[str]:
        """What cannot be explained by one version in force at each moment."""
        found = [f"wrong rows: {answer}" for answer in self.answers if not answer.is_right]
        by_counter = {each.counter: each for each in self.promotions}
        for answer in self.answers:
            promotion = by_counter.get(answer.counter)
            if promotion is None or promotion.version != answer.version:
                found.append(f"never in force: {answer}")
                continue
            # It may answer once its promotion was asked for, and until the next is acknowledged.
            following = by_counter.get(answer.counter + 1)
            if answer.ended < promotion.began:
                found.append(f"too early: {answer}")
            if following is not None and answer.began > following.ended:
                found.append(f"too late: {answer}, {following}")
        last: dict[int, int] = {}
        for answer in sorted(self.answers, key=lambda each: each.ended):
            if answer.counter < last.get(answer.client, 0):
                found.append(f"went back: {answer}")
            last[answer.client] = max(last.get(answer.client, 0), answer.counter)
        return found


class Load:
    """Clients that look values up until they are stopped."""

    def __init__(
        self,
        address: Callable[[], str],
        expected: dict[str, np.ndarray],
        num_clients: int,
        history: History,
        seed: int = 0,
        timeout_s: float = 10.0,
        sizes: Sequence[int] = (1, 16, 256, 4096),
    ) -> None:
        """`expected` has the vectors of users 0, 1, ... for each version."""
        self._address = address
        self._expected = expected
        self._history = history
        self._timeout_s = timeout_s
        self._sizes = sizes
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, seed)) for number in range(num_clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, seed: int) -> None:
        rng = np.random.default_rng([seed, number])
        wire = "codec" if number % 2 else "float32"
        address = self._address()
        client = Client(address, channels=1, timeout_s=self._timeout_s, wire=wire)
        most = len(next(iter(self._expected.values())))
        while not self._stopped.is_set():
            if self._address() != address:
                client.close()
                address = self._address()
                client = Client(address, channels=1, timeout_s=self._timeout_s, wire=wire)
            users = rng.integers(0, most, rng.choice(self._sizes))
            began = time.monotonic()
            try:
                found = client.lookup({"user": users})
            except Exception as exc:  # noqa: BLE001  a part of the history
                self._history.failures.append((began, exc))
                continue
            ended = time.monotonic()
            is_right = found["user"].tobytes() == self._expected[found.version][users].tobytes()
            self._history.answers.append(
                Answer(number, began, ended, found.version, found.counter, is_right)
            )
        client.close()
