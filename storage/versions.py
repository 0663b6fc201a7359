"""Versions: the snapshots of one directory, by name.

versions/v-0000000012/            a snapshot, named by the step it was taken at
versions/v-0000000015.delta/      what a snapshot changed since another (storage.snapshot_delta)
versions/CURRENT                  the version in force (storage.pointer)
"""

import re
from pathlib import Path

from features.errors import SnapshotError
from storage.fsops import DISK, Disk, translated

DELTA_SUFFIX = ".delta"
_NAME = re.compile(r"v-[0-9]{10,20}(-[a-z0-9]{1,20})?")


def version_name(step: int) -> str:
    """Returns the name of the version of a step; names sort as steps do."""
    return f"v-{step:010d}"


def is_version(name: str) -> bool:
    """Whether a name is that of a version."""
    return _NAME.fullmatch(name) is not None


def check_version(name: str) -> str:
    """Returns `name`; SnapshotError if it is no name of a version."""
    if not is_version(name):
        raise SnapshotError(
            f"{name[:80]!r} cannot be the name of a version",
            "write v-, ten digits or more, and if need be a dash and letters: v-0000000012-int8",
        )
    return name


def version_names(directory: Path, disk: Disk = DISK) -> list[str]:
    """Returns the names of the versions in a directory, sorted; what they hold is not read."""
    with translated("list the versions", directory):
        return [name for name in disk.names(directory) if is_version(name)]
