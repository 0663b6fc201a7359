"""A number of bytes that threads share: who wants more than is left waits."""

import threading


class ByteBudget:
    """Bytes that copies may take up at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = limit
        self._changed = threading.Condition()

    def has(self, size: int) -> bool:
        """Whether `take` would not wait."""
        with self._changed:
            return self._left >= size

    def take(self, size: int) -> None:
        """Waits until `size` bytes are free and takes them; `size` is at most the limit."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size

    def give(self, size: int) -> None:
        """Gives bytes back."""
        with self._changed:
            self._left += size
            self._changed.notify_all()
