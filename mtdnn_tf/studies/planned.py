"""From stages to runs: one for each task, point and seed that a stage is trained for, each with its whole configuration."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtdnn_tf.config import ExperimentConfig, load_config, select_tasks
from mtdnn_tf.config_build import at
from mtdnn_tf.config_tree import Branch
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.run_files import CONFIG_FILE
from mtdnn_tf.studies.stages import STAGE_KINDS, Stage
from mtdnn_tf.tasks import TaskSpec, load_tasks


@dataclass(frozen=True)
class Point:
    """A place on the x axis: changes over the configuration of every scored arm."""

    x: float
    changes: Branch
    seeds: Mapping[str, int] = field(default_factory=dict)  # so many of the seeds for a task here; else its own number


@dataclass(frozen=True)
class Grid:
    """What a study trains every stage for; a recipe trains each once."""

    seeds: tuple[int, ...] = ()
    points: tuple[Point, ...] = ()
    tasks: tuple[str, ...] | None = None  # those wanted of stages with `each_task`; None: all
    seeds_of: Mapping[str, int] = field(default_factory=dict)  # so many of the seeds for a task; else all
    resample: bool = False  # each seed draws the examples that `max_examples` leaves anew

    def seeds_for(self, tasks: Sequence[str], point: Point | None = None) -> tuple[int | None, ...]:
        """Return the seeds that any of some tasks needs at a point; None: at any point."""
        if not self.seeds:
            return (None,)
        places: Sequence[Point | None] = [point] if point else self.points or (None,)
        every = len(self.seeds)
        numbers = [{**self.seeds_of, **(place.seeds if place else {})} for place in places]
        return self.seeds[: max((known.get(name, every) for known in numbers for name in tasks), default=every)]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a stage, whole: what it trains, where, and from which other run it starts."""

    name: str  # its folder below the root
    stage: Stage
    directory: Path
    config: ExperimentConfig
    specs: tuple[TaskSpec, ...]
    parent: PlannedRun | None = None
    task: str | None = None  # of `each_task`
    x: float | None = None  # of a point
    seed: int | None = None  # None: that of the configuration

    @property
    def command(self) -> list[str]:
        """What trains it, after `python -m`."""
        module = STAGE_KINDS[self.stage.options.kind].module
        return [module, f"--config={self.directory / CONFIG_FILE}", f"--model_dir={self.directory}"]

    @property
    def ancestors(self) -> tuple[PlannedRun, ...]:
        """The runs that it builds on, the nearest first."""
        return () if self.parent is None else (self.parent, *self.parent.ancestors)


_Key = tuple[str, str | None, float | None, int | None]


def plan_runs(
    stages: Sequence[Stage], root: Path, *, overrides: Sequence[str] = (), grid: Grid | None = None
) -> tuple[PlannedRun, ...]:
    """Return the runs of all stages in the order in which they can be trained, the first seed's before the second's.

    Args:
        stages: of `read_stages`.
        root: the folder that the runs' directories are in.
        overrides: of every stage, over what it says itself.
        grid: seeds, points and tasks; None: each stage once.

    Raises:
        UserError: the stage by file and line, and what is wrong with its configuration, or which file of it is not there; task
            attention asked for of a stage that has none; a task of the grid that no stage has.
    """
    grid = grid or Grid()
    planner = _Planner(root, tuple(overrides), grid)
    runs = planner.runs(stages)
    for name in grid.tasks or ():
        if name not in planner.tasks:
            raise UserError(unknown_name("tasks", "task of the stages", name, planner.tasks))
    return tuple(runs)


