from sheepfold_wire.v1 import shard_pb2 as _shard_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdmitRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AdmitReply(_message.Message):
    __slots__ = ("token", "seconds")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    token: str
    seconds: float
    def __init__(self, token: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class CreateJobRequest(_message.Message):
    __slots__ = ("request_id", "config_json", "manifest_json")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    config_json: str
    manifest_json: str
    def __init__(self, request_id: _Optional[str] = ..., config_json: _Optional[str] = ..., manifest_json: _Optional[str] = ...) -> None: ...

class CreateJobReply(_message.Message):
    __slots__ = ("job", "is_new")
    JOB_FIELD_NUMBER: _ClassVar[int]
    IS_NEW_FIELD_NUMBER: _ClassVar[int]
    job: str
    is_new: bool
    def __init__(self, job: _Optional[str] = ..., is_new: bool = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("job", "worker", "host", "pid", "manifest_json", "is_reader", "data_samples", "data_fingerprint", "device", "network", "versions", "zone")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    IS_READER_FIELD_NUMBER: _ClassVar[int]
    DATA_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DATA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    host: str
    pid: int
    manifest_json: str
    is_reader: bool
    data_samples: int
    data_fingerprint: str
    device: str
    network: str
    versions: str
    zone: str
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., manifest_json: _Optional[str] = ..., is_reader: bool = ..., data_samples: _Optional[int] = ..., data_fingerprint: _Optional[str] = ..., device: _Optional[str] = ..., network: _Optional[str] = ..., versions: _Optional[str] = ..., zone: _Optional[str] = ...) -> None: ...

class ShardTraffic(_message.Message):
    __slots__ = ("shard", "bytes_up", "seconds_up", "bytes_down", "seconds_down", "way")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    SECONDS_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    SECONDS_DOWN_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    shard: int
    bytes_up: int
    seconds_up: float
    bytes_down: int
    seconds_down: float
    way: str
    def __init__(self, shard: _Optional[int] = ..., bytes_up: _Optional[int] = ..., seconds_up: _Optional[float] = ..., bytes_down: _Optional[int] = ..., seconds_down: _Optional[float] = ..., way: _Optional[str] = ...) -> None: ...

class WorkerUsage(_message.Message):
    __slots__ = ("slot_seconds", "data_wait_seconds", "round_trip_seconds", "traffic")
    SLOT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DATA_WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    slot_seconds: float
    data_wait_seconds: float
    round_trip_seconds: float
    traffic: _containers.RepeatedCompositeFieldContainer[ShardTraffic]
    def __init__(self, slot_seconds: _Optional[float] = ..., data_wait_seconds: _Optional[float] = ..., round_trip_seconds: _Optional[float] = ..., traffic: _Optional[_Iterable[_Union[ShardTraffic, _Mapping]]] = ...) -> None: ...

class ShardAddress(_message.Message):
    __slots__ = ("shard", "address", "incarnation")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    shard: int
    address: str
    incarnation: int
    def __init__(self, shard: _Optional[int] = ..., address: _Optional[str] = ..., incarnation: _Optional[int] = ...) -> None: ...

class AttachReply(_message.Message):
    __slots__ = ("job", "worker", "term", "lineage", "version", "manifest_json", "config_json", "shards", "heartbeat_seconds", "durability")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    term: int
    lineage: str
    version: int
    manifest_json: str
    config_json: str
    shards: _containers.RepeatedCompositeFieldContainer[ShardAddress]
    heartbeat_seconds: float
    durability: str
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., term: _Optional[int] = ..., lineage: _Optional[str] = ..., version: _Optional[int] = ..., manifest_json: _Optional[str] = ..., config_json: _Optional[str] = ..., shards: _Optional[_Iterable[_Union[ShardAddress, _Mapping]]] = ..., heartbeat_seconds: _Optional[float] = ..., durability: _Optional[str] = ...) -> None: ...

class AttemptEnd(_message.Message):
    __slots__ = ("attempt", "reason", "is_committed", "number")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IS_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    attempt: _shard_pb2.AttemptId
    reason: str
    is_committed: bool
    number: int
    def __init__(self, attempt: _Optional[_Union[_shard_pb2.AttemptId, _Mapping]] = ..., reason: _Optional[str] = ..., is_committed: bool = ..., number: _Optional[int] = ...) -> None: ...

