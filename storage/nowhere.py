"""A disk that keeps nothing: what would be written is hashed, and only its digest is wanted."""

import os
from pathlib import Path

from storage.fsops import Disk


class Nowhere(Disk):
    """Takes every write and forgets it."""

    def create(self, path: Path) -> int:
        """Returns a descriptor that takes all that is written."""
        del path
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def make_directory(self, path: Path) -> None:
        """Makes nothing."""

    def sync(self, descriptor: int) -> None:
        """Waits for nothing."""

    def sync_directory(self, path: Path) -> None:
        """Waits for nothing."""

    def names(self, directory: int | Path) -> list[str]:
        """There is nothing."""
        raise FileNotFoundError(str(directory))
