from serving.stubs import parameter_pb2 as _parameter_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoadRequest(_message.Message):
    __slots__ = ("version", "label")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    version: str
    label: str
    def __init__(self, version: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("version", "allow_other_features")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALLOW_OTHER_FEATURES_FIELD_NUMBER: _ClassVar[int]
    version: str
    allow_other_features: bool
    def __init__(self, version: _Optional[str] = ..., allow_other_features: _Optional[bool] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class UnloadRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class AdminReply(_message.Message):
    __slots__ = ("stamp",)
    STAMP_FIELD_NUMBER: _ClassVar[int]
    stamp: _parameter_pb2.Stamp
    def __init__(self, stamp: _Optional[_Union[_parameter_pb2.Stamp, _Mapping]] = ...) -> None: ...
