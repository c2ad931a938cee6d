"""What holds for every pattern of sparse inputs (drawn by hypothesis)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seaplib.input_sparsity import sparsifier
from seaplib.input_sparsity.rule import InputSparsity

pytestmark = pytest.mark.unit
SCORES = st.floats(0, 100, width=32)


@given(st.integers(1, 8), st.integers(1, 16), st.integers(1, 4), st.integers(1, 6), st.data())
def test_n_of_every_m_stay_and_they_are_the_largest(n, m, blocks, rows, data):
    n = min(n, m)
    scores = torch.from_numpy(data.draw(arrays(np.float32, (rows, m * blocks), elements=SCORES)))
    gone = sparsifier.dropped(scores, InputSparsity(f"{n}:{m}")).unflatten(-1, (blocks, m))
    assert (gone.sum(-1) == m - n).all()
    parts = scores.unflatten(-1, (blocks, m))
    low = parts.masked_fill(~gone, -1).amax(-1)
    assert (low <= parts.masked_fill(gone, torch.inf).amin(-1)).all()


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 50)), elements=SCORES), st.floats(0, 0.99))
def test_a_ratio_takes_so_many_of_every_token_whatever_its_neighbours(scores, ratio):
    rule, x = InputSparsity(ratio), torch.from_numpy(scores)
    gone = sparsifier.dropped(x, rule)
    assert (gone.sum(-1) == rule.removed(x.shape[-1])).all()
    for row in range(len(x)):
        assert torch.equal(sparsifier.dropped(x[row], rule), gone[row])
