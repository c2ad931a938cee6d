"""Settings: every value is of its field's kind and possible, or one clear line."""

import numpy as np
import pytest

from seaplib.pruning.allocation import Allocation
from seaplib.settings import Calibration, Evaluation, Pruning, Routing

pytestmark = pytest.mark.unit
WRONG = [
    (Calibration, {"samples": True}, "samples must be a whole number"),
    (Calibration, {"samples": 12.0}, "samples must be a whole number"),
    (Calibration, {"bos": "no"}, "bos must be true or false"),
    (Calibration, {"bos": 1}, "bos must be true or false"),
    (Calibration, {"seed": -1}, "seed must be at least 0"),
    (Calibration, {"pooling": None}, "pooling must be a text"),
    (Calibration, {"max_length": "2048"}, "max_length must be a whole number"),
    (Pruning, {"protect_last": 1.5}, "protect_last must be a whole number"),
    (Pruning, {"sparsity": "half"}, "sparsity must be a number"),
    (Pruning, {"sparsity": float("nan")}, r"sparsity must lie in \[0, 1\)"),
    (Pruning, {"k": True}, "k must be a number"),
    (Pruning, {"mode": ["remove"]}, "mode must be a text"),
    (Evaluation, {"items": 0}, "items must be at least 1"),
    (Evaluation, {"items": "all"}, "items must be a whole number or None"),
    (Evaluation, {"bos": "no"}, "bos must be true or false or None"),
    (Evaluation, {"chat_template": 1}, "chat_template must be true or false"),
    (Evaluation, {"item_seed": 0.0}, "item_seed must be a whole number"),
    (Routing, {"per_task": 0}, "per_task must be at least 1"),
    (Routing, {"coverage": 0}, "coverage must lie in"),
    (Routing, {"wording": "poem"}, "wording is one of request, question"),
    (Allocation, {"kind": "uniform", "sparsity": True}, "sparsity must be a number"),
    (Allocation, {"kind": "uniform", "sparsity": 0.5, "protect_first": -1}, "cannot be negative"),
]


@pytest.mark.parametrize(("group", "values", "said"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_impossible_values_are_refused(group, values, said):
    with pytest.raises(ValueError, match=said) as refused:
        group(**values)
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_are_numbers():
    assert Calibration(samples=np.int64(3)).samples == 3 and Pruning(sparsity=np.float32(0.5)).sparsity == 0.5
    assert Pruning(sparsity=0, x0=1, k=2).as_dict()["k"] == 2
