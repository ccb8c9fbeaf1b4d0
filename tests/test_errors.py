"""What a message quotes never breaks its one line; a name that is nearly known is found."""

from __future__ import annotations

import subprocess
import sys

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


@pytest.mark.parametrize(
    ("received", "known", "told"),
    [
        ("caf\u00e9", "cafe\u0301", "'cafe\u0301' (received with U+00E9 LATIN SMALL LETTER E WITH ACUTE)?"),
        ("\u0410", "A", "'A' (received with U+0410 CYRILLIC CAPITAL LETTER A)?"),
        ("a-b", "a\u2013b", "'a\u2013b' (which has U+2013 EN DASH)?"),
        ("\uff54\uff45xt", "text", "U+FF54 FULLWIDTH LATIN SMALL LETTER T, U+FF45 FULLWIDTH LATIN SMALL LETTER E)?"),
        ("a b", "a\u00a0b", r"(which has U+00A0 NO-BREAK SPACE)?"),
        ("\u2764\ufe0f", "\u2764", "(received with U+FE0F VARIATION SELECTOR-16)?"),
        ("Text", "text", "'text' (upper and lower case count)?"),
        ("texts", "text", "'text'?"),
    ],
)
def test_names_that_look_alike_are_told_apart(received, known, told):
    message = str(UserError(unknown_name("x", "label", received, [known, "zzzz"])))
    assert told in message
    assert received != known


def test_a_long_list_of_known_names_is_cut():
    message = unknown_name("x.tsv:2", "label", "n", [f"label_{n}" for n in range(1000)])
    assert len(message) < 600
    assert message.endswith("... (1000 in all).")


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        ("Interrupted(signal.SIGTERM, 'saved')", 143, "SIGTERM: saved"),
        ("Interrupted(signal.SIGINT, 'saved')", 130, "SIGINT: saved"),
        ("KeyboardInterrupt()", 130, "interrupted"),
        ("UserError('bad row')", 1, "error: bad row"),
    ],
)
def test_entry_points_end_in_one_line_and_the_status_of_convention(raised, status, line):
    code = (
        "import signal; from mtdnn_tf import cli; from mtdnn_tf.errors import Interrupted, UserError\n"
        f"def main(): raise {raised}\n"
        "cli.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, f"{line}\n")
