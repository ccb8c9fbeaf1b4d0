"""The small decisions behind a task file: names, lengths, ranges."""

from __future__ import annotations

import pytest

from mtdnn_tf.starting.kinds import usual_range
from mtdnn_tf.starting.lengths import fitting_length
from mtdnn_tf.starting.names import as_identifier, second_of_pair
from mtdnn_tf.starting.preparing import task_name


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((0.1, 0.9), (0, 1)), ((1, 5), (1, 5)), ((0, 4.8), (0, 5)), ((-0.5, 0.7), (-1, 1)), ((2, 97), (0, 100)),
     ((1990, 2020.5), (1990, 2021)), ((-3, 3), (-3, 3)), ((3, 3), (3, 4))],
)  # fmt: skip
def test_usual_range(numbers, expected):
    assert usual_range(*numbers) == expected


@pytest.mark.parametrize(("tokens", "expected"), [([3.0] * 9, 16), ([16.0], 16), ([130.0] * 9, 192), ([9000.0], 512)])
def test_the_length_is_a_bucket(tokens, expected):
    assert fitting_length([tokens]) == expected


@pytest.mark.parametrize(
    ("first", "second"), [("sentence1", "sentence2"), ("#1 String", "#2 string"), ("text_a", "text_b"), ("Premise", "hypothesis")]
)  # fmt: skip
def test_names_of_pairs(first, second):
    assert second in second_of_pair(first)


@pytest.mark.parametrize(
    ("text", "expected"), [("Review Text", "review_text"), ("1st", None), ("é", None), ("a-b", "a_b")]
)
def test_identifiers(text, expected):
    assert as_identifier(text) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("x/reviews_train.tsv", "reviews"), ("glue/RTE/train.tsv", "rte"), ("My File.csv", "my_file"), ("encode.tsv", "encode_task"),
     ("training-data.csv", "data"), ("trains.tsv", "trains")],
)  # fmt: skip
def test_task_names(path, expected):
    assert task_name(path) == expected
