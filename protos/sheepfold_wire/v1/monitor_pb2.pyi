from sheepfold_wire.v1 import coordinator_pb2 as _coordinator_pb2
from sheepfold_wire.v1 import shard_pb2 as _shard_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SlotCounts(_message.Message):
    __slots__ = ("leased", "committed", "leased_again", "dropped", "skipped", "outstanding")
    LEASED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    LEASED_AGAIN_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    leased: int
    committed: int
    leased_again: int
    dropped: int
    skipped: int
    outstanding: int
    def __init__(self, leased: _Optional[int] = ..., committed: _Optional[int] = ..., leased_again: _Optional[int] = ..., dropped: _Optional[int] = ..., skipped: _Optional[int] = ..., outstanding: _Optional[int] = ...) -> None: ...

class SlotReport(_message.Message):
    __slots__ = ("slot", "worker", "samples", "weight", "attempts", "base_version", "loss", "attempt", "sample_start", "files", "host", "gradient_norm", "cosine")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_START_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    worker: str
    samples: int
    weight: float
    attempts: int
    base_version: int
    loss: float
    attempt: _shard_pb2.AttemptId
    sample_start: int
    files: _containers.RepeatedCompositeFieldContainer[_coordinator_pb2.FileRange]
    host: str
    gradient_norm: float
    cosine: float
    def __init__(self, slot: _Optional[int] = ..., worker: _Optional[str] = ..., samples: _Optional[int] = ..., weight: _Optional[float] = ..., attempts: _Optional[int] = ..., base_version: _Optional[int] = ..., loss: _Optional[float] = ..., attempt: _Optional[_Union[_shard_pb2.AttemptId, _Mapping]] = ..., sample_start: _Optional[int] = ..., files: _Optional[_Iterable[_Union[_coordinator_pb2.FileRange, _Mapping]]] = ..., host: _Optional[str] = ..., gradient_norm: _Optional[float] = ..., cosine: _Optional[float] = ...) -> None: ...

class SliceFacts(_message.Message):
    __slots__ = ("slice", "name", "weight_norm", "update_norm", "gradient_norm", "trust_ratio", "clamp", "slot_gradient_norm")
    SLICE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_NORM_FIELD_NUMBER: _ClassVar[int]
    UPDATE_NORM_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    TRUST_RATIO_FIELD_NUMBER: _ClassVar[int]
    CLAMP_FIELD_NUMBER: _ClassVar[int]
    SLOT_GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    slice: int
    name: str
    weight_norm: float
    update_norm: float
    gradient_norm: float
    trust_ratio: float
    clamp: str
    slot_gradient_norm: float
    def __init__(self, slice: _Optional[int] = ..., name: _Optional[str] = ..., weight_norm: _Optional[float] = ..., update_norm: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., trust_ratio: _Optional[float] = ..., clamp: _Optional[str] = ..., slot_gradient_norm: _Optional[float] = ...) -> None: ...

class ShardStep(_message.Message):
    __slots__ = ("shard", "fold_seconds", "apply_seconds", "bytes_in", "bytes_out")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    FOLD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    APPLY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    shard: int
    fold_seconds: float
    apply_seconds: float
    bytes_in: int
    bytes_out: int
    def __init__(self, shard: _Optional[int] = ..., fold_seconds: _Optional[float] = ..., apply_seconds: _Optional[float] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ...) -> None: ...

