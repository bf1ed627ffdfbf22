from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AttemptId(_message.Message):
    __slots__ = ("term", "counter")
    TERM_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    term: int
    counter: int
    def __init__(self, term: _Optional[int] = ..., counter: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset", "checksum", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    checksum: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., checksum: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class PushFrame(_message.Message):
    __slots__ = ("header", "chunk", "region")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    header: PushHeader
    chunk: Chunk
    region: int
    def __init__(self, header: _Optional[_Union[PushHeader, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., region: _Optional[int] = ...) -> None: ...

class PullFrame(_message.Message):
    __slots__ = ("header", "chunk", "end_version", "region_checksum")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_VERSION_FIELD_NUMBER: _ClassVar[int]
    REGION_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    header: PullHeader
    chunk: Chunk
    end_version: int
    region_checksum: int
    def __init__(self, header: _Optional[_Union[PullHeader, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., end_version: _Optional[int] = ..., region_checksum: _Optional[int] = ...) -> None: ...

class Facts(_message.Message):
    __slots__ = ("samples", "weight", "base_version", "present", "loss", "metrics")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    samples: int
    weight: float
    base_version: int
    present: bytes
    loss: float
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    def __init__(self, samples: _Optional[int] = ..., weight: _Optional[float] = ..., base_version: _Optional[int] = ..., present: _Optional[bytes] = ..., loss: _Optional[float] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class PushHeader(_message.Message):
    __slots__ = ("job", "attempt", "shard", "incarnation", "term", "manifest_digest", "plan_digest", "codec", "payload_bytes", "payload_digest", "facts", "is_ahead", "ahead_bytes")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    IS_AHEAD_FIELD_NUMBER: _ClassVar[int]
    AHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    job: str
    attempt: AttemptId
    shard: int
    incarnation: int
    term: int
    manifest_digest: str
    plan_digest: str
    codec: str
    payload_bytes: int
    payload_digest: bytes
    facts: Facts
    is_ahead: bool
    ahead_bytes: int
    def __init__(self, job: _Optional[str] = ..., attempt: _Optional[_Union[AttemptId, _Mapping]] = ..., shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., term: _Optional[int] = ..., manifest_digest: _Optional[str] = ..., plan_digest: _Optional[str] = ..., codec: _Optional[str] = ..., payload_bytes: _Optional[int] = ..., payload_digest: _Optional[bytes] = ..., facts: _Optional[_Union[Facts, _Mapping]] = ..., is_ahead: bool = ..., ahead_bytes: _Optional[int] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("duplicate",)
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    duplicate: bool
    def __init__(self, duplicate: bool = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("job", "shard", "incarnation", "manifest_digest", "plan_digest", "codec", "version", "wait_seconds", "lineage", "region")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    job: str
    shard: int
    incarnation: int
    manifest_digest: str
    plan_digest: str
    codec: str
    version: int
    wait_seconds: float
    lineage: str
    region: int
    def __init__(self, job: _Optional[str] = ..., shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., manifest_digest: _Optional[str] = ..., plan_digest: _Optional[str] = ..., codec: _Optional[str] = ..., version: _Optional[int] = ..., wait_seconds: _Optional[float] = ..., lineage: _Optional[str] = ..., region: _Optional[int] = ...) -> None: ...

class PullHeader(_message.Message):
    __slots__ = ("version", "payload_bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    version: int
    payload_bytes: int
    def __init__(self, version: _Optional[int] = ..., payload_bytes: _Optional[int] = ...) -> None: ...

class ShareRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShareReply(_message.Message):
    __slots__ = ("boot_id", "socket", "key")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    boot_id: str
    socket: str
    key: bytes
    def __init__(self, boot_id: _Optional[str] = ..., socket: _Optional[str] = ..., key: _Optional[bytes] = ...) -> None: ...

class DigestRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class DigestEntry(_message.Message):
    __slots__ = ("index", "digest")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    index: int
    digest: bytes
    def __init__(self, index: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class DigestReply(_message.Message):
    __slots__ = ("version", "entries")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    version: int
    entries: _containers.RepeatedCompositeFieldContainer[DigestEntry]
    def __init__(self, version: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[DigestEntry, _Mapping]]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("term", "incarnation")
    TERM_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    term: int
    incarnation: int
    def __init__(self, term: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class CheckpointRef(_message.Message):
    __slots__ = ("lineage", "version", "term")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    version: int
    term: int
    def __init__(self, lineage: _Optional[str] = ..., version: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class OpenJob(_message.Message):
    __slots__ = ("job", "lineage", "term", "shard_count", "manifest_json", "config_json", "checkpoint_url", "restore")
    JOB_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    job: str
    lineage: str
    term: int
    shard_count: int
    manifest_json: str
    config_json: str
    checkpoint_url: str
    restore: CheckpointRef
    def __init__(self, job: _Optional[str] = ..., lineage: _Optional[str] = ..., term: _Optional[int] = ..., shard_count: _Optional[int] = ..., manifest_json: _Optional[str] = ..., config_json: _Optional[str] = ..., checkpoint_url: _Optional[str] = ..., restore: _Optional[_Union[CheckpointRef, _Mapping]] = ...) -> None: ...

class Expect(_message.Message):
    __slots__ = ("job", "attempt", "is_init", "step")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    IS_INIT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    job: str
    attempt: AttemptId
    is_init: bool
    step: int
    def __init__(self, job: _Optional[str] = ..., attempt: _Optional[_Union[AttemptId, _Mapping]] = ..., is_init: bool = ..., step: _Optional[int] = ...) -> None: ...

class EndAttempts(_message.Message):
    __slots__ = ("job", "attempts", "reason")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job: str
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptId]
    reason: str
    def __init__(self, job: _Optional[str] = ..., attempts: _Optional[_Iterable[_Union[AttemptId, _Mapping]]] = ..., reason: _Optional[str] = ...) -> None: ...

class LoadInit(_message.Message):
    __slots__ = ("job", "attempt")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    job: str
    attempt: AttemptId
    def __init__(self, job: _Optional[str] = ..., attempt: _Optional[_Union[AttemptId, _Mapping]] = ...) -> None: ...

class Admit(_message.Message):
    __slots__ = ("job", "step", "slot", "attempt", "factor")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    slot: int
    attempt: AttemptId
    factor: float
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., slot: _Optional[int] = ..., attempt: _Optional[_Union[AttemptId, _Mapping]] = ..., factor: _Optional[float] = ...) -> None: ...

class Refold(_message.Message):
    __slots__ = ("job", "step", "lost_slots")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LOST_SLOTS_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    lost_slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., lost_slots: _Optional[_Iterable[int]] = ...) -> None: ...

class Restart(_message.Message):
    __slots__ = ("job", "step")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class SlotEntry(_message.Message):
    __slots__ = ("slot", "attempt")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    slot: int
    attempt: AttemptId
    def __init__(self, slot: _Optional[int] = ..., attempt: _Optional[_Union[AttemptId, _Mapping]] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("job", "term", "step", "map_digest", "slots", "divisor")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MAP_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    DIVISOR_FIELD_NUMBER: _ClassVar[int]
    job: str
    term: int
    step: int
    map_digest: str
    slots: _containers.RepeatedCompositeFieldContainer[SlotEntry]
    divisor: float
    def __init__(self, job: _Optional[str] = ..., term: _Optional[int] = ..., step: _Optional[int] = ..., map_digest: _Optional[str] = ..., slots: _Optional[_Iterable[_Union[SlotEntry, _Mapping]]] = ..., divisor: _Optional[float] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("job", "term", "step", "map_digest", "is_skip", "learning_rate", "clip_scale", "present")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MAP_DIGEST_FIELD_NUMBER: _ClassVar[int]
    IS_SKIP_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    CLIP_SCALE_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    job: str
    term: int
    step: int
    map_digest: str
    is_skip: bool
    learning_rate: float
    clip_scale: float
    present: bytes
    def __init__(self, job: _Optional[str] = ..., term: _Optional[int] = ..., step: _Optional[int] = ..., map_digest: _Optional[str] = ..., is_skip: bool = ..., learning_rate: _Optional[float] = ..., clip_scale: _Optional[float] = ..., present: _Optional[bytes] = ...) -> None: ...

class SliceTotals(_message.Message):
    __slots__ = ("slice", "weight_partial", "update_partial", "gradient_squares")
    SLICE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    UPDATE_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_SQUARES_FIELD_NUMBER: _ClassVar[int]
    slice: int
    weight_partial: float
    update_partial: float
    gradient_squares: float
    def __init__(self, slice: _Optional[int] = ..., weight_partial: _Optional[float] = ..., update_partial: _Optional[float] = ..., gradient_squares: _Optional[float] = ...) -> None: ...

class Totals(_message.Message):
    __slots__ = ("job", "step", "slices")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    slices: _containers.RepeatedCompositeFieldContainer[SliceTotals]
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., slices: _Optional[_Iterable[_Union[SliceTotals, _Mapping]]] = ...) -> None: ...

class KeepVersions(_message.Message):
    __slots__ = ("job", "versions")
    JOB_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    job: str
    versions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, job: _Optional[str] = ..., versions: _Optional[_Iterable[int]] = ...) -> None: ...

class SaveCheckpoint(_message.Message):
    __slots__ = ("job", "version")
    JOB_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    job: str
    version: int
    def __init__(self, job: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class RemoveJob(_message.Message):
    __slots__ = ("job", "term", "lineages")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LINEAGES_FIELD_NUMBER: _ClassVar[int]
    job: str
    term: int
    lineages: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job: _Optional[str] = ..., term: _Optional[int] = ..., lineages: _Optional[_Iterable[str]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("incarnation", "shard", "shard_count", "address", "numeric_fingerprint", "staging_bytes", "kernels", "kernel_note", "external_address", "keeps_log")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    STAGING_BYTES_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_NOTE_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    KEEPS_LOG_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    shard: int
    shard_count: int
    address: str
    numeric_fingerprint: str
    staging_bytes: int
    kernels: _containers.RepeatedScalarFieldContainer[str]
    kernel_note: str
    external_address: str
    keeps_log: bool
    def __init__(self, incarnation: _Optional[int] = ..., shard: _Optional[int] = ..., shard_count: _Optional[int] = ..., address: _Optional[str] = ..., numeric_fingerprint: _Optional[str] = ..., staging_bytes: _Optional[int] = ..., kernels: _Optional[_Iterable[str]] = ..., kernel_note: _Optional[str] = ..., external_address: _Optional[str] = ..., keeps_log: bool = ...) -> None: ...

class JobOpened(_message.Message):
    __slots__ = ("job", "part_slots", "version", "term", "prepared")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PART_SLOTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    job: str
    part_slots: int
    version: int
    term: int
    prepared: str
    def __init__(self, job: _Optional[str] = ..., part_slots: _Optional[int] = ..., version: _Optional[int] = ..., term: _Optional[int] = ..., prepared: _Optional[str] = ...) -> None: ...

class Staged(_message.Message):
    __slots__ = ("job", "attempt", "payload_digest", "facts", "sum_of_squares")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    SUM_OF_SQUARES_FIELD_NUMBER: _ClassVar[int]
    job: str
    attempt: AttemptId
    payload_digest: bytes
    facts: Facts
    sum_of_squares: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, job: _Optional[str] = ..., attempt: _Optional[_Union[AttemptId, _Mapping]] = ..., payload_digest: _Optional[bytes] = ..., facts: _Optional[_Union[Facts, _Mapping]] = ..., sum_of_squares: _Optional[_Iterable[float]] = ...) -> None: ...

class PartRefused(_message.Message):
    __slots__ = ("job", "attempt", "tensor", "count")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    job: str
    attempt: AttemptId
    tensor: str
    count: int
    def __init__(self, job: _Optional[str] = ..., attempt: _Optional[_Union[AttemptId, _Mapping]] = ..., tensor: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Folded(_message.Message):
    __slots__ = ("job", "step", "folded", "can_refold")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FIELD_NUMBER: _ClassVar[int]
    CAN_REFOLD_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    folded: int
    can_refold: bool
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., folded: _Optional[int] = ..., can_refold: bool = ...) -> None: ...

class PartLost(_message.Message):
    __slots__ = ("job", "step", "slot")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    slot: int
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., slot: _Optional[int] = ...) -> None: ...

class Prepared(_message.Message):
    __slots__ = ("job", "step", "map_digest", "is_finite", "max_abs", "sum_of_squares")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MAP_DIGEST_FIELD_NUMBER: _ClassVar[int]
    IS_FINITE_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_FIELD_NUMBER: _ClassVar[int]
    SUM_OF_SQUARES_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    map_digest: str
    is_finite: bool
    max_abs: float
    sum_of_squares: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., map_digest: _Optional[str] = ..., is_finite: bool = ..., max_abs: _Optional[float] = ..., sum_of_squares: _Optional[_Iterable[float]] = ...) -> None: ...

class BlockNorms(_message.Message):
    __slots__ = ("block", "weight_partial", "update_partial")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    UPDATE_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    block: int
    weight_partial: float
    update_partial: float
    def __init__(self, block: _Optional[int] = ..., weight_partial: _Optional[float] = ..., update_partial: _Optional[float] = ...) -> None: ...

class Norms(_message.Message):
    __slots__ = ("job", "step", "blocks")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    blocks: _containers.RepeatedCompositeFieldContainer[BlockNorms]
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., blocks: _Optional[_Iterable[_Union[BlockNorms, _Mapping]]] = ...) -> None: ...

class SliceReport(_message.Message):
    __slots__ = ("slice", "weight_norm", "update_norm", "trust_ratio", "clamp")
    SLICE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_NORM_FIELD_NUMBER: _ClassVar[int]
    UPDATE_NORM_FIELD_NUMBER: _ClassVar[int]
    TRUST_RATIO_FIELD_NUMBER: _ClassVar[int]
    CLAMP_FIELD_NUMBER: _ClassVar[int]
    slice: int
    weight_norm: float
    update_norm: float
    trust_ratio: float
    clamp: str
    def __init__(self, slice: _Optional[int] = ..., weight_norm: _Optional[float] = ..., update_norm: _Optional[float] = ..., trust_ratio: _Optional[float] = ..., clamp: _Optional[str] = ...) -> None: ...

class Applied(_message.Message):
    __slots__ = ("job", "step", "slices", "fold_seconds", "apply_seconds", "encode_seconds", "bytes_in", "bytes_out", "memory_bytes", "queue", "slot_products")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    FOLD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    APPLY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    SLOT_PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    slices: _containers.RepeatedCompositeFieldContainer[SliceReport]
    fold_seconds: float
    apply_seconds: float
    encode_seconds: float
    bytes_in: int
    bytes_out: int
    memory_bytes: int
    queue: int
    slot_products: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., slices: _Optional[_Iterable[_Union[SliceReport, _Mapping]]] = ..., fold_seconds: _Optional[float] = ..., apply_seconds: _Optional[float] = ..., encode_seconds: _Optional[float] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., queue: _Optional[int] = ..., slot_products: _Optional[_Iterable[float]] = ...) -> None: ...

class PartSaved(_message.Message):
    __slots__ = ("job", "version", "file", "bytes", "sha256", "why")
    JOB_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    job: str
    version: int
    file: str
    bytes: int
    sha256: str
    why: str
    def __init__(self, job: _Optional[str] = ..., version: _Optional[int] = ..., file: _Optional[str] = ..., bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class ShardFailed(_message.Message):
    __slots__ = ("job", "why", "term")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    job: str
    why: str
    term: int
    def __init__(self, job: _Optional[str] = ..., why: _Optional[str] = ..., term: _Optional[int] = ...) -> None: ...

class JobRemoved(_message.Message):
    __slots__ = ("job", "lineage")
    JOB_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    job: str
    lineage: str
    def __init__(self, job: _Optional[str] = ..., lineage: _Optional[str] = ...) -> None: ...

class ShardCommand(_message.Message):
    __slots__ = ("welcome", "open_job", "expect", "end_attempts", "load_init", "admit", "refold", "restart", "close", "commit", "totals", "keep_versions", "save_checkpoint", "remove_job")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    OPEN_JOB_FIELD_NUMBER: _ClassVar[int]
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    END_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_INIT_FIELD_NUMBER: _ClassVar[int]
    ADMIT_FIELD_NUMBER: _ClassVar[int]
    REFOLD_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    KEEP_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    SAVE_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    REMOVE_JOB_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    open_job: OpenJob
    expect: Expect
    end_attempts: EndAttempts
    load_init: LoadInit
    admit: Admit
    refold: Refold
    restart: Restart
    close: Close
    commit: Commit
    totals: Totals
    keep_versions: KeepVersions
    save_checkpoint: SaveCheckpoint
    remove_job: RemoveJob
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., open_job: _Optional[_Union[OpenJob, _Mapping]] = ..., expect: _Optional[_Union[Expect, _Mapping]] = ..., end_attempts: _Optional[_Union[EndAttempts, _Mapping]] = ..., load_init: _Optional[_Union[LoadInit, _Mapping]] = ..., admit: _Optional[_Union[Admit, _Mapping]] = ..., refold: _Optional[_Union[Refold, _Mapping]] = ..., restart: _Optional[_Union[Restart, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., totals: _Optional[_Union[Totals, _Mapping]] = ..., keep_versions: _Optional[_Union[KeepVersions, _Mapping]] = ..., save_checkpoint: _Optional[_Union[SaveCheckpoint, _Mapping]] = ..., remove_job: _Optional[_Union[RemoveJob, _Mapping]] = ...) -> None: ...

class ShardReport(_message.Message):
    __slots__ = ("hello", "job_opened", "staged", "part_refused", "folded", "part_lost", "prepared", "norms", "applied", "shard_failed", "part_saved", "job_removed")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    JOB_OPENED_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    PART_REFUSED_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FIELD_NUMBER: _ClassVar[int]
    PART_LOST_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    NORMS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    SHARD_FAILED_FIELD_NUMBER: _ClassVar[int]
    PART_SAVED_FIELD_NUMBER: _ClassVar[int]
    JOB_REMOVED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    job_opened: JobOpened
    staged: Staged
    part_refused: PartRefused
    folded: Folded
    part_lost: PartLost
    prepared: Prepared
    norms: Norms
    applied: Applied
    shard_failed: ShardFailed
    part_saved: PartSaved
    job_removed: JobRemoved
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., job_opened: _Optional[_Union[JobOpened, _Mapping]] = ..., staged: _Optional[_Union[Staged, _Mapping]] = ..., part_refused: _Optional[_Union[PartRefused, _Mapping]] = ..., folded: _Optional[_Union[Folded, _Mapping]] = ..., part_lost: _Optional[_Union[PartLost, _Mapping]] = ..., prepared: _Optional[_Union[Prepared, _Mapping]] = ..., norms: _Optional[_Union[Norms, _Mapping]] = ..., applied: _Optional[_Union[Applied, _Mapping]] = ..., shard_failed: _Optional[_Union[ShardFailed, _Mapping]] = ..., part_saved: _Optional[_Union[PartSaved, _Mapping]] = ..., job_removed: _Optional[_Union[JobRemoved, _Mapping]] = ...) -> None: ...

class ShardCommands(_message.Message):
    __slots__ = ("commands",)
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedCompositeFieldContainer[ShardCommand]
    def __init__(self, commands: _Optional[_Iterable[_Union[ShardCommand, _Mapping]]] = ...) -> None: ...

class ShardReports(_message.Message):
    __slots__ = ("reports",)
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[ShardReport]
    def __init__(self, reports: _Optional[_Iterable[_Union[ShardReport, _Mapping]]] = ...) -> None: ...
