"""Shapes in annotations are enforced while tests run (jaxtyping's import hook and beartype), and only then."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from seaplib.activations import capture
from seaplib.input_sparsity import sparsifier
from seaplib.models import passes

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: passes.real(torch.zeros(2, 3, 4), torch.ones(2, 3)),  # keep is no bool
        lambda: capture.Moments.of(torch.zeros(3)),  # [n, dim] is asked for
        lambda: sparsifier.variance_factor(torch.zeros(2, 3), torch.zeros(2, 4)),  # the widths differ
    ],
    ids=["dtype", "axes", "widths"],
)
def test_a_wrong_shape_is_refused_in_the_tests(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


@pytest.mark.slow
def test_a_process_of_its_own_checks_nothing():
    """Neither a notebook's kernel nor a worker pays for the checks or needs beartype."""
    code = (
        "import sys, torch; from seaplib.models import passes;"
        "assert 'beartype' not in sys.modules;"
        "passes.real(torch.zeros(2, 3, 4), torch.ones(2, 3).long())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "IndexError" in ran.stderr or ran.returncode == 0, ran.stderr
    assert "TypeCheckError" not in ran.stderr
