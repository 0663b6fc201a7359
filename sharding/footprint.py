"""How many bytes a table takes in memory, known before it is allocated and without torch."""

from dataclasses import dataclass

from features.settings import TableSettings

_FLOAT_BYTES = 4
# Floats of a cache line: wider rows start on one.
_LINE = 16
# FBGEMM wants row widths that are multiples of this.
FBGEMM_ALIGNMENT = 4


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of the parameters (padding included) and of the optimizer's state beside them."""

    weight_bytes: int
    state_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.weight_bytes + self.state_bytes


def footprint(engine: str, rows: int, width: int, optimizer: str) -> Footprint:
    """Returns what a table of `rows` x `width` float32 takes under an engine and an optimizer."""
    stride = fbgemm_width(width) if engine == "torchrec" else fused_stride(width)
    row_bytes = stride * _FLOAT_BYTES
    state_row_bytes = {
        "sgd": 0,
        "rowwise_adagrad": _FLOAT_BYTES,
        "adagrad": row_bytes,
        "adam": 2 * row_bytes,
    }[optimizer]
    return Footprint(rows * row_bytes, rows * state_row_bytes)


def resolve_engine(settings: TableSettings, device_type: str, world_size: int = 1) -> str:
    """Returns the engine "auto" stands for on a device: torchrec on a GPU; on a CPU fused, or
    exchange over several ranks."""
    if settings.engine != "auto":
        return settings.engine
    if device_type != "cpu":
        return "torchrec"
    return "fused" if world_size == 1 else "exchange"


def fused_stride(width: int) -> int:
    """Floats from one row to the next in the memory of the fused and exchange engines."""
    if width > _LINE:
        return -(-width // _LINE) * _LINE
    return 1 << (width - 1).bit_length()


def fbgemm_width(width: int) -> int:
    """Floats of a row in FBGEMM's memory."""
    return -(-width // FBGEMM_ALIGNMENT) * FBGEMM_ALIGNMENT
