"""Sizes as people write them."""

import pytest

from features.settings import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("3 B", 3),
        ("1 kB", 1_000),
        ("256 KiB", 256 * 1024),
        ("2 kiB", 2 * 1024),
        ("1.6 MB", 1_600_000),
        ("64 MiB", 64 * 2**20),
        (" 1.5GiB ", 3 * 2**29),
        ("2 TB", 2 * 10**12),
        ("1 TiB", 2**40),
    ],
)
def test_sizes_are_read(text, size):
    found = parse_size(text)

    assert found == size


@pytest.mark.parametrize("text", ["", "64", "MiB", "-1 MiB", "1 mib", "1 KB", "1 iB", "1,5 MB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)
