"""A study as it is written: arms, tasks and seeds that are compared under one budget.

title: Several tasks at once, or one at a time
budget: four epochs over the same rows for every task and arm
config: ../glue_minilm.yaml
seeds: [2018, 2019, 2020]
tasks: {rte: {}, qqp: {seeds: 1}}
arms:
  single: {each_task: true, set: {training: {epochs: 4}}}
  multi_task: {title: multi-task refinement}
  fine_tuned: {init_from: multi_task, heads: kept, each_task: true}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from mtdnn_tf.config import Count, CountOrNone, Name, Names, Seed
from mtdnn_tf.config_build import at, build, not_empty, one_of
from mtdnn_tf.config_tree import Branch, Leaf, Node
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.studies.planned import Grid, PlannedRun, Point, plan_runs
from mtdnn_tf.studies.running import KEEP
from mtdnn_tf.studies.stages import Stage, changes_of, read_body, read_stages
from mtdnn_tf.tasks import TaskSpec


@dataclass(frozen=True)
class StudiedTask:
    """One task of the table."""

    seeds: Count | None = None  # the first so many of the study's; None: all
    also: tuple[Name, ...] = ()  # metrics that are shown beside its main one; nothing is tested on them


@dataclass(frozen=True)
class Published:
    """Figures of others, shown beside the table; nothing is computed from them."""

    source: Name
    scores: Mapping[str, Mapping[str, tuple[float, ...]]]  # by row and task, in percent: one, or one for each point


@dataclass(frozen=True)
class Axis:
    """The points of the x axis."""

    x: Name  # what it shows
    log: bool = False


@dataclass(frozen=True)
class StudyOptions:
    """What a study says beside `arms`, `config`, `set` and the values of `points`."""

    title: Name
    budget: Name  # what every arm may spend, in words; the table counts epochs and steps beside them
    tasks: Annotated[Mapping[str, StudiedTask], not_empty()]
    seeds: Annotated[tuple[Seed, ...], not_empty()] = (2018,)
    about: str = ""
    notes: tuple[Name, ...] = ()  # what a reader has to know beside the numbers
    split: Annotated[str, one_of("dev", "test")] = "dev"
    without_train_rows: bool = (
        False  # a second table, without rows of the split that any run trained on or chose its epoch by
    )
    resample: bool = False  # each seed draws the examples that `max_examples` leaves anew
    points: Axis | None = None
    compare: tuple[Names, ...] = ()  # pairs of arms; none: every arm with the first
    bootstrap: CountOrNone = 1000  # resamplings of the examples; 0: none
    keep: Annotated[str, one_of(*KEEP)] = "best"
    published: Published | None = None


@dataclass(frozen=True)
class Study:
    """A study, read and checked."""

    path: Path
    options: StudyOptions
    stages: tuple[Stage, ...]
    points: tuple[Point, ...] = field(default=())

    @property
    def arms(self) -> tuple[Stage, ...]:
        """The stages that the table has."""
        return tuple(stage for stage in self.stages if stage.options.scored)

    @property
    def pairs(self) -> tuple[tuple[Stage, Stage], ...]:
        """The arms that are compared: each pair as (arm, what it is compared with)."""
        arms = {arm.name: arm for arm in self.arms}
        if self.options.compare:
            return tuple((arms[one], arms[other]) for one, other in self.options.compare)
        first, *others = self.arms
        return tuple((arm, first) for arm in others)

    @property
    def grid(self) -> Grid:
        """What every stage is trained for."""
        options = self.options
        seeds_of = {name: task.seeds for name, task in options.tasks.items() if task.seeds}
        return Grid(options.seeds, self.points, tuple(options.tasks), seeds_of, options.resample)

    def has_result(self, run: PlannedRun, task: str) -> bool:
        """Return whether a task of a scored run is shown: of a task that takes fewer seeds, only these are."""
        point = next((point for point in self.points if point.x == run.x), None)
        return task in self.options.tasks and (
            run.stage.options.seed is not None or run.seed in self.grid.seeds_for([task], point)
        )

    def plan(self, root: Path, overrides: Sequence[str] = ()) -> tuple[PlannedRun, ...]:
        """Return all runs of the study; their directories are below `<root>/runs`.

        Raises:
            UserError: see `plan_runs`; `also` of a task names a metric that it has not; arms have other main metrics for a task, or
            lack the split that is scored.
        """
        runs = plan_runs(self.stages, root / "runs", overrides=overrides, grid=self.grid)
        main: dict[str, str] = {}
        for run in runs:
            for spec in run.specs if run.stage.options.scored else ():
                if spec.name in self.options.tasks:
                    self._check_metrics(run, spec, main.setdefault(spec.name, spec.main_metric))
                    self._check_split(run, spec)
        return runs

    def _check_split(self, run: PlannedRun, spec: TaskSpec) -> None:
        split = self.options.split
        if split not in spec.sources:
            raise UserError(
                f"{run.stage.where}: tasks.{spec.name}.{split}: is missing; the study scores its tasks on it (split: {split})"
            )

    def _check_metrics(self, run: PlannedRun, spec: TaskSpec, main_metric: str) -> None:
        for metric in self.options.tasks[spec.name].also:
            if metric not in spec.metrics:
                where = f"{self.path}: tasks.{spec.name}.also"
                raise UserError(unknown_name(where, "metric of the task", metric, list(spec.metrics)))
        if spec.main_metric != main_metric:
            raise UserError(
                f"{run.stage.where}: tasks.{spec.name}.main_metric: must be one in all arms, which are compared by it; received "
                f"{spec.main_metric!r}, and {main_metric!r} of an arm before"
            )


def read_study(path: str | Path) -> Study:
    """Read a study's file, with the files that it includes.

    Raises:
        UserError: file, line and key, the rule, and what was received.
    """
    body = read_body(path)
    points, axis = _points(body)
    shown = {key: node for key, node in body.children.items() if key not in ("arms", "config", "set", "points")}
    options: StudyOptions = build(StudyOptions, Branch(shown | axis, body.origin), "")
    study = Study(Path(path), options, read_stages(body, "arms"), points)
    _check(study, body)
    return study


def _points(body: Branch) -> tuple[tuple[Point, ...], dict[str, Node]]:
    """Return the points, and what is said of their axis."""
    node = body.children.get("points")
    if node is None:
        return (), {}
    values = node.children.get("values") if isinstance(node, Branch) else None
    items = values.value if isinstance(values, Leaf) and isinstance(values.value, tuple) else ()
    if not isinstance(node, Branch) or not items:
        raise UserError(
            f"{at(node, 'points')}: must hold x (what the axis shows) and values: a list of {{x: 0.1, set: {{...}}}}"
        )
    axis = Branch({key: child for key, child in node.children.items() if key != "values"}, node.origin)
    return tuple(_point(item) for item in items), {"points": axis}


def _point(item: Node) -> Point:
    children = item.children if isinstance(item, Branch) else {}
    if not {"x", "set"} <= set(children) <= {"x", "set", "seeds"}:
        raise UserError(
            f"{at(item, 'points.values')}: must be {{x: <number>, set: {{...}}}}, and may hold seeds: {{<task>: <number>}}"
        )
    x: float = build(float, children["x"], "points.values.x")
    seeds = build(Mapping[str, Count], children["seeds"], "points.values.seeds") if "seeds" in children else {}
    return Point(x, changes_of(children["set"], "points.values.set"), seeds)


def _check(study: Study, body: Branch) -> None:
    options, arms = study.options, [arm.name for arm in study.arms]
    if not arms:
        raise UserError(f"{body.origin}: arms: one at least must be scored")
    if twice := _repeated(arm.title for arm in study.arms):
        raise UserError(
            f"{at(body.children['arms'], 'arms')}: two arms have the title {twice!r}; tables tell them by it"
        )
    if twice := _repeated(f"{point.x:g}" for point in study.points):
        raise UserError(
            f"{at(body.children['points'], 'points.values')}: x: two points are at {twice}; give each its own"
        )
    for pair in options.compare:
        if len(pair) != 2 or len(set(pair)) != 2:
            raise UserError(
                f"{at(body.children['compare'], 'compare')}: must be pairs of two arms, received {list(pair)}"
            )
        for name in pair:
            if name not in arms:
                raise UserError(unknown_name(at(body.children["compare"], "compare"), "scored arm", name, arms))
    for name, by_task in options.published.scores.items() if options.published else ():
        for task, values in by_task.items():
            if task not in options.tasks:
                where = at(body.children["published"], f"published.scores.{name}")
                raise UserError(unknown_name(where, "task of the study", task, list(options.tasks)))
            if len(values) != max(len(study.points), 1):
                raise UserError(
                    f"{at(body.children['published'], f'published.scores.{name}.{task}')}: needs a number for each point, "
                    f"{max(len(study.points), 1)}; received {len(values)}"
                )
    for name in sorted({name for point in study.points for name in point.seeds} - set(options.tasks)):
        where = at(body.children["points"], "points.values.seeds")
        raise UserError(unknown_name(where, "task of the study", name, list(options.tasks)))
    if options.points and options.points.log and any(point.x <= 0 for point in study.points):
        raise UserError(f"{at(body.children['points'], 'points.log')}: a logarithmic axis takes numbers above 0 only")


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def restricted(
    study: Study,
    runs: Sequence[PlannedRun],
    arms: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[PlannedRun]:
    """Return the scored runs of some arms, tasks and seeds; None: all. Runs of several tasks are taken where one is wanted.

    Raises:
        UserError: a name or seed that the study has not, or no run is left.
    """
    known = {"--arms": [arm.name for arm in study.arms], "--tasks": list(study.options.tasks)}
    for flag, wanted in (("--arms", arms), ("--tasks", tasks)):
        for name in wanted or ():
            if name not in known[flag]:
                raise UserError(unknown_name(flag, flag[2:-1], name, known[flag]))
    for seed in seeds or ():
        if seed not in study.options.seeds:
            listed = ", ".join(map(str, study.options.seeds))
            raise UserError(f"--seeds: {seed} is none of the study's: {listed}; add it to `seeds` in {study.path}")
    found = [
        run
        for run in runs
        if run.stage.options.scored
        and (arms is None or run.stage.name in arms)
        and (tasks is None or any(spec.name in tasks for spec in run.specs))
        and (seeds is None or run.seed in seeds or run.stage.options.seed is not None)
    ]
    if not found:
        raise UserError(
            f"--arms, --tasks and --seeds leave no run of {study.path}: a task may take fewer seeds, an arm fewer tasks; name others"
        )
    return found
