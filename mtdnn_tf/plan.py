"""Says what a configuration would train, before it is trained: `python -m mtdnn_tf.plan --config=FILE`."""

from __future__ import annotations

import json

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.commands import command_line
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import load_tasks

_JSON = flags.DEFINE_string("json", None, "Also writes the plan to this file as JSON.")
_TIMED = flags.DEFINE_bool("timed", True, "Takes a few real steps to estimate the time; nothing is kept of them.")


def main() -> None:
    """Read the flags, plan, print."""
    config = cli.config_from_flags()
    cli.start_tensorflow()
    from mtdnn_tf.experiment import prepare_runtime
    from mtdnn_tf.files import write_text_atomically
    from mtdnn_tf.planning import make_plan, plan_table

    prepare_runtime(config)
    plan = make_plan(config, timed=_TIMED.value)
    print(plan_table(plan))
    if _JSON.value:
        write_text_atomically(_JSON.value, json.dumps(plan, indent=2) + "\n")
        print(f"plan: {_JSON.value}")
    of_documents = any(task.type in DOCUMENT_TYPES for task in load_tasks(config))
    print(f"next:\n  {command_line('pretrain' if of_documents else 'train', *cli.flags_of_config())}")


if __name__ == "__main__":
    cli.run(main)
