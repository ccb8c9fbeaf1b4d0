"""Spellings of one label are one class; what is no label of the task is told with what sets it apart."""

from __future__ import annotations

import pytest

from mtdnn_tf.data.labels import LabelNames, label_key, parse_label
from mtdnn_tf.errors import UserError
from mtdnn_tf.tasks import TaskSpec

DECOMPOSED = "cafe\u0301"
COMPOSED = "caf\u00e9"


def parsed(raw, labels, **source):
    task = TaskSpec("t", "classification", ("text",), labels)
    return labels[parse_label(task, LabelNames(labels, **source), raw, lambda: "x.tsv:2: column 'label'")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0", "0.0"), ("0", "-0"), ("1", "+1"), ("1", "1e0"), ("1000", "1E3"), (".5", "0.50"), ("-1", "-1.00"), ("7", "007"),
        ("True", "true"), ("FALSE", "false"), (COMPOSED, DECOMPOSED), ("\u1100\u1161", "\uac00"), ("a", "\u00a0a\u2003"),
        ("12345678901234567890", "12345678901234567890.0"),
    ],
)  # fmt: skip
def test_spellings_of_one_label(one, other):
    assert label_key(one) == label_key(other)
    assert parsed(one, (other, "x")) == other
    assert parsed(other, ("x", one)) == one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Yes", "yes"), ("TrUe", "true"), ("1", "true"), ("1", "1,0"), ("1_0", "10"), ("nan", "NaN"), ("\u0661", "1"),
        ("12345678901234567890", "12345678901234567891"), ("1e99999999999999999999", "2e99999999999999999999"),
        ("New York", "New\u00a0York"), ("a", "a."), ("a", "\u0430"),
    ],
)  # fmt: skip
def test_other_labels(one, other):
    assert label_key(one) != label_key(other)
    with pytest.raises(UserError, match="unknown label"):
        parsed(one, (other, "x"))


def test_labels_that_the_user_lists_stay_apart():
    labels = ("1.1", "1.10", "true", "True", DECOMPOSED, COMPOSED)
    assert [parsed(label, labels) for label in labels] == list(labels)


def test_a_label_that_is_equal_to_several_is_none_of_them():
    expected = r"x\.tsv:2: column 'label': label '1\.100' is equal to '1\.1' and to '1\.10'; write it as one of them"
    with pytest.raises(UserError, match=expected):
        parsed("1.100", ("1.1", "1.10"))
    with pytest.raises(UserError, match=r"'-1' is equal to '-1\.0' and to an ignored one"):
        parsed("-1", ("-1.0", "0"), ignored=["-1.00"])


@pytest.mark.parametrize(
    ("raw", "name"),
    [("1.0", "pos"), ("0.0", "neg"), ("False", "neg"), (DECOMPOSED, "neg"), ("pos", "pos"), ("01", "pos")],
)
def test_a_mapping_takes_every_spelling(raw, name):
    mapping = {"1": "pos", "0": "neg", "false": "neg", COMPOSED: "neg"}
    assert parsed(raw, ("neg", "pos"), mapping=mapping) == name


def test_a_mapping_names_a_label_in_any_spelling():
    assert parsed("good", ("0.0", "1.0"), mapping={"good": "1"}) == "1.0"


@pytest.mark.parametrize(
    ("raw", "ignored"),
    [("-1.0", True), ("-", True), ("1.1", True), ("1.10", False), ("1.100", False), ("0.0", False), (DECOMPOSED, False), ("n", False)],
)  # fmt: skip
def test_what_is_ignored_is_ignored_in_every_spelling_but_that_of_a_label(raw, ignored):
    assert LabelNames(("0", "1.10", COMPOSED), ignored=["-1", "1.1", "-"]).is_ignored(raw) is ignored


@pytest.mark.parametrize(("raw", "score"), [("low", 0.5), ("1.0", 2.5), ("3", 3.0)])
def test_a_score_may_be_mapped(raw, score):
    task = TaskSpec("t", "regression", ("text",), range=(0.0, 5.0))
    assert parse_label(task, LabelNames((), {"low": "0.5", "1": "2.5"}), raw, str) == score


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("po\u0455", "Did you mean 'pos' (received with U+0455 CYRILLIC SMALL LETTER DZE)?"),
        ("pos\u200b", "Did you mean 'pos' (received with U+200B ZERO WIDTH SPACE)?"),
        ("ne\u00adg", "Did you mean 'neg' (received with U+00AD SOFT HYPHEN)?"),
        ("don't know", "Did you mean 'don\u2019t know' (which has U+2019 RIGHT SINGLE QUOTATION MARK)?"),
        ("POS", "Did you mean 'pos' (upper and lower case count)?"),
        ("pos.", "unknown label 'pos.'. Did you mean 'pos'?"),
    ],
)
def test_what_no_one_sees_is_named(raw, told):
    with pytest.raises(UserError) as caught:
        parsed(raw, ("neg", "pos", "don\u2019t know"))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