class FileRange(_message.Message):
    __slots__ = ("file", "first", "count")
    FILE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    file: str
    first: int
    count: int
    def __init__(self, file: _Optional[str] = ..., first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("job", "worker", "holding", "wait_seconds", "ends_heard", "plans_ahead")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENDS_HEARD_FIELD_NUMBER: _ClassVar[int]
    PLANS_AHEAD_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    holding: _containers.RepeatedCompositeFieldContainer[_shard_pb2.AttemptId]
    wait_seconds: float
    ends_heard: int
    plans_ahead: bool
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., holding: _Optional[_Iterable[_Union[_shard_pb2.AttemptId, _Mapping]]] = ..., wait_seconds: _Optional[float] = ..., ends_heard: _Optional[int] = ..., plans_ahead: bool = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("attempt", "is_init", "base_version", "sample_start", "sample_count", "seed", "lease_seconds", "step", "slot", "sequence", "stride", "files", "loss_scale")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    IS_INIT_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_START_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    LOSS_SCALE_FIELD_NUMBER: _ClassVar[int]
    attempt: _shard_pb2.AttemptId
    is_init: bool
    base_version: int
    sample_start: int
    sample_count: int
    seed: int
    lease_seconds: float
    step: int
    slot: int
    sequence: int
    stride: int
    files: _containers.RepeatedCompositeFieldContainer[FileRange]
    loss_scale: float
    def __init__(self, attempt: _Optional[_Union[_shard_pb2.AttemptId, _Mapping]] = ..., is_init: bool = ..., base_version: _Optional[int] = ..., sample_start: _Optional[int] = ..., sample_count: _Optional[int] = ..., seed: _Optional[int] = ..., lease_seconds: _Optional[float] = ..., step: _Optional[int] = ..., slot: _Optional[int] = ..., sequence: _Optional[int] = ..., stride: _Optional[int] = ..., files: _Optional[_Iterable[_Union[FileRange, _Mapping]]] = ..., loss_scale: _Optional[float] = ...) -> None: ...

class LeaseReply(_message.Message):
    __slots__ = ("state", "version", "why", "lease", "ends")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    state: str
    version: int
    why: str
    lease: Lease
    ends: _containers.RepeatedCompositeFieldContainer[AttemptEnd]
    def __init__(self, state: _Optional[str] = ..., version: _Optional[int] = ..., why: _Optional[str] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., ends: _Optional[_Iterable[_Union[AttemptEnd, _Mapping]]] = ...) -> None: ...

class AttemptProgress(_message.Message):
    __slots__ = ("attempt", "done")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    attempt: _shard_pb2.AttemptId
    done: int
    def __init__(self, attempt: _Optional[_Union[_shard_pb2.AttemptId, _Mapping]] = ..., done: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("job", "worker", "progress", "ends_heard", "usage", "wait_seconds")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ENDS_HEARD_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    progress: _containers.RepeatedCompositeFieldContainer[AttemptProgress]
    ends_heard: int
    usage: WorkerUsage
    wait_seconds: float
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., progress: _Optional[_Iterable[_Union[AttemptProgress, _Mapping]]] = ..., ends_heard: _Optional[int] = ..., usage: _Optional[_Union[WorkerUsage, _Mapping]] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("state", "version", "ends", "held_seconds")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    HELD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    state: str
    version: int
    ends: _containers.RepeatedCompositeFieldContainer[AttemptEnd]
    held_seconds: float
    def __init__(self, state: _Optional[str] = ..., version: _Optional[int] = ..., ends: _Optional[_Iterable[_Union[AttemptEnd, _Mapping]]] = ..., held_seconds: _Optional[float] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("job", "worker", "attempts", "is_leaving", "reason", "staged")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    IS_LEAVING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    attempts: _containers.RepeatedCompositeFieldContainer[_shard_pb2.AttemptId]
    is_leaving: bool
    reason: str
    staged: _containers.RepeatedCompositeFieldContainer[_shard_pb2.AttemptId]
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., attempts: _Optional[_Iterable[_Union[_shard_pb2.AttemptId, _Mapping]]] = ..., is_leaving: bool = ..., reason: _Optional[str] = ..., staged: _Optional[_Iterable[_Union[_shard_pb2.AttemptId, _Mapping]]] = ...) -> None: ...

class ReleaseReply(_message.Message):
    __slots__ = ("released",)
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    released: int
    def __init__(self, released: _Optional[int] = ...) -> None: ...

class ConfigChangeRequest(_message.Message):
    __slots__ = ("request_id", "job", "from_step", "changes_json", "author")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    CHANGES_JSON_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    job: str
    from_step: int
    changes_json: str
    author: str
    def __init__(self, request_id: _Optional[str] = ..., job: _Optional[str] = ..., from_step: _Optional[int] = ..., changes_json: _Optional[str] = ..., author: _Optional[str] = ...) -> None: ...

class ConfigChangeReply(_message.Message):
    __slots__ = ("from_step",)
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    from_step: int
    def __init__(self, from_step: _Optional[int] = ...) -> None: ...

class ControlRequest(_message.Message):
    __slots__ = ("job", "action", "author")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    job: str
    action: str
    author: str
    def __init__(self, job: _Optional[str] = ..., action: _Optional[str] = ..., author: _Optional[str] = ...) -> None: ...

class ControlReply(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: str
    def __init__(self, state: _Optional[str] = ...) -> None: ...

class SampleRange(_message.Message):
    __slots__ = ("start", "count")
    START_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    start: int
    count: int
    def __init__(self, start: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class RewindRequest(_message.Message):
    __slots__ = ("request_id", "job", "to_version", "skip", "author")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    TO_VERSION_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    job: str
    to_version: int
    skip: _containers.RepeatedCompositeFieldContainer[SampleRange]
    author: str
    def __init__(self, request_id: _Optional[str] = ..., job: _Optional[str] = ..., to_version: _Optional[int] = ..., skip: _Optional[_Iterable[_Union[SampleRange, _Mapping]]] = ..., author: _Optional[str] = ...) -> None: ...

class RewindReply(_message.Message):
    __slots__ = ("lineage", "version")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    version: int
    def __init__(self, lineage: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class CheckpointRequest(_message.Message):
    __slots__ = ("job", "author")
    JOB_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    job: str
    author: str
    def __init__(self, job: _Optional[str] = ..., author: _Optional[str] = ...) -> None: ...

class CheckpointReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("request_id", "job", "version", "author", "accepts_new_numerics")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    ACCEPTS_NEW_NUMERICS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    job: str
    version: int
    author: str
    accepts_new_numerics: bool
    def __init__(self, request_id: _Optional[str] = ..., job: _Optional[str] = ..., version: _Optional[int] = ..., author: _Optional[str] = ..., accepts_new_numerics: bool = ...) -> None: ...

class RestoreReply(_message.Message):
    __slots__ = ("lineage", "version", "passed_over")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PASSED_OVER_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    version: int
    passed_over: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lineage: _Optional[str] = ..., version: _Optional[int] = ..., passed_over: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("request_id", "job", "author", "without_checkpoint")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    job: str
    author: str
    without_checkpoint: bool
    def __init__(self, request_id: _Optional[str] = ..., job: _Optional[str] = ..., author: _Optional[str] = ..., without_checkpoint: bool = ...) -> None: ...

class DeleteJobReply(_message.Message):
    __slots__ = ("version", "kept_version", "checkpoint_url", "shards_away")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KEPT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    SHARDS_AWAY_FIELD_NUMBER: _ClassVar[int]
    version: int
    kept_version: int
    checkpoint_url: str
    shards_away: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, version: _Optional[int] = ..., kept_version: _Optional[int] = ..., checkpoint_url: _Optional[str] = ..., shards_away: _Optional[_Iterable[int]] = ...) -> None: ...

class ChoreRequest(_message.Message):
    __slots__ = ("job", "worker", "name", "every")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    name: str
    every: int
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., name: _Optional[str] = ..., every: _Optional[int] = ...) -> None: ...

class ChoreReply(_message.Message):
    __slots__ = ("is_yours", "is_over", "next_version", "version")
    IS_YOURS_FIELD_NUMBER: _ClassVar[int]
    IS_OVER_FIELD_NUMBER: _ClassVar[int]
    NEXT_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    is_yours: bool
    is_over: bool
    next_version: int
    version: int
    def __init__(self, is_yours: bool = ..., is_over: bool = ..., next_version: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class EvaluationRequest(_message.Message):
    __slots__ = ("job", "version", "metrics", "author")
    JOB_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    job: str
    version: int
    metrics: _containers.RepeatedCompositeFieldContainer[_shard_pb2.Metric]
    author: str
    def __init__(self, job: _Optional[str] = ..., version: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[_shard_pb2.Metric, _Mapping]]] = ..., author: _Optional[str] = ...) -> None: ...

class EvaluationReply(_message.Message):
    __slots__ = ("is_best", "best_version", "since_best")
    IS_BEST_FIELD_NUMBER: _ClassVar[int]
    BEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    SINCE_BEST_FIELD_NUMBER: _ClassVar[int]
    is_best: bool
    best_version: int
    since_best: int
    def __init__(self, is_best: bool = ..., best_version: _Optional[int] = ..., since_best: _Optional[int] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("job", "pin", "seconds")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    job: str
    pin: str
    seconds: float
    def __init__(self, job: _Optional[str] = ..., pin: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class PinReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...
