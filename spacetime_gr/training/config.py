"""Settings of a pretraining run: one pydantic model per section of the YAML file, unknown keys refused."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from data_pipelines.stream.cleaning import CleaningSettings
from data_pipelines.stream.corpora import CorpusSettings, as_corpora
from data_pipelines.stream.curriculum import CurriculumSettings
from data_pipelines.stream.settings import as_settings


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, values are validated on assignment too."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())


class RunSection(Section):
    """Where the run lives and what it is called."""

    dir: str = Field(min_length=1, description="run directory; a run found there is resumed")
    resume: Literal["auto", "required"] = Field(
        default="auto",
        description="required: refuse to start where no checkpoint is found, as when its file system is not mounted",
    )
    name: str | None = Field(
        default=None, description="shown in wandb and in the model card; default: the directory's name"
    )
    tags: list[str] = Field(default_factory=list, description="wandb tags")
    timeout_minutes: float = Field(
        default=30, gt=0, description="a rank that takes longer over a step and all around it is taken for stuck"
    )
    callbacks: list[str] = Field(
        default_factory=list, description="callbacks of your own, each as package.module:Class (docs/monitoring.md)"
    )


class DataSection(Section):
    """The prepared folders and how they are streamed. A lane is one row of the global batch."""

    path: str | list[str | dict[str, Any]] = Field(
        description="prepared folder (`spacetime-gr prepare --out`), or a list of {path, weight} that share a tokenizer"
    )
    row_length: int = Field(default=512, gt=0, multiple_of=4, description="tokens in a row; an action is 4 tokens")
    num_lanes: int = Field(
        default=32, gt=0, description="rows in the global batch, over all ranks and accumulation steps"
    )
    num_workers: int = Field(default=0, ge=0, description="threads per rank that prepare rows ahead; 0: none")
    cleaning: dict[str, Any] | None = Field(default=None, description="settings of the behaviour and sequence cleaning")
    curriculum: dict[str, Any] | None = Field(default=None, description="share of multi-mode rows against tokens seen")
    blind_share: float = Field(
        default=0.0, ge=0, le=1, description="share of actions whose u token hides the time of the request"
    )

    @model_validator(mode="after")
    def _stream_settings_are_known(self) -> "DataSection":
        as_corpora(self.path, "data.path")
        as_settings(CleaningSettings, self.cleaning, "data.cleaning")
        as_settings(CurriculumSettings, self.curriculum, "data.curriculum")
        return self

    @property
    def corpora(self) -> tuple[CorpusSettings, ...]:
        """The prepared folders with their weights."""
        return as_corpora(self.path, "data.path")


class TrainSection(Section):
    """Length of the run, optimiser, schedule and numerics. The first limit that is reached ends the run."""

    max_steps: int | None = Field(default=None, gt=0)
    max_tokens: float | None = Field(default=None, gt=0, description="tokens seen, padding not counted")
    max_minutes: float | None = Field(
        default=None, gt=0, description="training time over all sessions, start-up not counted"
    )
    seed: int = Field(default=0, ge=0)
    lr: float = Field(default=3e-3, gt=0)
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup_steps: int = Field(default=50, ge=0)
    decay_share: float = Field(
        default=0.2, ge=0, le=1, description="wsd: last share of the run, in which lr falls linearly"
    )
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1, description="lr at the end / peak lr")
    weight_decay: float = Field(default=0.1, ge=0)
    decay_embeddings: bool = Field(
        default=False, description="weight decay on embedding tables too (a rare POI is pulled to 0)"
    )
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=1.0, ge=0, description="global gradient norm; 0: no clipping")
    average_power: float | None = Field(
        default=None,
        ge=0,
        description="evaluate and export the average of the weights over all steps, step t weighing t^power; default: "
        "the last weights",
    )
    gradient_accumulation: int = Field(default=1, gt=0, description="micro-batches that one rank's rows are split into")
    gradient_checkpointing: bool = False
    compile: bool = False
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 on a GPU that has it, else fp32"
    )
    deterministic: bool = Field(
        default=False, description="refuse non-deterministic GPU kernels (the CPU path has none)"
    )

    @model_validator(mode="after")
    def _has_a_limit(self) -> "TrainSection":
        if self.max_steps is None and self.max_tokens is None and self.max_minutes is None:
            raise ValueError("the run has no end; set train.max_steps, train.max_tokens or train.max_minutes")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"train.betas must lie in [0, 1), got {list(self.betas)}")
        return self


class DeepSpeedSection(Section):
    """ZeRO stage, offload and further raw DeepSpeed settings."""

    zero_stage: int | None = Field(default=None, ge=0, le=3, description="default: the stage in `config`, else 1")
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none", description="optimizer: states in host memory (stages 1 to 3); all: parameters too (stage 3)"
    )
    config: dict[str, Any] | str | None = Field(
        default=None, description="DeepSpeed settings merged under ours: a JSON file or a mapping"
    )
    sharded_init: bool = Field(
        default=False,
        description="stage 3: never hold the whole model on one host; other initial weights than stages 0 to 2",
    )

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> "DeepSpeedSection":
        if self.zero_stage is not None:
            if self.offload == "optimizer" and self.zero_stage == 0:
                raise ValueError("deepspeed.offload=optimizer needs deepspeed.zero_stage 1, 2 or 3, got 0")
            if self.offload == "all" and self.zero_stage != 3:
                raise ValueError(f"deepspeed.offload=all needs deepspeed.zero_stage=3, got {self.zero_stage}")
            if self.sharded_init and self.zero_stage != 3:
                raise ValueError(f"deepspeed.sharded_init needs deepspeed.zero_stage=3, got {self.zero_stage}")
        return self


class CheckpointSection(Section):
    """When checkpoints are written and which are kept."""

    every: int | None = Field(default=None, gt=0, description="permanent checkpoint every N steps")
    ephemeral_every: int | None = Field(
        default=None, gt=0, description="checkpoint every N steps, removed after two newer ones"
    )
    steps: list[PositiveInt] = Field(
        default_factory=list, description="further steps with a permanent checkpoint, which `keep` does not remove"
    )
    keep: int | None = Field(default=None, gt=0, description="newest permanent checkpoints kept; default: all")
    asynchronous: bool = Field(
        default=False, description="write in the background, from a copy in host memory, while training goes on"
    )
    max_failures: int = Field(
        default=3, gt=0, description="ephemeral checkpoints in a row that may fail before the run ends"
    )

    @model_validator(mode="after")
    def _ephemeral_is_more_often(self) -> "CheckpointSection":
        if self.every and self.ephemeral_every and self.ephemeral_every >= self.every:
            raise ValueError(
                f"checkpoint.ephemeral_every={self.ephemeral_every} is not more often than "
                f"checkpoint.every={self.every}; lower the first or raise the second"
            )
        return self


class LogSection(Section):
    """Sinks of the metrics. `metrics.jsonl` is always written."""

    every: int = Field(default=10, gt=0, description="steps between two lines of metrics")
    console: bool = Field(default=True, description="progress bar on stderr")
    wandb: bool = Field(default=False, description="offline without a key: `wandb sync` the folder later")
    project: str = "spacetime-gr"
    entity: str | None = None
    num_examples: int = Field(
        default=8,
        ge=0,
        description="wandb: held-out people in the table of recommendations of each evaluation; 0: none",
    )
    profile_steps: tuple[int, int] | None = Field(
        default=None, description="first and last step of a torch profiler trace in RUN/profile"
    )
    memory_snapshot_step: int | None = Field(
        default=None, gt=0, description="step after which the memory's contents are written to RUN/profile"
    )
    profile_ranks: list[int] = Field(default=[0], description="ranks that write a trace or a snapshot")

    @model_validator(mode="after")
    def _steps_in_order(self) -> "LogSection":
        if self.profile_steps is not None and not 1 <= self.profile_steps[0] <= self.profile_steps[1]:
            raise ValueError(
                f"log.profile_steps is {list(self.profile_steps)}; expected the first and the last step, "
                "1 <= first <= last"
            )
        return self


class GuardSection(Section):
    """Steps whose loss or gradient norm is out of line change nothing; too many of them end the run."""

    enabled: bool = Field(default=True, description="false: a gradient norm that is not finite ends the run at once")
    window: int = Field(
        default=128,
        ge=4,
        description="accepted steps whose mean and deviation count; judged once half of them are there",
    )
    sigma_factor: float = Field(
        default=6.0, gt=0, description="standard deviations above the mean from which a step is skipped"
    )
    max_consecutive: int = Field(default=10, gt=0, description="skipped steps in a row that end the run")
    max_share: float = Field(
        default=0.25, gt=0, le=1, description="share of skipped steps among the last `window` above which the run ends"
    )


class EvalSection(Section):
    """Loss on held-out rows: the same rows each time, on any number of ranks."""

    every: int | None = Field(
        default=None, gt=0, description="steps between two evaluations; default: none but at the end"
    )
    at_end: bool = True
    num_rows: int = Field(
        default=256, gt=0, description="rows of the validation split, rounded up to whole global batches"
    )
    split: Literal["validation", "test"] = "validation"


class PretrainConfig(Section):
    """A whole run. `model` holds the arguments of SpacetimeGRConfig that the tokenizer does not fix."""

    run: RunSection
    data: DataSection
    model: dict[str, Any] = Field(default_factory=dict)
    train: TrainSection
    deepspeed: DeepSpeedSection = DeepSpeedSection()
    checkpoint: CheckpointSection = CheckpointSection()
    guard: GuardSection = GuardSection()
    log: LogSection = LogSection()
    eval: EvalSection = EvalSection()

    def rows_per_micro_batch(self, world_size: int) -> int:
        """Rows of one micro-batch of one rank.

        Raises:
            ValueError: if the lanes cannot be shared out evenly.
        """
        parts = world_size * self.train.gradient_accumulation
        if self.data.num_lanes % parts:
            below, above = (
                (self.data.num_lanes // parts) * parts,
                math.ceil(self.data.num_lanes / parts) * parts,
            )
            options = " or ".join(str(value) for value in (below, above) if value)
            raise ValueError(
                f"data.num_lanes={self.data.num_lanes} is not a multiple of {parts} = {world_size} ranks x "
                f"train.gradient_accumulation={self.train.gradient_accumulation}; set data.num_lanes to {options}, or "
                "change train.gradient_accumulation or the number of ranks"
            )
        return self.data.num_lanes // parts
