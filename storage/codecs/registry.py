"""Codecs by name: the text of a setting, or the object of a manifest.

float32  float16  bfloat16  int8  int4  int2  float8
binary:N        sign and N refinements
pq:MxB  opq:MxB M parts of B bits; B is 8
pca:K+CODEC     K coordinates by one of the codecs above
prefix:N+CODEC  the first N lookups of a feature, by any codec
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import CodecError
from storage.codecs.base import Codec, KernelCodec, Rows, Values
from storage.codecs.binary import BinaryCodec
from storage.codecs.float8 import Float8Codec
from storage.codecs.integer import Int2Codec, Int4Codec, Int8Codec
from storage.codecs.parts import SAMPLE_ROWS
from storage.codecs.pca import PcaCodec
from storage.codecs.plain import Bfloat16Codec, Float16Codec, Float32Codec
from storage.codecs.prefix import PrefixCodec
from storage.codecs.product import BITS, OpqCodec, PqCodec

EXAMPLES = (
    *("float32", "float16", "bfloat16", "int8", "int4", "int2", "float8", "binary:3"),
    *("pq:8x8", "opq:8x8", "pca:16+int8", "pca:16+float8", "prefix:1+int8"),
)
"""One text for each codec."""

_PLAIN: dict[str, type[KernelCodec]] = {
    codec.name: codec
    for codec in (
        *(Float32Codec, Float16Codec, Bfloat16Codec),
        *(Int8Codec, Int4Codec, Int2Codec, Float8Codec),
    )
}
_READERS: dict[str, type[Codec]] = {
    **_PLAIN,
    **{codec.name: codec for codec in (BinaryCodec, PqCodec, OpqCodec, PcaCodec, PrefixCodec)},
}


@dataclass(frozen=True, slots=True)
class CodecFactory:
    """Makes a codec for rows of a width; one that `learns` from sample rows."""

    text: str
    name: str
    count: int = 0
    """The number behind the name: parts, coordinates, lookups or refinements."""
    inner: "CodecFactory | None" = None

    @property
    def learns(self) -> bool:
        """Whether the codec is trained on rows of the table."""
        own = self.name in ("pq", "opq", "pca")
        return own or (self.inner is not None and self.inner.learns)

    def __call__(self, width: int, sample: Values | None = None) -> Codec:
        """Returns the codec; `sample` [n, width] are rows to learn from (see `sample_rows`).

        Raises CodecError where the width does not suit it, and where a sample is missing.
        """
        if self.inner is not None and self.name == "prefix":
            return PrefixCodec(width=width, count=self.count, inner=self.inner(width, sample))
        if self.name in _PLAIN:
            return _PLAIN[self.name](width=width)
        if self.name == "binary":
            return BinaryCodec(width=width, refinements=self.count)
        if sample is None:
            raise CodecError(
                f"{self.text}: the codec is trained on rows, and there are none",
                "give rows of the table",
            )
        if self.inner is not None:
            inner = self.inner(max(self.count, 1))
            return PcaCodec.fit(sample, width, dims=self.count, inner=inner)
        product = PqCodec if self.name == "pq" else OpqCodec
        return product.fit(sample, width, parts=self.count)


def codec_named(text: str) -> CodecFactory:
    """Returns what makes the codec of a text such as "int8" or "pca:16+int8".

    Raises CodecError where there is no such codec.
    """
    outer, plus, rest = text.partition("+")
    name, colon, number = outer.partition(":")
    if name in _PLAIN and not colon and not plus:
        return CodecFactory(text, name)
    if name == "binary" and not plus:
        return CodecFactory(text, name, _number(text, number, r"(\d+)"))
    if name in ("pq", "opq") and not plus:
        return CodecFactory(text, name, _number(text, number, rf"(\d+)x{BITS}"))
    if name in ("pca", "prefix") and plus:
        inner = codec_named(rest)
        if name == "pca" and (inner.learns or inner.name == "prefix"):
            raise CodecError(
                f'codec "{text}": the coordinates of pca cannot be stored by {rest}',
                "take one that learns nothing, as in pca:16+int8",
            )
        if name == "prefix" and inner.name == "prefix":
            raise CodecError(f'codec "{text}" has two prefixes', "keep one, as in prefix:1+int8")
        return CodecFactory(text, name, _number(text, number, r"(\d+)"), inner)
    near = difflib.get_close_matches(text, EXAMPLES, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"for example {', '.join(EXAMPLES)}"
    raise CodecError(f'there is no codec "{text}"', hint)


def codec_from_json(tree: Mapping[str, Any], shared: Mapping[str, NDArray[Any]]) -> Codec:
    """Reads the codec of a manifest; raises CodecError where anything does not fit together."""
    name = tree.get("name")
    reader = _READERS.get(name) if isinstance(name, str) else None
    if reader is None:
        raise CodecError(
            f"the manifest names codec {name!r}, which this version does not know",
            "read the snapshot with the version of muxtable that wrote it, or a later one",
        )
    fix = "fetch the snapshot again; its manifest is damaged"
    try:
        codec = reader.from_json(tree, shared)
    except (KeyError, TypeError, AttributeError) as exc:
        raise CodecError(
            f"codec {name}: its object in the manifest lacks or mistypes {exc}", fix
        ) from exc
    if codec.to_json() != dict(tree):
        raise CodecError(f"codec {name}: its object in the manifest contradicts itself", fix)
    return codec


def sample_rows(num_rows: int, most: int = SAMPLE_ROWS) -> Rows:
    """Returns the numbers of at most `most` rows, evenly spread, to train a codec on."""
    count = min(num_rows, most)
    return np.arange(count, dtype=np.int64) * num_rows // max(count, 1)


def _number(text: str, number: str, pattern: str) -> int:
    found = re.fullmatch(pattern, number)
    if found is None or not 0 <= int(found[1]) <= 65_536:
        raise CodecError(
            f'codec "{text}": "{number}" is not a size it has',
            f"write it as in {', '.join(name for name in EXAMPLES if ':' in name)}",
        )
    return int(found[1])