class StepReport(_message.Message):
    __slots__ = ("job", "step", "version", "is_skip", "skip_reason", "learning_rate", "clip_scale", "gradient_norm", "samples", "weight", "wait_seconds", "prepare_seconds", "apply_seconds", "slices", "slots", "counts", "bytes_in", "bytes_out", "loss", "metrics", "lineage", "loss_scale", "slot_gradient_norm", "commit_seconds", "shards", "committed_at")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IS_SKIP_FIELD_NUMBER: _ClassVar[int]
    SKIP_REASON_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    CLIP_SCALE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREPARE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    APPLY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    LOSS_SCALE_FIELD_NUMBER: _ClassVar[int]
    SLOT_GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    version: int
    is_skip: bool
    skip_reason: str
    learning_rate: float
    clip_scale: float
    gradient_norm: float
    samples: int
    weight: float
    wait_seconds: float
    prepare_seconds: float
    apply_seconds: float
    slices: _containers.RepeatedCompositeFieldContainer[SliceFacts]
    slots: _containers.RepeatedCompositeFieldContainer[SlotReport]
    counts: SlotCounts
    bytes_in: int
    bytes_out: int
    loss: float
    metrics: _containers.RepeatedCompositeFieldContainer[_shard_pb2.Metric]
    lineage: str
    loss_scale: float
    slot_gradient_norm: float
    commit_seconds: float
    shards: _containers.RepeatedCompositeFieldContainer[ShardStep]
    committed_at: float
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., version: _Optional[int] = ..., is_skip: bool = ..., skip_reason: _Optional[str] = ..., learning_rate: _Optional[float] = ..., clip_scale: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., samples: _Optional[int] = ..., weight: _Optional[float] = ..., wait_seconds: _Optional[float] = ..., prepare_seconds: _Optional[float] = ..., apply_seconds: _Optional[float] = ..., slices: _Optional[_Iterable[_Union[SliceFacts, _Mapping]]] = ..., slots: _Optional[_Iterable[_Union[SlotReport, _Mapping]]] = ..., counts: _Optional[_Union[SlotCounts, _Mapping]] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., loss: _Optional[float] = ..., metrics: _Optional[_Iterable[_Union[_shard_pb2.Metric, _Mapping]]] = ..., lineage: _Optional[str] = ..., loss_scale: _Optional[float] = ..., slot_gradient_norm: _Optional[float] = ..., commit_seconds: _Optional[float] = ..., shards: _Optional[_Iterable[_Union[ShardStep, _Mapping]]] = ..., committed_at: _Optional[float] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("from_step", "author", "text")
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    from_step: int
    author: str
    text: str
    def __init__(self, from_step: _Optional[int] = ..., author: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("worker", "host", "pid", "device", "seconds_since_seen", "slots_committed", "samples_committed", "holding", "versions", "zone", "refused", "usage", "seconds_attached")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_SINCE_SEEN_FIELD_NUMBER: _ClassVar[int]
    SLOTS_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_ATTACHED_FIELD_NUMBER: _ClassVar[int]
    worker: str
    host: str
    pid: int
    device: str
    seconds_since_seen: float
    slots_committed: int
    samples_committed: int
    holding: int
    versions: str
    zone: str
    refused: int
    usage: _coordinator_pb2.WorkerUsage
    seconds_attached: float
    def __init__(self, worker: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., device: _Optional[str] = ..., seconds_since_seen: _Optional[float] = ..., slots_committed: _Optional[int] = ..., samples_committed: _Optional[int] = ..., holding: _Optional[int] = ..., versions: _Optional[str] = ..., zone: _Optional[str] = ..., refused: _Optional[int] = ..., usage: _Optional[_Union[_coordinator_pb2.WorkerUsage, _Mapping]] = ..., seconds_attached: _Optional[float] = ...) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "address", "incarnation", "is_connected", "version", "numeric_fingerprint", "parameters", "part_slots", "memory_bytes", "queue")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    IS_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PART_SLOTS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    address: str
    incarnation: int
    is_connected: bool
    version: int
    numeric_fingerprint: str
    parameters: int
    part_slots: int
    memory_bytes: int
    queue: int
    def __init__(self, shard: _Optional[int] = ..., address: _Optional[str] = ..., incarnation: _Optional[int] = ..., is_connected: bool = ..., version: _Optional[int] = ..., numeric_fingerprint: _Optional[str] = ..., parameters: _Optional[int] = ..., part_slots: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., queue: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("number", "age_seconds", "step", "kind", "author", "text")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    number: int
    age_seconds: float
    step: int
    kind: str
    author: str
    text: str
    def __init__(self, number: _Optional[int] = ..., age_seconds: _Optional[float] = ..., step: _Optional[int] = ..., kind: _Optional[str] = ..., author: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Drop(_message.Message):
    __slots__ = ("reason", "count")
    REASON_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    count: int
    def __init__(self, reason: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Quota(_message.Message):
    __slots__ = ("name", "max", "used", "refused")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    name: str
    max: float
    used: float
    refused: int
    def __init__(self, name: _Optional[str] = ..., max: _Optional[float] = ..., used: _Optional[float] = ..., refused: _Optional[int] = ...) -> None: ...

class JobStatus(_message.Message):
    __slots__ = ("job", "state", "why", "term", "lineage", "version", "stop_steps", "open_step", "slots_total", "slots_admitted", "waiting_for", "steps_per_second", "samples_per_second", "samples_committed", "samples_skipped", "manifest_digest", "config_json", "counts", "workers", "shards", "steps_skipped", "changes", "skipped_samples", "best_version", "best_value", "events", "drops", "checkpoint_url", "checkpoint_version", "checkpoint_age_seconds", "checkpoint_every_seconds", "quotas")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STOP_STEPS_FIELD_NUMBER: _ClassVar[int]
    OPEN_STEP_FIELD_NUMBER: _ClassVar[int]
    SLOTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SLOTS_ADMITTED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    STEPS_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    BEST_VALUE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_EVERY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    job: str
    state: str
    why: str
    term: int
    lineage: str
    version: int
    stop_steps: int
    open_step: int
    slots_total: int
    slots_admitted: int
    waiting_for: str
    steps_per_second: float
    samples_per_second: float
    samples_committed: int
    samples_skipped: int
    manifest_digest: str
    config_json: str
    counts: SlotCounts
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    steps_skipped: int
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    skipped_samples: _containers.RepeatedCompositeFieldContainer[_coordinator_pb2.SampleRange]
    best_version: int
    best_value: float
    events: _containers.RepeatedCompositeFieldContainer[Event]
    drops: _containers.RepeatedCompositeFieldContainer[Drop]
    checkpoint_url: str
    checkpoint_version: int
    checkpoint_age_seconds: float
    checkpoint_every_seconds: float
    quotas: _containers.RepeatedCompositeFieldContainer[Quota]
    def __init__(self, job: _Optional[str] = ..., state: _Optional[str] = ..., why: _Optional[str] = ..., term: _Optional[int] = ..., lineage: _Optional[str] = ..., version: _Optional[int] = ..., stop_steps: _Optional[int] = ..., open_step: _Optional[int] = ..., slots_total: _Optional[int] = ..., slots_admitted: _Optional[int] = ..., waiting_for: _Optional[str] = ..., steps_per_second: _Optional[float] = ..., samples_per_second: _Optional[float] = ..., samples_committed: _Optional[int] = ..., samples_skipped: _Optional[int] = ..., manifest_digest: _Optional[str] = ..., config_json: _Optional[str] = ..., counts: _Optional[_Union[SlotCounts, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., steps_skipped: _Optional[int] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., skipped_samples: _Optional[_Iterable[_Union[_coordinator_pb2.SampleRange, _Mapping]]] = ..., best_version: _Optional[int] = ..., best_value: _Optional[float] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., drops: _Optional[_Iterable[_Union[Drop, _Mapping]]] = ..., checkpoint_url: _Optional[str] = ..., checkpoint_version: _Optional[int] = ..., checkpoint_age_seconds: _Optional[float] = ..., checkpoint_every_seconds: _Optional[float] = ..., quotas: _Optional[_Iterable[_Union[Quota, _Mapping]]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class ModelRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class ModelReply(_message.Message):
    __slots__ = ("manifest_json",)
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    manifest_json: str
    def __init__(self, manifest_json: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListJobsReply(_message.Message):
    __slots__ = ("jobs", "server_version", "unix_seconds")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedScalarFieldContainer[str]
    server_version: str
    unix_seconds: float
    def __init__(self, jobs: _Optional[_Iterable[str]] = ..., server_version: _Optional[str] = ..., unix_seconds: _Optional[float] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("job", "from_version")
    JOB_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    job: str
    from_version: int
    def __init__(self, job: _Optional[str] = ..., from_version: _Optional[int] = ...) -> None: ...
