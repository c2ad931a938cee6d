"""What holds for every set of activations (drawn by hypothesis): moments do not depend on how the set was divided."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seaplib.activations.capture import Moments, _Sums

pytestmark = pytest.mark.unit
NUMBERS = st.floats(-1e4, 1e4, allow_nan=False)


@given(arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(1, 5)), elements=NUMBERS), st.data())
def test_moments_of_parts_are_those_of_the_whole(values, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    zero = torch.zeros((), dtype=torch.float64)
    merged = Moments(0, zero, zero)
    parts = np.split(values, cuts)
    for place in data.draw(st.permutations(range(len(parts)))):
        merged = merged.merge(Moments.of(torch.from_numpy(parts[place])))
    assert merged.count == len(values)
    scale = max(np.abs(values).max(), 1e-3)
    np.testing.assert_allclose(merged.mean.numpy() / scale, values.mean(0) / scale, atol=1e-9)
    np.testing.assert_allclose(
        merged.m2.numpy() / scale**2, ((values - values.mean(0)) ** 2).sum(0) / scale**2, atol=1e-9
    )
    assert (merged.m2 >= 0).all()


@given(
    arrays(np.float32, st.tuples(st.integers(2, 30), st.integers(1, 4)), elements=st.floats(-100, 100, width=32)),
    st.data(),
)
def test_rows_left_out_add_nothing(values, data):
    out = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=len(values) - 1, unique=True))
    x, kept = torch.from_numpy(values.copy()), np.delete(values, out, axis=0)
    x[out] = torch.nan
    found, expected = Moments.of(x, torch.tensor(out, dtype=torch.long), len(kept)), Moments.of(torch.from_numpy(kept))
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.m2, expected.m2, rtol=1e-4, atol=1e-3)


@given(arrays(np.float64, st.tuples(st.integers(2, 40), st.integers(1, 4)), elements=NUMBERS), st.data())
def test_covariances_of_parts_are_those_of_the_whole(values, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    sums = _Sums()
    for part in np.split(values, cuts):
        sums.add(torch.from_numpy(part))
    scale = max(np.abs(values).max(), 1e-3)
    assert sums.count == len(values)
    np.testing.assert_allclose(sums.mean.numpy() / scale, values.mean(0) / scale, atol=1e-9)
    centred = (values - values.mean(0)) / scale
    np.testing.assert_allclose(sums.m2.numpy() / scale**2, centred.T @ centred, atol=1e-9)
