from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Output(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_FLOAT32: _ClassVar[Output]
    OUTPUT_FLOAT16: _ClassVar[Output]
    OUTPUT_CODEC: _ClassVar[Output]

class Unit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNIT_INTEGER: _ClassVar[Unit]
    UNIT_DAYS: _ClassVar[Unit]
    UNIT_SECONDS: _ClassVar[Unit]
    UNIT_MILLISECONDS: _ClassVar[Unit]
    UNIT_MICROSECONDS: _ClassVar[Unit]
    UNIT_NANOSECONDS: _ClassVar[Unit]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_START: _ClassVar[State]
    STATE_LOADING: _ClassVar[State]
    STATE_AVAILABLE: _ClassVar[State]
    STATE_DRAINING: _ClassVar[State]
    STATE_END: _ClassVar[State]
OUTPUT_FLOAT32: Output
OUTPUT_FLOAT16: Output
OUTPUT_CODEC: Output
UNIT_INTEGER: Unit
UNIT_DAYS: Unit
UNIT_SECONDS: Unit
UNIT_MILLISECONDS: Unit
UNIT_MICROSECONDS: Unit
UNIT_NANOSECONDS: Unit
STATE_UNSPECIFIED: State
STATE_START: State
STATE_LOADING: State
STATE_AVAILABLE: State
STATE_DRAINING: State
STATE_END: State

class Stamp(_message.Message):
    __slots__ = ("version", "digest", "counter")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    version: str
    digest: bytes
    counter: int
    def __init__(self, version: _Optional[str] = ..., digest: _Optional[bytes] = ..., counter: _Optional[int] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("version", "min_counter")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MIN_COUNTER_FIELD_NUMBER: _ClassVar[int]
    version: str
    min_counter: int
    def __init__(self, version: _Optional[str] = ..., min_counter: _Optional[int] = ...) -> None: ...

class Strings(_message.Message):
    __slots__ = ("data", "offsets")
    DATA_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    offsets: bytes
    def __init__(self, data: _Optional[bytes] = ..., offsets: _Optional[bytes] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "int64s", "strings", "doubles", "unit", "validity", "offsets", "list_validity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INT64S_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    VALIDITY_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    LIST_VALIDITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    int64s: bytes
    strings: Strings
    doubles: bytes
    unit: Unit
    validity: bytes
    offsets: bytes
    list_validity: bytes
    def __init__(self, name: _Optional[str] = ..., int64s: _Optional[bytes] = ..., strings: _Optional[_Union[Strings, _Mapping]] = ..., doubles: _Optional[bytes] = ..., unit: _Optional[_Union[Unit, str]] = ..., validity: _Optional[bytes] = ..., offsets: _Optional[bytes] = ..., list_validity: _Optional[bytes] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("choice", "features", "columns", "output", "unpooled", "max_reply_bytes")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    UNPOOLED_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    choice: Choice
    features: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    output: Output
    unpooled: bool
    max_reply_bytes: int
    def __init__(self, choice: _Optional[_Union[Choice, _Mapping]] = ..., features: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., output: _Optional[_Union[Output, str]] = ..., unpooled: _Optional[bool] = ..., max_reply_bytes: _Optional[int] = ...) -> None: ...

class LookupRowsRequest(_message.Message):
    __slots__ = ("choice", "rows", "output", "max_reply_bytes")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    choice: Choice
    rows: bytes
    output: Output
    max_reply_bytes: int
    def __init__(self, choice: _Optional[_Union[Choice, _Mapping]] = ..., rows: _Optional[bytes] = ..., output: _Optional[_Union[Output, str]] = ..., max_reply_bytes: _Optional[int] = ...) -> None: ...

class FeatureRows(_message.Message):
    __slots__ = ("count", "lookups", "offsets")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    count: int
    lookups: int
    offsets: bytes
    def __init__(self, count: _Optional[int] = ..., lookups: _Optional[int] = ..., offsets: _Optional[bytes] = ...) -> None: ...

class LookupReply(_message.Message):
    __slots__ = ("stamp", "features", "output", "row_bytes", "width", "padding", "rows")
    STAMP_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ROW_BYTES_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    stamp: Stamp
    features: _containers.RepeatedCompositeFieldContainer[FeatureRows]
    output: Output
    row_bytes: int
    width: int
    padding: bytes
    rows: bytes
    def __init__(self, stamp: _Optional[_Union[Stamp, _Mapping]] = ..., features: _Optional[_Iterable[_Union[FeatureRows, _Mapping]]] = ..., output: _Optional[_Union[Output, str]] = ..., row_bytes: _Optional[int] = ..., width: _Optional[int] = ..., padding: _Optional[bytes] = ..., rows: _Optional[bytes] = ...) -> None: ...

class GetManifestRequest(_message.Message):
    __slots__ = ("choice",)
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    choice: Choice
    def __init__(self, choice: _Optional[_Union[Choice, _Mapping]] = ...) -> None: ...

class FeatureInfo(_message.Message):
    __slots__ = ("name", "kind", "columns", "lookups", "key_class", "derive", "pooling")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    KEY_CLASS_FIELD_NUMBER: _ClassVar[int]
    DERIVE_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    columns: _containers.RepeatedScalarFieldContainer[str]
    lookups: int
    key_class: str
    derive: str
    pooling: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., columns: _Optional[_Iterable[str]] = ..., lookups: _Optional[int] = ..., key_class: _Optional[str] = ..., derive: _Optional[str] = ..., pooling: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_request_bytes", "max_reply_bytes", "max_lookups")
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    max_request_bytes: int
    max_reply_bytes: int
    max_lookups: int
    def __init__(self, max_request_bytes: _Optional[int] = ..., max_reply_bytes: _Optional[int] = ..., max_lookups: _Optional[int] = ...) -> None: ...

class GetManifestReply(_message.Message):
    __slots__ = ("stamp", "manifest", "features", "rows", "width", "codec", "tensors", "limits")
    STAMP_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    stamp: Stamp
    manifest: bytes
    features: _containers.RepeatedCompositeFieldContainer[FeatureInfo]
    rows: int
    width: int
    codec: str
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    limits: Limits
    def __init__(self, stamp: _Optional[_Union[Stamp, _Mapping]] = ..., manifest: _Optional[bytes] = ..., features: _Optional[_Iterable[_Union[FeatureInfo, _Mapping]]] = ..., rows: _Optional[int] = ..., width: _Optional[int] = ..., codec: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Version(_message.Message):
    __slots__ = ("name", "digest", "state", "error", "labels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: bytes
    state: State
    error: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[bytes] = ..., state: _Optional[_Union[State, str]] = ..., error: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class ListVersionsReply(_message.Message):
    __slots__ = ("stamp", "versions", "pinned")
    STAMP_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    stamp: Stamp
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    pinned: str
    def __init__(self, stamp: _Optional[_Union[Stamp, _Mapping]] = ..., versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ..., pinned: _Optional[str] = ...) -> None: ...

class FetchShardRequest(_message.Message):
    __slots__ = ("version", "file", "offset")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    version: str
    file: str
    offset: int
    def __init__(self, version: _Optional[str] = ..., file: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchShardReply(_message.Message):
    __slots__ = ("stamp", "offset", "data")
    STAMP_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    stamp: Stamp
    offset: int
    data: bytes
    def __init__(self, stamp: _Optional[_Union[Stamp, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
