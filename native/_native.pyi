from typing import Annotated, overload

import numpy
from numpy.typing import NDArray

def instruction_set() -> str: ...
def choose(name: str) -> None: ...
def mix64(
    x: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
) -> Annotated[NDArray[numpy.uint64], dict(shape=(None,))]: ...
def xxh64(data: bytes, seed: int) -> int: ...
@overload
def hash_strings(
    offsets: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    data: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    seed: int,
) -> Annotated[NDArray[numpy.uint64], dict(shape=(None,))]: ...
@overload
def hash_strings(
    offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    data: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    seed: int,
) -> Annotated[NDArray[numpy.uint64], dict(shape=(None,))]: ...
def combine_keys(
    acc: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu")],
    keys: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    increment: int,
) -> None: ...
def hash_rows(
    keys: Annotated[NDArray[numpy.uint64], dict(shape=(None, None), device="cpu", writable=False)],
    nulls: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device="cpu", writable=False)]
    | None,
    feature: Annotated[
        NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    salts: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    null_salts: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    bases: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    sizes: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    out: Annotated[NDArray[numpy.int64], dict(shape=(None, None), device="cpu")],
    threads: int,
) -> None: ...
def exact_rows(
    keys: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    nulls: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ]
    | None,
    vocabulary: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    base: int,
    num_lookups: int,
    out: Annotated[NDArray[numpy.int64], dict(shape=(None, None), device="cpu")],
) -> None: ...
def permutation(n: int, key: int) -> Annotated[NDArray[numpy.uint32], dict(shape=(None,))]: ...
@overload
def permute_column(
    column: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    order: Annotated[
        NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
) -> None: ...
@overload
def permute_column(
    column: Annotated[
        NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    order: Annotated[
        NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    out: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu")],
) -> None: ...
@overload
def permute_column(
    column: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    order: Annotated[
        NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    out: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu")],
) -> None: ...
def allocate(
    rows: int, width: int
) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]: ...
def fill_uniform(
    table: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device="cpu")],
    key: int,
    scale: float,
    first_row: int,
    threads: int,
) -> None: ...
def tune_allocator() -> bool: ...
def gather(
    table: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), device="cpu", writable=False)
    ],
    rows: Annotated[NDArray[numpy.int64], dict(shape=(None, None), device="cpu", writable=False)],
    columns: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device="cpu")],
    threads: int,
) -> None: ...
def gather_bags(
    table: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), device="cpu", writable=False)
    ],
    rows: Annotated[NDArray[numpy.int64], dict(shape=(None, None), device="cpu", writable=False)],
    offsets: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    mean: bool,
    column: int,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device="cpu")],
    threads: int,
) -> None: ...
def update(
    optimizer: int,
    table: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device="cpu")],
    states: tuple,
    rows: Annotated[NDArray[numpy.int64], dict(shape=(None, None), device="cpu", writable=False)],
    columns: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    bags: list,
    grad: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device="cpu", writable=False)],
    learning_rate: float,
    eps: float,
    beta1: float,
    beta2: float,
    step: int,
    threads: int,
) -> int: ...
def limit_gather(
    table: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None), device="cpu", writable=False)
    ],
    rows: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    threads: int,
) -> float: ...
def limit_modify(
    table: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device="cpu")],
    rows: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    threads: int,
) -> None: ...
def limit_read(
    data: Annotated[
        NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    threads: int,
) -> float: ...
