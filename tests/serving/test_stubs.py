import subprocess
import sys

from google.protobuf import descriptor_pb2

from serving.guard import ROLES
from serving.server import METHODS
from serving.stubs import admin_pb2, parameter_pb2
from tests.launch.command import ROOT


def test_the_generated_classes_are_those_of_the_proto_files(tmp_path):
    out = tmp_path / "set"
    files = ["muxtable/v1/parameter.proto", "muxtable/v1/admin.proto"]
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", "proto"),
            *(f"--descriptor_set_out={out}", *files),
        ],
        cwd=ROOT,
        check=True,
    )

    compiled = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())

    for module, file in zip((parameter_pb2, admin_pb2), compiled.file, strict=True):
        ours = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(ours)
        for each in (ours, file):
            each.ClearField("source_code_info")
            for message in each.message_type:
                for field in message.field:
                    field.ClearField("json_name")
        assert ours == file


def test_every_method_has_a_role():
    assert set(METHODS) <= set(ROLES)
