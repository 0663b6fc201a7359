"""muxtable: one hashed embedding table for every categorical feature, inside a byte budget.

The public names, each imported when it is first used, so that `import muxtable` needs no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> module that owns it.
_OWNERS = {
    "AccessError": "features.errors",
    "AsyncClient": "serving.async_client",
    "Client": "serving.client",
    "CodecError": "features.errors",
    "ConfigError": "features.errors",
    "DataError": "features.errors",
    "Feature": "features.schema",
    "FeatureSet": "features.schema",
    "LimitError": "features.errors",
    "MuxtableError": "features.errors",
    "NotFoundError": "features.errors",
    "PlanError": "features.errors",
    "ServiceError": "features.errors",
    "SnapshotError": "features.errors",
    "StateError": "features.errors",
    "TrainingError": "features.errors",
    "UnavailableError": "features.errors",
    "UnifiedEmbedding": "trainer.embedding",
}

__all__ = ["__version__", "main", *sorted(_OWNERS)]


def __getattr__(name: str) -> Any:
    owner = _OWNERS.get(name)
    if owner is None:
        raise AttributeError(f"module 'muxtable' has no attribute {name!r}")
    return getattr(import_module(owner), name)


def main() -> None:
    """Runs the command line."""
    from launch.cli import main as run

    run()


if __name__ == "__main__":
    main()
