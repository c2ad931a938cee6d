"""Every bad input of tests/bad_inputs.py gets one clear line, and the committed table has them all."""

import subprocess
import sys

import bad_inputs
import pytest


@pytest.mark.slow
def test_every_bad_input_is_refused_in_a_line_of_ours():
    command = [sys.executable, bad_inputs.__file__, "--check"]  # as a user meets them: nothing checks types before us
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.unit
def test_the_committed_table_has_every_input():
    text = bad_inputs.TABLE.read_text("utf-8")
    inputs = [code for codes in bad_inputs.INPUTS.values() for code in codes]
    cells = [line.split("`` | ")[0].removeprefix("| ``") for line in text.splitlines() if line.startswith("| ``")]
    assert cells == [code.replace("|", "\\|").replace("<", "&lt;") for code in inputs] and len(inputs) >= 200
    assert "accepted: " not in text
