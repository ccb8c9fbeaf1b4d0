"""What a message quotes never breaks its one line; a name that is nearly known is found."""

from __future__ import annotations

import pytest

from mtdnn_tf.errors import UserError, closest_name, unknown_name


@pytest.mark.parametrize(
    ("received", "told"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\u2028b\x85", r"a\u2028b\x85"),
        ("\x1b[2J", r"\x1b[2J"),
        ("caf\udce9", r"caf\udce9"),
        ("\u202e", r"\u202e"),
        ("été 日本 \\n '", "été 日本 \\n '"),
    ],
)
def test_a_message_is_one_line_that_can_be_printed(received, told):
    message = str(UserError(f"{received}: wrong"))
    assert message == f"{told}: wrong"
    assert len(message.splitlines()) == 1
    assert message.encode()


@pytest.mark.parametrize(
    ("received", "closest"),
    [("LABEL", "label"), (" label", "label"), ("lable", "label"), ("zzz", None), ("texts", "text")],
)
def test_the_closest_name(received, closest):
    assert closest_name(received, ["text", "label"]) == closest


def test_a_long_list_of_known_names_is_cut():
    message = unknown_name("x.tsv:2", "label", "n", [f"label_{n}" for n in range(1000)])
    assert len(message) < 600
    assert message.endswith("... (1000 in all).")
