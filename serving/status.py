"""Our errors as gRPC statuses, and back: one table for both ends.

A status has the first half of an error as its details, and the second, what to do, in the trailing
metadata. Paths stay on the server: of a path in a text its last part is sent.
"""

import re
from collections.abc import Sequence

import grpc

from features.errors import (
    AccessError,
    CodecError,
    ConfigError,
    DataError,
    LimitError,
    MuxtableError,
    NotFoundError,
    SnapshotError,
    StateError,
    UnavailableError,
)

FIX_KEY = "muxtable-fix-bin"
_PATH = re.compile(r"(?<![\w.-])/(?:[^\s/\"']+/)+")
_MOST_TEXT = 1024

_CODES: tuple[tuple[type[MuxtableError], grpc.StatusCode], ...] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (StateError, grpc.StatusCode.FAILED_PRECONDITION),
    (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (AccessError, grpc.StatusCode.PERMISSION_DENIED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (SnapshotError, grpc.StatusCode.DATA_LOSS),
    (CodecError, grpc.StatusCode.DATA_LOSS),
    (DataError, grpc.StatusCode.INVALID_ARGUMENT),
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
)
_KINDS: dict[grpc.StatusCode, type[MuxtableError]] = {
    **{code: kind for kind, code in reversed(_CODES)},
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.DATA_LOSS: SnapshotError,
    grpc.StatusCode.INVALID_ARGUMENT: DataError,
}
_FIXES = {
    grpc.StatusCode.UNAVAILABLE: "check the address, and that the service runs",
    grpc.StatusCode.DEADLINE_EXCEEDED: "give more time, or ask for less at once",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "try again later, or send less at once",
}


def code_of(error: MuxtableError) -> grpc.StatusCode:
    """Returns the status of an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def texts_of(error: MuxtableError) -> tuple[str, str]:
    """Returns the two halves of an error as a caller may see them."""
    return _shown(error.what), _shown(error.fix)


def error_of(error: grpc.RpcError, target: str) -> MuxtableError:
    """Returns what a failed call of a service at `target` means."""
    code, details = error.code(), error.details() or ""
    fix = _fix_in(error.trailing_metadata() or ())
    kind = _KINDS.get(code, UnavailableError)
    what = details or f"the call ended with {code.name}"
    return kind(f"{target}: {what}", fix or _FIXES.get(code, "look at the log of the service"))


def _fix_in(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == FIX_KEY and isinstance(value, bytes):
            return value.decode(errors="replace")
    return ""


def _shown(text: str) -> str:
    return _PATH.sub("", text)[:_MOST_TEXT]
