"""The .proto alone: a client that imports nothing of ours gets the right rows."""

import json
import subprocess
import sys

from features.batches import KeyColumn
from features.hashing import key_of
from storage.snapshot import open_snapshot
from tests.launch.command import ROOT
from tests.serving.service import served
from tests.serving.small import write_version

# As grpcurl does it: descriptors compiled from the files, messages made of them by name.
STRANGER = """
import json, struct, sys
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

files = descriptor_pb2.FileDescriptorSet.FromString(open(sys.argv[1], "rb").read())
pool = descriptor_pool.DescriptorPool()
for file in files.file:
    pool.Add(file)
method = pool.FindMethodByName("muxtable.v1.ParameterService.Lookup")
Request = message_factory.GetMessageClass(method.input_type)
Reply = message_factory.GetMessageClass(method.output_type)

request = Request()
user = request.columns.add(name="user", int64s=struct.pack("<3q", 5, 0, -9))
user.validity = bytes([0b101])
words = [b"Paris", b"", b"Oslo"]
city = request.columns.add(name="city")
city.strings.data = b"".join(words)
city.strings.offsets = struct.pack("<4i", 0, 5, 5, 9)
tags = request.columns.add(name="tags", offsets=struct.pack("<4i", 0, 2, 2, 3))
tags.strings.data = b"abc"
tags.strings.offsets = struct.pack("<4i", 0, 1, 2, 3)
request.features.extend(["user", "user_city", "tags"])

with grpc.insecure_channel(sys.argv[2]) as channel:
    call = channel.unary_unary(
        "/muxtable.v1.ParameterService/Lookup",
        request_serializer=Request.SerializeToString,
        response_deserializer=Reply.FromString,
    )
    reply = call(request)
rows, found = memoryview(reply.rows).cast("f"), []
at = 0
for feature in reply.features:
    size = feature.count * feature.lookups * reply.width
    found.append(list(rows[at : at + size]))
    at += size
ours = [name for name in sys.modules if name.split(".")[0] in ("serving", "features", "muxtable")]
print(json.dumps({"version": reply.stamp.version, "found": found, "ours": ours}))
"""


def test_a_client_made_of_the_proto_files_alone_gets_the_right_rows(tmp_path):
    write_version(tmp_path / "versions", 1)
    descriptors = tmp_path / "descriptors"
    files = ["muxtable/v1/parameter.proto", "muxtable/v1/admin.proto"]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto"]
    subprocess.run([*protoc, f"--descriptor_set_out={descriptors}", *files], cwd=ROOT, check=True)
    with open_snapshot(tmp_path / "versions" / "v-0000000001") as snapshot:
        import numpy as np

        from features.hashing import cross_keys

        user = np.array([5, 0, 2**64 - 9], np.uint64)
        nulls = np.array([0, 1, 0], np.uint8)
        city = np.array([key_of(word) for word in ("Paris", "", "Oslo")], np.uint64)
        tags = np.array([key_of(word) for word in "abc"], np.uint64)
        expected = [
            snapshot.lookup("user", KeyColumn(user, nulls)),
            snapshot.lookup("user_city", KeyColumn(cross_keys([(user, nulls), (city, None)]))),
            snapshot.lookup("tags", KeyColumn(tags, None, np.array([0, 2, 2, 3]))),
        ]

    with served(tmp_path / "versions") as service:
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, str(descriptors), f"127.0.0.1:{service.port}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["ours"] == []
    assert said["version"] == "v-0000000001"
    for found, vectors in zip(said["found"], expected, strict=True):
        assert found == vectors.reshape(-1).tolist()
