"""Replies with rows, as they lie on the wire: a small head, and rows that are copied once.

A LookupReply (proto/muxtable/v1) is its other fields as protobuf writes them, then

    0x32, size, zeros       padding, so that the rows begin at a multiple of 16
    0x7a, varint, rows      the rows, up to the end of the message

which is what protobuf itself would write, byte for byte. The gather kernel writes the rows straight
into the message. A reader takes them out as a view of it.
"""

from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from features.errors import DataError, UnavailableError
from native.frames import reserve
from serving.stubs import parameter_pb2 as pb

M = TypeVar("M", bound=Message)

_ALIGNMENT = 16
_PADDING_TAG = 0x32
_LARGE_TAG = 0x7A


def parsed(kind: type[M], data: bytes) -> M:
    """Returns a request as a message of a kind; raises DataError where it is none."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise DataError(
            f"the request is no {kind.DESCRIPTOR.name}", "use the .proto of this service"
        ) from None


def varint(number: int) -> bytes:
    """Returns a number as protobuf writes it: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def reply_frame(head: bytes, size: int) -> tuple[bytes, NDArray[np.uint8]]:
    """Returns a LookupReply whose other fields are `head`, and its `size` bytes of rows to write.

    Numpy arrays of any item size up to 16 bytes can be laid over them.
    """
    return reserve(reply_head(head, size), size)


def reply_head(head: bytes, size: int) -> bytes:
    """Returns all of a LookupReply that stands before its `size` bytes of rows."""
    if size == 0:
        return head
    tail = bytes([_LARGE_TAG]) + varint(size)
    gap = -(len(head) + len(tail)) % _ALIGNMENT
    if gap == 0:
        return head + tail
    # A padding field takes two bytes for itself, and is not written where it is empty.
    length = gap - 2 if gap > 2 else gap - 2 + _ALIGNMENT
    return head + bytes([_PADDING_TAG, length]) + bytes(length) + tail


def chunk_frame(head: bytes, size: int) -> tuple[bytes, NDArray[np.uint8]]:
    """Returns a FetchShardReply whose other fields are `head`, and its `size` bytes of data."""
    if size == 0:
        return reserve(head, 0)
    return reserve(head + bytes([_LARGE_TAG]) + varint(size), size)


def split_reply(message: bytes) -> tuple[pb.LookupReply, memoryview]:
    """Returns a LookupReply without its rows, and the rows as a view of the message.

    Raises UnavailableError where it is no sound message.
    """
    at, size = 0, len(message)
    try:
        while at < size:
            start = at
            tag, at = _read_varint(message, at)
            if tag & 7 == 0:
                _, at = _read_varint(message, at)
                continue
            length, at = _read_varint(message, at)
            if tag & 7 != 2 or at + length > size:
                raise _damaged()
            if tag == _LARGE_TAG:
                head = message[:start] + message[at + length :]
                return pb.LookupReply.FromString(head), memoryview(message)[at : at + length]
            at += length
    except IndexError:
        raise _damaged() from None
    return pb.LookupReply.FromString(message), memoryview(b"")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise _damaged()


def _damaged() -> UnavailableError:
    return UnavailableError("a reply of the service is damaged", "try again; look at the network")
