"""The client: numpy in, numpy out. It needs no torch.

client = muxtable.Client("10.0.0.7:50051")
found = client.lookup({"user_id": np.array([3, 5]), "city": ["Paris", None]})
found["city"]          # float32[2, lookups x width]
found.version, found.counter
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from features.errors import NotFoundError, StateError
from serving.session import Ask, Embeddings, Model, OnWire, Session
from serving.stubs import admin_pb2
from serving.stubs import parameter_pb2 as pb
from serving.wire import MAX_REPLY_BYTES, Wire

# A lookup in parts begins anew when its version is unloaded between two of them.
MOST_BEGINNINGS = 3


class Client:
    """A parameter service at `target` (host:port); safe for any number of threads.

    `wire` is what rows travel as: the codec's own bytes, decoded here, unless you say otherwise.
    `timeout_s` bounds each call of a method with all its tries. Raises MuxtableErrors.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 5.0,
        wire: OnWire = "codec",
        token: str | None = None,
        tls: bool = False,
        ca: bytes | None = None,
        cert: bytes | None = None,
        key: bytes | None = None,
        channels: int = 2,
        dedup: bool = True,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self._timeout_s = timeout_s
        self._session = Session(wire, dedup, max_reply_bytes)
        self._wire = Wire(
            target,
            token=token,
            tls=tls,
            ca=ca,
            cert=cert,
            key=key,
            channels=channels,
            max_reply_bytes=max_reply_bytes,
        )
        self._pool = ThreadPoolExecutor(max(channels, 1), "muxtable-client")
        self._last: bytes = b""

    def lookup(
        self,
        values: Mapping[str, Any],
        features: Sequence[str] | None = None,
        *,
        version: str = "",
        pooled: bool = True,
    ) -> Embeddings:
        """Returns the vectors of columns' values, by feature.

        `features` None means all that these columns make. `version` is a name or a label. Lists
        that are not pooled come as `Ragged`. All vectors are of one version, however many calls it
        takes. Raises DataError, NotFoundError, StateError, LimitError, AccessError, or
        UnavailableError where there is no answer in time.
        """
        for beginning in range(MOST_BEGINNINGS):
            model = self._model(version)
            ask = self._session.ask(model, values, features, pooled)
            try:
                return self._answered(ask, version)
            except (NotFoundError, StateError):
                if len(ask.bounds) == 1 or beginning + 1 == MOST_BEGINNINGS:
                    raise
        raise AssertionError

    def manifest(self, version: str = "") -> pb.GetManifestReply:
        """Returns what a version holds, and what the service takes."""
        return self._wire.get_manifest(self._session.choice(version), self._timeout_s)

    def versions(self) -> pb.ListVersionsReply:
        """Returns the versions of the service with their states."""
        return self._wire.list_versions(self._timeout_s)

    def load(self, version: str, label: str = "", timeout_s: float = 600.0) -> pb.Stamp:
        """Makes the service verify and warm a version; returns what is in force."""
        request = admin_pb2.LoadRequest(version=version, label=label)
        return self._wire.command("Load", request, timeout_s).stamp

    def promote(
        self, version: str, *, other_features: bool = False, timeout_s: float = 60.0
    ) -> pb.Stamp:
        """Puts a loaded version in force; returns when every process has it."""
        request = admin_pb2.PromoteRequest(version=version, allow_other_features=other_features)
        return self._wire.command("Promote", request, timeout_s).stamp

    def rollback(self, timeout_s: float = 600.0) -> pb.Stamp:
        """Puts the version before the current one in force."""
        return self._wire.command("Rollback", admin_pb2.RollbackRequest(), timeout_s).stamp

    def pin(self, version: str, timeout_s: float = 60.0) -> pb.Stamp:
        """Keeps the current version in force; "" lets go."""
        return self._wire.command("Pin", admin_pb2.PinRequest(version=version), timeout_s).stamp

    def unload(self, version: str, timeout_s: float = 60.0) -> pb.Stamp:
        """Makes the service let go of a version."""
        request = admin_pb2.UnloadRequest(version=version)
        return self._wire.command("Unload", request, timeout_s).stamp

    def close(self) -> None:
        """Closes the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _model(self, version: str) -> Model:
        """Returns what is known of a version: that of the last reply, or what the service says."""
        known = self._session.known(self._last) if version == "" else None
        return known or self._session.learn(self.manifest(version))

    def _answered(self, ask: Ask, version: str) -> Embeddings:
        session = self._session

        def send(part: int, name: str) -> tuple[pb.LookupReply, memoryview]:
            return session.heard(
                self._wire.lookup(session.request(ask, part, name), self._timeout_s)
            )

        first = send(0, version)
        stamp = first[0].stamp
        rest = self._pool.map(lambda part: send(part, stamp.version), range(1, len(ask.bounds)))
        replies = [first, *rest]
        model = session.known(stamp.digest) or session.learn(self.manifest(stamp.version))
        if version == "":
            self._last = stamp.digest
        return session.embeddings(model, ask, replies)