class _Planner:
    def __init__(self, root: Path, overrides: tuple[str, ...], grid: Grid) -> None:
        self._root, self._overrides, self._grid = root, overrides, grid
        self._runs: dict[_Key, PlannedRun] = {}
        self.tasks: set[str] = set()  # of all stages

    def runs(self, stages: Sequence[Stage]) -> list[PlannedRun]:
        seeds = self._grid.seeds
        parents = {stage.options.init_from for stage in stages}
        # Seeds that a stage is fixed to come first: other seeds' runs may start from its one run.
        fixed_seeds = [seed for seed in seeds if any(stage.options.seed == seed for stage in stages)]
        for seed in dict.fromkeys([*fixed_seeds, *seeds]) or (None,):
            for stage in stages:
                _check_kind(stage)
                fixed = stage.options.seed
                if fixed in (None, seed) or fixed not in seeds:
                    for run in self._runs_of(stage, seed if fixed is None else fixed, stage.name in parents):
                        self._runs.setdefault((stage.name, run.task, run.x, run.seed), run)
        return list(self._runs.values())

    def _runs_of(self, stage: Stage, seed: int | None, is_parent: bool) -> Iterator[PlannedRun]:
        points: tuple[Point | None, ...] = self._grid.points if stage.options.scored else ()
        for point in points or (None,):
            config = self._config(stage, point, seed)
            specs = load_tasks(config)
            self.tasks |= {spec.name for spec in specs}
            for task in self._tasks_of(stage, specs) if stage.options.each_task else (None,):
                shown = [] if is_parent and task is None else self._tasks_shown(specs, task)
                wanted = self._grid.seeds_for(shown or self._grid.tasks or (), point)
                if stage.options.seed is not None or seed in wanted:
                    yield self._run(stage, config, specs, task, point, seed)

    def _config(self, stage: Stage, point: Point | None, seed: int | None) -> ExperimentConfig:
        changes = [*stage.changes, *([point.changes] if point else [])]
        config = load_config(stage.config, [*changes, *self._overrides])
        if config.runtime.strategy == "multi_worker":
            raise UserError(
                f"{stage.where}: runtime.strategy: 'multi_worker' is not supported by this version in recipes and studies, whose runs "
                "are started on one machine; use mtdnn_tf.train for each stage, with training.init_from"
            )
        if stage.options.tasks:
            config = select_tasks(config, stage.options.tasks, f"{stage.where}.tasks")
        if seed is None:
            return config
        _refuse_own_seed(stage, point)
        config = replace(config, training=replace(config.training, seed=seed))
        if not self._grid.resample:
            return config
        sampled = {
            name: replace(task, sample_seed=seed) if task.max_examples else task for name, task in config.tasks.items()
        }
        return replace(config, tasks=sampled)

    def _tasks_of(self, stage: Stage, specs: Sequence[TaskSpec]) -> list[str]:
        own = [task.name for task in specs if task.head_of is None]
        wanted = self._grid.tasks
        if wanted is None:
            return own
        owners = {task.name: task.head_of or task.name for task in specs}
        return [name for name in own if any(owners.get(task) == name for task in wanted)]

    def _tasks_shown(self, specs: Sequence[TaskSpec], task: str | None) -> list[str]:
        """Return the tasks of the grid that a run of a stage scores."""
        return [
            spec.name
            for spec in specs
            if spec.name in (self._grid.tasks or ()) and (task is None or task in (spec.name, spec.head_of))
        ]

    def _run(
        self,
        stage: Stage,
        config: ExperimentConfig,
        specs: Sequence[TaskSpec],
        task: str | None,
        point: Point | None,
        seed: int | None,
    ) -> PlannedRun:
        if task is not None:
            config = select_tasks(config, [spec.name for spec in specs if task in (spec.name, spec.head_of)])
        x = point.x if point else None
        own_seed = [] if seed is None else [f"seed-{seed}"]  # of one run for all seeds, too, which may get others
        name = "/".join([stage.name, *([task] if task else []), *([] if x is None else [f"{x:g}"]), *own_seed])
        parent = self._parent(stage, task, x, seed)
        chosen = _started(config, stage, parent) if parent else config
        own = tuple(spec for spec in specs if spec.name in chosen.tasks)
        _check_attention(stage, chosen)
        check_inputs(own, stage.where)
        return PlannedRun(name, stage, self._root / name, chosen, own, parent, task, x, seed)

    def _parent(self, stage: Stage, task: str | None, x: float | None, seed: int | None) -> PlannedRun | None:
        if stage.options.init_from is None:
            return None
        candidates = [run for run in self._runs.values() if run.stage.name == stage.options.init_from]
        for run in candidates:
            fixed = run.stage.options.seed is not None
            if run.task in (None, task) and run.x in (None, x) and (fixed or run.seed == seed):
                return run
        raise UserError(
            f"{stage.where}.init_from: {stage.options.init_from} has no run for {task or 'these tasks'}"
            f"{'' if seed is None else f' and seed {seed}'}; train it there, too, or leave the task out with `tasks: [...]`"
        )


def _check_kind(stage: Stage) -> None:
    module = STAGE_KINDS[stage.options.kind].module
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{stage.where}.kind: {stage.options.kind!r} needs the module {module}, which is not installed")


def _refuse_own_seed(stage: Stage, point: Point | None) -> None:
    for changes in (*stage.changes, *([point.changes] if point else [])):
        training = changes.children.get("training")
        if isinstance(training, Branch) and "seed" in training.children:
            raise UserError(
                f"{at(training.children['seed'], 'set.training.seed')}: a study has seeds of its own; change `seeds` in its file, or "
                "say `seed` of an arm that has one run for all of them"
            )


def _check_attention(stage: Stage, config: ExperimentConfig) -> None:
    sharing = config.model.sharing
    if stage.options.task_attention and sharing != "layerwise_explicit":
        raise UserError(
            f"{stage.where}.task_attention: only tokens of model.sharing: layerwise_explicit attend to each other; received {sharing!r}"
        )


def _started(config: ExperimentConfig, stage: Stage, parent: PlannedRun) -> ExperimentConfig:
    """Let a configuration start from another run; the encoder is that one's, whose weights it takes."""
    folder = os.path.abspath(parent.directory)  # as configurations hold paths: without `..`
    kind = parent.stage.options.kind
    if STAGE_KINDS[kind].is_source and kind != stage.options.kind:
        return replace(config, encoder=replace(config.encoder, source=folder))
    training = replace(config.training, init_from=folder, init_heads=stage.options.heads or "kept")
    encoder = replace(config.encoder, source=parent.config.encoder.source)
    return replace(config, training=training, encoder=encoder)


def check_inputs(specs: Sequence[TaskSpec], where: str) -> None:
    """Look for the files of tasks before hours are spent on the runs that come first.

    Raises:
        UserError: one is not there.
    """
    for task in specs:
        for split, source in task.sources.items():
            is_name = source.is_dataset or re.search(r"[*?\[]", source.path)
            if not is_name and not Path(source.path).exists():
                raise UserError(f"{where}: tasks.{task.name}.{split}: {source.path}: there is no such file")
