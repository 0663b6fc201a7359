"""Records of sweeps that never ran."""

from launch.sweep.record import Record


def record(auc: float | None = 0.8, size: int = 1000, **changes) -> Record:
    """Returns a record with an AUC and the bytes of its rows; without an AUC it is infeasible."""
    fields = {
        "method": "unified",
        "multiplexed": True,
        "budget": "1 kB",
        "lookups": 2,
        "width": 15,
        "columns": 30,
        "more": (),
        "codec": "float32",
        "seed": 0,
        "hash_seed": 0,
        "status": "infeasible" if auc is None else "done",
        "reason": "too small" if auc is None else None,
        "auc_valid": auc,
        "auc_test": auc,
        "log_loss_test": 0.5,
        "rows_bytes": size,
        "dictionary_bytes": 0,
        "codebook_bytes": 0,
        "tower_bytes": 50,
        "served_bytes": size + 90,
        "step_s": 0.01,
        "peak_bytes": 10**8,
        "key": f"{auc}-{size}-{sorted(changes.items())}",
    }
    return Record(**{**fields, **changes})
