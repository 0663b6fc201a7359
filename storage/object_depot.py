"""A prefix of an object store with bundles in it, and one object CURRENT that rules them.

    <prefix>/CURRENT                            see below
    <prefix>/step-0000001234-3000/<files>       data objects, through pyarrow
    <prefix>/step-0000001234-3000/manifest.json put last, where none is: the bundle's commit

CURRENT is canonical JSON with a crc32: who owns the prefix (`attempt`, its `number`, `lineage`) and
which bundle is in force (`name`, `digest`, `counter`; null before the first). It is only ever
replaced by a put whose condition is the ETag of the one before. Starting replaces it, and so does
each commit: an older process that still runs finds another ETag and can commit no more, whenever it
comes. No lock and no lease is needed for that.

The number of the attempt is part of every bundle's name, so no two processes write to one key.
What is incomplete and of an older attempt was left by a process that may not go on; it is removed.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from features.errors import SnapshotError
from storage.depot import Draft
from storage.documents import decode_document, encode_document
from storage.fsops import translated
from storage.manifest import Kind
from storage.names import MANIFEST, check_name, is_name
from storage.object_writer import ObjectDraft, ObjectPartsWriter
from storage.objects import ObjectStore
from storage.parts import PartsWriter
from storage.places import ObjectPath
from storage.pointer import POINTER, Pointer

_KEYS = frozenset({"attempt", "counter", "digest", "lineage", "name", "number"})
_FIX = "restore it from a copy, or set run.checkpoints to another prefix"
_TRIES = 20
# Bundles of one step by one attempt.
_PER_ATTEMPT = 1000


class ObjectDepot:
    """The depot of a prefix."""

    def __init__(self, place: ObjectPath) -> None:
        self.place = place
        self.store = ObjectStore.at_hand()

    def names(self) -> list[str]:
        """Returns the names there, sorted."""
        with translated("list the checkpoints", self.place):
            return self.store.folders(self.place)

    def has_bundle(self, name: str) -> bool:
        """Whether a manifest was put under that name."""
        with translated("look for a checkpoint", self.place):
            return MANIFEST in self.store.sizes(self.place / name)

    def pointer(self) -> Pointer | None:
        """Returns the bundle in force."""
        found = self.current()
        if found is None or found[0]["name"] is None:
            return None
        document = found[0]
        return Pointer(
            name=document["name"], digest=document["digest"], counter=document["counter"]
        )

    def take(self, attempt: str | None) -> "ObjectTenure":
        """Replaces CURRENT by one of the same bundle and this attempt."""
        token = check_name("attempt", attempt or secrets.token_hex(8))
        for _ in range(_TRIES):
            found = self.current()
            document, etag = found or (None, None)
            document = document or {
                "counter": 0,
                "digest": None,
                "lineage": secrets.token_hex(8),
                "name": None,
                "number": 0,
            }
            document |= {"attempt": token, "number": document["number"] + 1}
            mine = self.replace(document, etag)
            if mine is not None:
                self._check_conditions(document)
                tenure = ObjectTenure(self, document, mine)
                tenure.sweep()
                return tenure
        raise SnapshotError(
            f'others take "{self.place}" over all the time', "end the other processes of this run"
        )

    def join(self, label: str, prefix: str, *, threads: int, copy_budget: int) -> PartsWriter:
        """Returns what another process writes its objects of a draft with."""
        return ObjectPartsWriter(
            self.place / label, self.store, prefix=prefix, threads=threads, copy_budget=copy_budget
        )

    def put_word(self, word: str, attempt: str) -> str:
        """Writes a small object."""
        path = self.place / f"probe-{attempt}-{secrets.token_hex(4)}"
        with translated("write a probe", self.place):
            self.store.put_if(path, word.encode(), None)
        return path.name

    def word(self, label: str) -> str | None:
        """Returns what such an object holds."""
        with translated("read a probe", self.place):
            found = self.store.read(self.place / label)
        return found[0].decode(errors="replace") if found else None

    def drop_word(self, label: str) -> None:
        """Removes such an object."""
        with translated("remove a probe", self.place):
            self.store.remove(self.place / label)

    def current(self) -> tuple[dict[str, Any], str] | None:
        """Returns CURRENT and its ETag, None where there is none; refuses a damaged one."""
        with translated(f"read {POINTER}", self.place):
            found = self.store.read(self.place / POINTER)
        if found is None:
            return None
        where = f'"{self.place / POINTER}"'
        document = decode_document(found[0], where, _KEYS, _FIX)
        name, digest = document["name"], document["digest"]
        is_none = name is None and digest is None
        is_sound = (
            all(isinstance(document[key], str) for key in ("attempt", "lineage"))
            and all(type(document[key]) is int for key in ("counter", "number"))
            and (is_none or (isinstance(name, str) and is_name("bundle", name)))
            and (is_none or (isinstance(digest, str) and is_name("digest", digest)))
        )
        if not is_sound:
            raise SnapshotError(f"{where} does not name a bundle and its owner", _FIX)
        return document, found[1]

    def replace(self, document: Mapping[str, Any], etag: str | None) -> str | None:
        """Replaces the CURRENT of that ETag; returns the new ETag, None where it is another."""
        with translated(f"write {POINTER}", self.place):
            return self.store.put_if(self.place / POINTER, encode_document(document), etag)

    def _check_conditions(self, document: Mapping[str, Any]) -> None:
        """Raises SnapshotError where the server ignores the conditions everything relies on.

        Both puts have to be refused; else they write what is there already.
        """
        if self.replace(document, None) is not None or self.replace(document, '"none"') is not None:
            raise SnapshotError(
                f'the server of "{self.place}" ignores the conditions If-None-Match and If-Match',
                "use a server that has conditional writes (S3 has, MinIO since 2024), or a folder",
            )


class ObjectTenure:
    """The right to replace CURRENT: its last ETag."""

    def __init__(self, depot: ObjectDepot, document: Mapping[str, Any], etag: str) -> None:
        self._depot = depot
        self._document = dict(document)
        self._etag = etag
        self.token: str = document["attempt"]
        self.lineage: str = document["lineage"]
        self.number: int = document["number"]

    def free_name(self, base: str) -> str:
        """Returns `base` with a number that is this attempt's alone."""
        names = self._depot.names()
        first = self.number * _PER_ATTEMPT
        for number in range(first, first + _PER_ATTEMPT):
            if f"{base}-{number}" not in names:
                return f"{base}-{number}"
        raise SnapshotError(f'"{base}" was saved {_PER_ATTEMPT} times', "start the run again")

    def begin(
        self, name: str, kind: Kind, parent_digest: str | None, *, threads: int, copy_budget: int
    ) -> ObjectDraft:
        """Begins a bundle under its final name: it counts when its manifest is there."""
        return ObjectDraft(
            self._depot.place / name,
            self._depot.store,
            kind,
            self.token,
            parent_digest,
            threads=threads,
            copy_budget=copy_budget,
        )

    def commit(self, draft: Draft, digest: str, counter: int) -> None:
        """Puts the manifest, then CURRENT."""
        assert isinstance(draft, ObjectDraft)  # noqa: S101
        name = draft.path.name
        document = self._document | {"name": name, "digest": digest, "counter": counter}
        try:
            self._check_held()
            draft.publish()
            etag = self._depot.replace(document, self._etag)
            if etag is None:
                self._check_held()
                raise SnapshotError(
                    f'"{self._depot.place / POINTER}" was replaced meanwhile',
                    "end the other processes of this run",
                )
        except BaseException:
            if not (draft.is_published and self._may_be_in_force(name)):
                draft.discard()
            raise
        self._etag, self._document = etag, document

    def remove(self, names: Sequence[str]) -> None:
        """Removes bundles, the manifest of each first, so that none is seen half removed."""
        self._check_held()
        for name in names:
            self._remove(name)

    def sweep(self) -> None:
        """Removes what older attempts have not completed; they may not go on."""
        for name in self._depot.names():
            number = name.rpartition("-")[2]
            is_ours = name.count("-") == 2 and number.isdecimal()
            is_old = is_ours and int(number) // _PER_ATTEMPT < self.number
            if is_old and not self._depot.has_bundle(name):
                self._remove(name)

    def close(self) -> None:
        """Nothing is held."""

    def _remove(self, name: str) -> None:
        path = self._depot.place / name
        with translated(f'remove "{name}"', self._depot.place):
            self._depot.store.remove(path / MANIFEST)
            for each in self._depot.store.sizes(path):
                self._depot.store.remove(path / each)

    def _check_held(self) -> None:
        """Raises SnapshotError where a newer attempt has taken over."""
        found = self._depot.current()
        if found is None or found[1] != self._etag:
            newer = f'attempt "{found[0]["attempt"]}" has' if found else "somebody has"
            raise SnapshotError(
                f'attempt "{self.token}" may no longer write into "{self._depot.place}":'
                f" {newer} taken it over",
                "end this process; the newer one goes on from the last checkpoint",
            )

    def _may_be_in_force(self, name: str) -> bool:
        try:
            pointer = self._depot.pointer()
        except SnapshotError:
            return True
        return pointer is not None and pointer.name == name
