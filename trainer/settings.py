"""The parts of a job file that say what is learned and how: `[tower]`, `[train]`, `[run]`."""

from typing import Annotated, Literal

from pydantic import Field

from features.settings import Settings


class TowerSettings(Settings):
    """The dense network on top of the embeddings."""

    kind: Literal["dcnv2", "dlrm", "mlp"] = "dcnv2"
    """dcnv2 (cross layers and an MLP), dlrm (dot interactions), mlp."""
    structure: Literal["stacked", "parallel"] = "stacked"
    """DCN-V2: the MLP follows the cross layers, or stands beside them."""
    cross_layers: Annotated[int, Field(ge=1, le=16)] = 2
    """DCN-V2: number of cross layers."""
    low_rank: Annotated[int, Field(ge=1)] | None = None
    """DCN-V2: rank of the cross matrices; unset means full rank."""
    hidden: list[Annotated[int, Field(ge=1, le=65536)]] = [256, 128]
    """Widths of the MLP's hidden layers (DLRM: of the top MLP)."""
    bottom: list[Annotated[int, Field(ge=1, le=65536)]] = [64]
    """DLRM: hidden widths of the MLP over the dense columns."""
    projection: Annotated[int, Field(ge=1, le=4096)] | None = None
    """DLRM: common width the features are projected to (default: table width where all agree, else
    the largest)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after each hidden layer."""


class TrainSettings(Settings):
    """The loop."""

    batch_size: Annotated[int, Field(ge=1, le=2**22)] = 4096
    """Samples of a step, over all ranks together."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Passes over the training data."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many steps, whatever the epochs say."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Randomness of the run: initial values, order of the data, dropout."""
    optimizer: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    """Optimizer of the tower."""
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 1e-3
    """Learning rate of the tower."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight decay of the tower."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which both learning rates rise from 0."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How both learning rates fall after the warm-up, down to final_learning_rate times their value
    at the last step."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the learning rates that is left at the last step."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the tower's gradient."""
    valid_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between validations; unset validates at the end of each epoch."""
    stop_metric: Literal["auc", "log_loss", "normalized_entropy"] = "auc"
    """Validation metric that picks the best model and stops the run."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Validations without improvement before the run stops; unset never stops early."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Threads of kernels and tower; unset takes all cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the tower runs."""
    log_every: Annotated[int, Field(ge=1)] = 50
    """Steps between lines of metrics.jsonl."""
    metrics_buffer: Annotated[int, Field(ge=1024)] = 4_194_304
    """Predictions sorted in memory for an AUC (32 bytes each); more are spilled to the run's
    folder."""


class RunSettings(Settings):
    """Where the run writes, and how often it saves."""

    dir: str | None = None
    """The run's folder; unset means runs/JOB beside the job file."""
    parent: str | None = None
    """A trained run, or one of its checkpoints, that this one carries on from, as `train --from`
    says; its features, rows and tower, on this job's data."""
    checkpoints: str | None = None
    """Where checkpoints go: a folder, or s3://bucket/prefix (credentials and AWS_ENDPOINT_URL come
    from the environment); unset means run.dir/checkpoints."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between checkpoints; one is always written at the end."""
    keep: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Checkpoints kept: the newest ones, and the best."""
    deltas: Annotated[int, Field(ge=0, le=1000)] = 0
    """Checkpoints in a row that hold only the rows changed since the last whole one; 0 writes all
    whole. Costs a byte of memory a row; where more than half of the table has changed, a whole one
    is written instead."""
    copy_budget: str = "1 GiB"
    """Memory a checkpoint may copy the table into, so that training goes on while it is written."""
    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times a run of many workers is started again after one was lost; mistakes are never tried
    again."""
