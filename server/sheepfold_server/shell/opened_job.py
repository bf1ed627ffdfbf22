"""A job as a coordinator tells one shard to open it: what of it is the shard's, and where its log is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sheepfold_wire.messages as m
from sheepfold_server.optim.groups import Groups
from sheepfold_server.optim.layout import ShardLayout
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.shell.kernels import KernelFolder, job_programs
from sheepfold_wire.codecs import Codec
from sheepfold_wire.job import Job, job_from_json
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.plan import Plan


@dataclass(frozen=True, slots=True)
class OpenedJob:
    """The same for every process of the shard."""

    command: m.OpenJob
    shard: int
    job: Job
    plan: Plan

    @classmethod
    def of(cls, command: m.OpenJob, shard: int) -> OpenedJob:
        job, manifest = job_from_json(command.config_json), Manifest.from_json(command.manifest_json)
        plan = Plan.of(manifest, command.shard_count, job.placement.split_above_bytes)
        return cls(command, shard, job, plan)

    @property
    def holds_split(self) -> bool:
        """Whether a part of a split slice is here."""
        return any(f.slice in self.plan.split_slices for f in self.plan.shard_fragments(self.shard))

    @property
    def counts_skips(self) -> bool:
        """Whether a skipped step counts for the bias correction."""
        return self.job.optimizer.skipped_step == "count"

    def bytes_in(self, codec: Codec) -> int:
        """Of one part."""
        return self.plan.part_bytes(self.shard, codec)

    def log_directory(self, root: Path) -> Path:
        """Of this lineage, below the shard's own directory."""
        return root / "jobs" / self.job.name / self.command.lineage

    def belongs_to(self, numeric_fingerprint: str) -> str:
        """What stands in the log, and must be equal for it to be of use."""
        return (
            f"shard {self.shard} of {self.command.shard_count}, job {self.job.name}, "
            f"lineage {self.command.lineage}, model {self.plan.manifest.digest[:16]}, "
            f"plan {self.plan.digest[:16]}, numerics {self.job.numerics.kernel}/{numeric_fingerprint}"
        )

    def tensors(self, folder: KernelFolder) -> ShardTensors:
        """Ready to run: compiling is over when this returns. Raises KernelError."""
        job, layout = self.job, ShardLayout(self.plan, self.shard)
        programs = job_programs(job, Groups(layout, job.optimizer).rules)
        kernel = folder.kernel(job.numerics.kernel, programs)
        return ShardTensors(self.plan, self.shard, job.optimizer, kernel, job.batch.open_steps)
