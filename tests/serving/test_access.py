import socket
import ssl
import time

import grpc
import pytest

from features.errors import AccessError, ConfigError
from serving.access import Access, Role
from serving.client import Client
from serving.guard import ROLES
from serving.server import ADMIN, PARAMETER
from tests.serving.certificates import Authority
from tests.serving.service import served
from tests.serving.small import write_version

FIRST = "v-0000000001"
TOKENS = {"read": "r" * 20, "replicate": "p" * 20, "admin": "a" * 20}
METHODS = [
    (service.full_name, method) for service in (PARAMETER, ADMIN) for method in service.methods
]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def access_file(directory):
    path = directory / "access"
    lines = [f"{role} token {token}  # a comment" for role, token in TOKENS.items()]
    path.write_text("\n".join(["# roles", "", *lines, "read san reader.test\n"]))
    return path


def status(channel, service, method, metadata=()):
    """The status of a call with an empty request: what the guard says, or the method itself."""
    path = f"/{service}/{method.name}"
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    try:
        call = kind(path, None, None)(b"", metadata=metadata, timeout=5)
        if method.server_streaming:
            next(iter(call))
            call.cancel()
        return grpc.StatusCode.OK
    except grpc.RpcError as exc:
        return exc.code()


REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def allowed(code):
    return code not in REFUSALS


def test_every_method_asks_every_caller_for_its_role(tmp_path):
    write_version(tmp_path / "versions", 1)
    with (
        served(tmp_path / "versions", access=access_file(tmp_path), reflection=True) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        for name, method in METHODS:
            needed = ROLES[method.name]
            nobody = status(channel, name, method)
            wrong = status(channel, name, method, [("authorization", "Bearer nobody")])
            basic = status(channel, name, method, [("authorization", "Basic eDp5")])
            assert {nobody, wrong, basic} == {grpc.StatusCode.UNAUTHENTICATED}
            for role, token in TOKENS.items():
                header = [("authorization", f"Bearer {token}")]
                found = status(channel, name, method, header)
                if Role[role.upper()] < needed:
                    assert found == grpc.StatusCode.PERMISSION_DENIED, (method.name, role)
                else:
                    assert allowed(found), (method.name, role)
        call = channel.stream_stream(REFLECTION, None, None)(iter([]))
        with pytest.raises(grpc.RpcError) as refused:
            list(call)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_reflection_is_off_unless_asked_for(tmp_path):
    write_version(tmp_path, 1)
    with (
        served(tmp_path) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        list(channel.stream_stream(REFLECTION, None, None)(iter([])))
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_tokens_can_be_exchanged_while_it_runs(tmp_path):
    write_version(tmp_path / "versions", 1)
    path = access_file(tmp_path)
    with served(tmp_path / "versions", access=path) as service:
        address = f"127.0.0.1:{service.port}"
        with Client(address, token=TOKENS["read"]) as old, Client(address, token="new") as new:
            old.lookup({"user": [1]})
            with pytest.raises(AccessError):
                new.lookup({"user": [1]})
            path.write_text(f"read token {TOKENS['read']}\nread token new\n")
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                old.lookup({"user": [1]})
                try:
                    new.lookup({"user": [1]})
                    break
                except AccessError:
                    time.sleep(0.1)
            new.lookup({"user": [1]})
            path.write_text("nonsense\n")
            time.sleep(1.2)
            new.lookup({"user": [1]})  # a file that cannot be read changes nothing


def test_certificates_say_who_calls(tmp_path):
    write_version(tmp_path / "versions", 1)
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "other")
    server, reader = ours.issue("server.test"), ours.issue("reader.test")
    wrong_name, expired = ours.issue("someone.test"), ours.issue("old.test", expired=True)
    foreign = theirs.issue("reader.test.other")
    options = {
        "tls_cert": server.cert,
        "tls_key": server.key,
        "client_ca": ours.path,
        "access": access_file(tmp_path),
    }
    with served(tmp_path / "versions", **options) as service:
        address = f"127.0.0.1:{service.port}"

        def outcome(issued=None, **more):
            keys = {}
            if issued is not None:
                keys = {"cert": issued.cert.read_bytes(), "key": issued.key.read_bytes()}
            with Client(address, ca=ours.path.read_bytes(), timeout_s=1, **keys, **more) as client:
                try:
                    client.lookup({"user": [1]})
                    return "OK"
                except Exception as exc:  # noqa: BLE001
                    return type(exc).__name__

        assert outcome(reader) == "OK"
        assert outcome(wrong_name) == "AccessError"
        assert outcome(wrong_name, token=TOKENS["read"]) == "OK"
        assert outcome(expired) == "UnavailableError"
        assert outcome(foreign) == "UnavailableError"
        assert outcome() == "UnavailableError"
        with Client(address, timeout_s=1) as plain, pytest.raises(Exception, match="127"):
            plain.lookup({"user": [1]})
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", service.port)) as raw,
            pytest.raises(ssl.SSLError),
        ):
            context.wrap_socket(raw)


@pytest.mark.parametrize("line", ["root token x", "read", "read password x", "none token x"])
def test_a_file_of_roles_that_is_none_is_refused_at_the_start(tmp_path, line):
    path = tmp_path / "access"
    path.write_text(line + "\n")

    with pytest.raises(ConfigError, match="line 1"):
        Access(path, Role.READ)
