"""Which values of a label column stand for no label, and what is said of those that may."""

from __future__ import annotations

from collections import Counter

import pytest

from mtdnn_tf.starting.missing_labels import missing_labels, notes_about_missing

NLI = {"contradiction": 30, "entailment": 30, "neutral": 30}

# values with their rows, and those that stand for no label
GUESSES = {
    "snli": ({**NLI, "-": 2}, {"-"}),
    "dash_beside_two_names": ({"a": 5, "b": 5, "": 5, "-": 5}, {"", "-"}),
    "plus_and_minus": ({"+": 5, "-": 5}, set()),
    "plus_minus_zero": ({"+": 5, "-": 5, "0": 5}, set()),
    "signs": ({"++": 5, "-": 5, "--": 5}, set()),
    "crossed_or_not": ({"x": 5, "-": 9}, set()),
    "dash_beside_numbers": ({"0": 5, "1": 5, "-": 5}, {"-"}),
    "missing_values": ({"pos": 5, "neg": 5, "nan": 5, "None": 5, "N/A": 5}, {"nan", "None", "N/A"}),
    "scores": ({"1.5": 2, "2.5": 1, "NA": 9, "?": 1, "null": 1}, {"NA", "?", "null"}),
    "seldom_none": ({"a": 9, "b": 9, "None": 3}, {"None"}),
    "none_as_often_as_others": ({"favor": 9, "against": 9, "None": 9}, set()),
    "a_word_for_none": ({"favor": 9, "against": 9, "none": 1, "NONE": 1}, set()),
    "minus_one": ({"0": 9, "1": 9, "2": 9, "-1": 1}, set()),
    "one_class_and_nan": ({"pos": 9, "nan": 9}, {"nan"}),
}


@pytest.mark.parametrize("case", GUESSES)
def test_guesses(case):
    counts, expected = GUESSES[case]
    assert missing_labels(Counter(counts), None) == expected


@pytest.mark.parametrize(
    ("wished", "expected"), [((), {""}), (("-",), {"", "-"}), (("-1",), {"", "-1", "-1.0"}), (("x",), {""})]
)
def test_what_the_user_names_is_all(wished, expected):
    counts = Counter({"": 1, "-": 1, "nan": 1, "-1": 1, "-1.0": 1, "0": 1})
    assert missing_labels(counts, wished) == expected


@pytest.mark.parametrize(
    ("counts", "classes", "missing", "expected"),
    [
        ({"neutral": 5, "-": 5}, tuple(NLI), (), {"-"}),
        ({"+": 5, "-": 5}, ("+", "-"), (), set()),
        ({"a": 5, "None": 9}, ("a", "b"), (), {"None"}),
        ({"a": 5, "None": 1}, ("a", "b", "None"), (), set()),
        ({"-1": 9}, ("0", "1"), (), {"-1"}),
        ({"-1.0": 9}, ("-1", "0", "1"), (), set()),
        ({"a": 5, "0": 1}, ("a", "b"), ("0",), {"0"}),
        ({"nan": 5}, (), ("nan",), {"nan"}),
    ],
)
def test_a_file_beside_the_training_file_follows_it(counts, classes, missing, expected):
    assert missing_labels(Counter(counts), None, classes, missing) == expected


@pytest.mark.parametrize(
    ("counts", "wished", "expected"),
    [
        ({**NLI, "-": 2}, None, ["2 rows without a label ('-': 2): left out; to keep such values as a class: --no_label="]),
        ({**NLI, "-": 2}, ("-",), ["2 rows without a label ('-': 2): left out"]),
        ({**NLI, "-": 2}, (), []),
        ({"+": 5, "-": 5, "": 3}, None, ["3 rows without a label: left out"]),
        ({"x": 5, "-": 9}, None, ["'-' (9 rows) is taken as a class; where it stands for no label: --no_label=-"]),
        ({"0": 9, "1": 9, "2": 9, "-1": 1}, None, ["'-1' (1 row) is taken as a class; where it stands for no label: --no_label=-1"]),
        ({"0": 9, "1": 9, "-100": 9}, None, ["'-100' (9 rows) is taken as a class; where it stands for no label: --no_label=-100"]),
        ({"-1": 9, "0": 9, "1": 9}, None, []),
        ({"-1": 9, "1": 9}, None, []),
        ({"0": 9, "1": 9, "2": 9, "-1": 1, "nan": 2}, None,
         ["2 rows without a label ('nan': 2): left out; to keep such values as a class: --no_label=",
          "'-1' (1 row) is taken as a class; where it stands for no label: --no_label=nan,-1"]),
    ],
)  # fmt: skip
def test_what_is_said(counts, wished, expected):
    counts = Counter(counts)
    assert list(notes_about_missing(counts, missing_labels(counts, wished), wished, "class")) == expected
