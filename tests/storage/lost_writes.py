"""What a disk may hold after a power cut, modelled like ALICE (Pillai et al., OSDI 2014).

A file's bytes are sure once the file was synced; before, any of them may be missing: all, what
follows a sector or a page, or they may be zeros. A name is sure once its directory was synced;
before, each change of names may be missing on its own, but a rename is there wholly or not at all.
kill -9 cannot show this: the kernel's cache survives the process.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.storage.faults import WatchedDisk

Change = tuple[str, tuple]


class RecordingDisk(WatchedDisk):
    """Writes down every change, with paths in place of descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[Change] = []
        self._paths: dict[int, Path] = {}

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._paths[descriptor] = path
        self.trace.append(("create", (path,)))
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        count = super().write(descriptor, data)
        if descriptor in self._paths:  # a lease says nothing that must survive
            self.trace.append(("write", (self._paths[descriptor], bytes(data[:count]))))
        return count

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        self.trace.append(("sync", (self._paths[descriptor],)))

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self._paths.pop(descriptor, None)


def _recorded(operation: str):
    watched = getattr(WatchedDisk, operation)

    def call(self: RecordingDisk, *paths: Path) -> None:
        watched(self, *paths)
        self.trace.append((operation, paths))

    return call


for _operation in (
    "make_directory",
    "sync_directory",
    "rename_over",
    "rename_new",
    "remove_file",
    "remove_directory",
):
    setattr(RecordingDisk, _operation, _recorded(_operation))


@dataclass(eq=False)
class File:
    """The bytes in the cache, and those on the device."""

    cached: bytes = b""
    sure: bytes | None = None

    def versions(self) -> list[bytes]:
        """Returns what the device may hold."""
        if self.sure == self.cached:
            return [self.cached]
        cuts = {b"", self.cached[:512], self.cached[:4096], self.cached[: len(self.cached) // 2]}
        return [self.cached, self.sure or b"", bytes(len(self.cached)), *sorted(cuts)]


@dataclass(eq=False)
class Directory:
    """The names in the cache and on the device, and what lies between them."""

    cached: dict[str, "File | Directory"] = field(default_factory=dict)
    sure: dict[str, "File | Directory"] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def change(self, kind: str, arguments: tuple) -> None:
        """Changes names in the cache."""
        _apply(self.cached, (kind, arguments))
        self.pending.append((kind, arguments))

    def sync(self) -> None:
        """Makes all names sure."""
        for change in self.pending:
            _apply(self.sure, change)
        self.pending.clear()

    def versions(self) -> Iterator[dict[str, "File | Directory"]]:
        """Yields the names the device may hold: all, none, the first ones, one, all but one."""
        count = len(self.pending)
        kept = {frozenset(range(count)), frozenset()}
        kept |= {frozenset(range(i)) for i in range(count)}
        kept |= {frozenset([i]) for i in range(count)}
        kept |= {frozenset(range(count)) - {i} for i in range(count)}
        for some in sorted(kept, key=sorted):
            names = dict(self.sure)
            for i, change in enumerate(self.pending):
                if i in some:
                    _apply(names, change)
            yield names


def _apply(names: dict, change: Change) -> None:
    kind, arguments = change
    if kind == "add":
        names[arguments[0]] = arguments[1]
    elif kind == "rename":
        names.pop(arguments[0], None)
        names[arguments[1]] = arguments[2]
    else:
        names.pop(arguments[0], None)


class Device:
    """The model: replays a trace that began with an empty root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = Directory()

    def at(self, path: Path) -> "File | Directory":
        """Returns what a path is in the cache."""
        node: File | Directory = self.tree
        for part in path.relative_to(self.root).parts:
            node = node.cached[part]
        return node

    def play(self, change: Change) -> None:
        """Does what one call of the disk does."""
        kind, arguments = change
        path = arguments[0]
        if kind == "write":
            self.at(path).cached += arguments[1]
        elif kind == "sync":
            self.at(path).sure = self.at(path).cached
        elif kind == "sync_directory":
            self.at(path).sync()
        elif kind in ("create", "make_directory"):
            node = File() if kind == "create" else Directory()
            self.at(path.parent).change("add", (path.name, node))
        elif kind in ("rename_over", "rename_new"):
            node = self.at(path)
            self.at(path.parent).change("rename", (path.name, arguments[1].name, node))
        else:
            self.at(path.parent).change("remove", (path.name,))

    def states(self) -> Iterator[dict[str, bytes | None]]:
        """Yields what may be on the device now: paths with bytes, or None for a directory.

        One directory and one file depart from the cache at a time, or all at once.
        """
        nodes = list(_nodes(self.tree))
        directories = [node for node in nodes if isinstance(node, Directory) and node.pending]
        files = [node for node in nodes if isinstance(node, File) and node.sure != node.cached]
        names: list[dict] = [{}, {id(node): node.sure for node in directories}]
        names += [{id(node): version} for node in directories for version in node.versions()]
        lost: list[dict] = [{}, {id(node): node.sure or b"" for node in files}]
        lost += [{id(node): version} for node in files for version in node.versions()]
        for chosen_names in names:
            for chosen_bytes in lost:
                yield dict(_listing(self.tree, "", chosen_names, chosen_bytes))


def _nodes(directory: Directory) -> Iterator[File | Directory]:
    yield directory
    seen = {id(node): node for node in [*directory.cached.values(), *directory.sure.values()]}
    for node in seen.values():
        if isinstance(node, Directory):
            yield from _nodes(node)
        else:
            yield node


def _listing(
    directory: Directory, path: str, names: dict[int, dict], contents: dict[int, bytes]
) -> Iterator[tuple[str, bytes | None]]:
    for name, node in sorted(names.get(id(directory), directory.cached).items()):
        where = f"{path}/{name}"
        if isinstance(node, Directory):
            yield where, None
            yield from _listing(node, where, names, contents)
        else:
            yield where, contents.get(id(node), node.cached)


def materialize(state: dict[str, bytes | None], root: Path) -> None:
    """Makes a directory tree of a state."""
    root.mkdir()
    for path, data in state.items():
        target = root / path[1:]
        if data is None:
            target.mkdir()
        else:
            descriptor = os.open(target, os.O_CREAT | os.O_WRONLY)
            os.write(descriptor, data)
            os.close(descriptor)


def bad_states(
    trace: list[Change],
    returned: list[int],
    root: Path,
    look: Callable[[dict[str, bytes]], object],
    known: dict[tuple, object],
) -> Iterator[str]:
    """Yields what is wrong with any state a power cut may leave of two saves, steps 1 and 2.

    `returned` says where in the trace each save had returned. `look` gives the step in force in a
    state, None before the first, or what is wrong; each state is looked at once, `known` keeps it.
    """
    device = Device(root)
    allowed: tuple = (None, 1)
    for i, change in enumerate(trace):
        device.play(change)
        if i + 1 == returned[0]:
            allowed = (1,)
        elif i + 1 == returned[1]:
            allowed = (2,)
        elif i == returned[0]:
            allowed = (1, 2)
        for disk in device.states():
            files = tuple((path, data) for path, data in disk.items() if "/.lease" not in path)
            if files not in known:
                known[files] = look(dict(files))
            if known[files] not in allowed:
                yield f"after {change[0]} ({i} of {len(trace)}): {known[files]}, not {allowed}"
