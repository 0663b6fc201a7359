"""How a snapshot stores rows: float32 rows to bytes and back, each with its price in error.

codec = codec_named("int8")(width=32)
raw = codec.encode(rows)           uint8[n, 40]
rows = codec.decode(raw)           float32[n, 32]
"""

from storage.codecs.base import Codec, ErrorSum, MeasuredError
from storage.codecs.registry import (
    EXAMPLES,
    CodecFactory,
    codec_from_json,
    codec_named,
    sample_rows,
)

__all__ = [
    "EXAMPLES",
    "Codec",
    "CodecFactory",
    "ErrorSum",
    "MeasuredError",
    "codec_from_json",
    "codec_named",
    "sample_rows",
]
