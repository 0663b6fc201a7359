"""Checksums of a file: one sha256 over all of it, and a crc32 of each MiB.

The sha256 says that a file is the one that was written; the crc32 says it of a megabyte alone, so
that a reader of a few rows need not read the rest.
"""

import base64
import hashlib
import zlib

from features.errors import SnapshotError
from storage.fsops import Disk, read_all

CRC_BYTES = 2**20
# Hashed at a time: each piece ends with a wait for the GIL, which others may be holding.
_PIECE_BYTES = 2 * 2**20


class FileDigest:
    """The checksums of bytes that come one piece after the other."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._crcs = bytearray()
        self._crc = 0

    def update(self, data: memoryview) -> None:
        """Takes the next bytes."""
        self._sha256.update(data)
        while data:
            piece = data[: CRC_BYTES - self.size % CRC_BYTES]
            self._crc = zlib.crc32(piece, self._crc)
            self.size += len(piece)
            if self.size % CRC_BYTES == 0:
                self._end_block()
            data = data[len(piece) :]

    def sha256(self) -> str:
        """Returns the sha256 of all bytes so far."""
        return self._sha256.hexdigest()

    def crc32(self) -> str:
        """Returns the crc32 of each MiB, the last one shorter, as `encode_crcs` writes them."""
        rest = b"" if self.size % CRC_BYTES == 0 else self._crc.to_bytes(4, "little")
        return base64.b64encode(bytes(self._crcs) + rest).decode()

    def _end_block(self) -> None:
        self._crcs += self._crc.to_bytes(4, "little")
        self._crc = 0


def num_crcs(size: int) -> int:
    """Returns how many crc32 a file of that size has."""
    return -(-size // CRC_BYTES)


def decode_crcs(text: str) -> list[int]:
    """Returns the crc32 of each MiB: little-endian u32 in base64; ValueError if it is none."""
    data = base64.b64decode(text, validate=True)
    if len(data) % 4 or base64.b64encode(data).decode() != text:
        raise ValueError("not a whole number of crc32")
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]


def check_sha256(disk: Disk, descriptor: int, size: int, sha256: str, where: str) -> None:
    """Reads a whole file; SnapshotError naming it unless it has this size and this sha256."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_PIECE_BYTES, size) + 1))
    done = 0
    while count := read_all(disk, descriptor, buffer, done):
        digest.update(buffer[:count])
        done += count
    if done != size or digest.hexdigest() != sha256:
        raise SnapshotError(
            f"{where} is damaged: its sha256 is not the one in the manifest",
            "take the file from a copy, or use another checkpoint or snapshot",
        )
