"""Objects of an S3 server: data through pyarrow, and puts that have a condition.

pyarrow knows no conditional put (it ignores If-None-Match), and what it wrote of an object before
an error may be published, cut short. So a data object means nothing until a manifest names it;
what commits goes through `put_if`. Raises OSError.
"""

import functools
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from pyarrow import NativeFile, fs

from storage.places import ObjectPath
from storage.signing import Account, Answer, send

_TRIES = 4
_BUSY = (409, 429, 500, 502, 503, 504)


class ObjectStore:
    """One server, as one account sees it."""

    def __init__(self, account: Account) -> None:
        self._account = account
        url = urlsplit(account.endpoint)
        self._fs = fs.S3FileSystem(
            access_key=account.access_key,
            secret_key=account.secret_key,
            session_token=account.session_token,
            region=account.region,
            scheme=url.scheme,
            endpoint_override=url.netloc,
            connect_timeout=5,
            request_timeout=60,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
        )

    @classmethod
    def at_hand(cls) -> "ObjectStore":
        """Returns the store the environment names; ConfigError where it has no credentials."""
        return _store(Account.from_environment())

    def read(self, path: ObjectPath) -> tuple[bytes, str] | None:
        """Returns a small object and its ETag, None where there is none."""
        answer = self._ask("GET", path, {})
        if _is_missing(answer):
            return None
        _check(answer, path)
        return answer.body, answer.etag

    def put_if(self, path: ObjectPath, data: bytes, etag: str | None) -> str | None:
        """Writes a small object if it is still the one of that ETag (None: if there is none).

        Returns the new ETag, or None where somebody else was faster. Where an answer is lost, what
        is there tells whether the put had happened: `data` must be like no other's.
        """
        condition = {"If-None-Match": "*"} if etag is None else {"If-Match": etag}
        is_unsure = False
        for turn in range(_TRIES):
            try:
                answer = send(self._account, "PUT", f"/{path.within}", condition, data)
            except OSError:
                if turn == _TRIES - 1:
                    raise
                is_unsure = True
            else:
                if answer.status == 412 or _is_missing(answer):
                    return self._etag_of(path, data) if is_unsure else None
                if answer.status not in _BUSY or turn == _TRIES - 1:
                    _check(answer, path)
                    return answer.etag
                is_unsure = is_unsure or answer.status >= 500
            time.sleep(0.1 * 2**turn)
        raise AssertionError("unreachable")

    def write(self, path: ObjectPath, chunks: Iterator[memoryview]) -> None:
        """Writes an object piece by piece; after an error it may be there, cut short."""
        stream = self._fs.open_output_stream(path.within)
        for chunk in chunks:
            stream.write(chunk)
        stream.close()

    def open(self, path: ObjectPath) -> "ObjectFile":
        """Opens an object to read parts of it."""
        return ObjectFile(self._fs.open_input_file(path.within))

    def sizes(self, path: ObjectPath) -> dict[str, int]:
        """Returns name and size of each object right below a prefix."""
        return {
            info.base_name: info.size for info in self._list(path) if info.type == fs.FileType.File
        }

    def folders(self, path: ObjectPath) -> list[str]:
        """Returns the prefixes right below a prefix, sorted."""
        return sorted(
            info.base_name for info in self._list(path) if info.type == fs.FileType.Directory
        )

    def remove(self, path: ObjectPath) -> None:
        """Removes an object; one that is not there is fine."""
        answer = self._ask("DELETE", path, {})
        if not _is_missing(answer):
            _check(answer, path)

    def _list(self, path: ObjectPath) -> list[fs.FileInfo]:
        selector = fs.FileSelector(path.within, allow_not_found=True, recursive=False)
        return self._fs.get_file_info(selector)

    def _etag_of(self, path: ObjectPath, data: bytes) -> str | None:
        found = self.read(path)
        return found[1] if found is not None and found[0] == data else None

    def _ask(self, method: str, path: ObjectPath, headers: dict[str, str]) -> Answer:
        """Sends a request that does no harm twice, again while the server is busy."""
        for turn in range(_TRIES):
            try:
                answer = send(self._account, method, f"/{path.within}", headers)
            except OSError:
                if turn == _TRIES - 1:
                    raise
            else:
                if answer.status not in _BUSY or turn == _TRIES - 1:
                    return answer
            time.sleep(0.1 * 2**turn)
        raise AssertionError("unreachable")


class ObjectFile:
    """An object that is read from front to back, mostly: read ahead, one block at a time."""

    _AHEAD = 8 * 2**20

    def __init__(self, file: NativeFile) -> None:
        self._file = file
        self._size = file.size()
        self._start = 0
        self._block = b""

    def read(self, buffer: memoryview, offset: int) -> int:
        """Fills the front of `buffer` from an offset; returns how much there was."""
        wanted = min(len(buffer), max(self._size - offset, 0))
        done = 0
        while done < wanted:
            at = offset + done
            if not self._start <= at < self._start + len(self._block):
                self._start = at
                self._block = self._file.read_at(min(self._AHEAD, self._size - at), at)
                if not self._block:
                    break
            piece = self._block[at - self._start :][: wanted - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def close(self) -> None:
        """Lets the object go."""
        self._file.close()


@functools.cache
def _store(account: Account) -> ObjectStore:
    return ObjectStore(account)


def _is_missing(answer: Answer) -> bool:
    return answer.status == 404 and b"NoSuchBucket" not in answer.body


def _check(answer: Answer, path: ObjectPath) -> None:
    if answer.status >= 300:
        reason = answer.body.decode(errors="replace")
        code = reason.partition("<Code>")[2].partition("</Code>")[0] or "no reason"
        raise OSError(f"the server answers {answer.status} ({code}) for {path}")
