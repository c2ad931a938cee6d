"""What was done to a model is said by its state, which copies carry and contexts put back."""

import copy

import pytest
from pruned import masks_of, random_mask

from seaplib.experts.model import ExpertModel
from seaplib.models.state import ModelState, note, pruned, state
from seaplib.pruning.apply import prune
from seaplib.pruning.baselines import griffin

pytestmark = pytest.mark.unit


def test_a_model_that_nothing_was_done_to_has_the_default_state(tiny_model):
    model = tiny_model()
    assert state(model) == ModelState()
    note(model, label={"method": "mine"})
    assert state(model) == state(copy.deepcopy(model)) == ModelState(label={"method": "mine"})


@pytest.mark.parametrize("mode", ["remove", "zero", "mask"])
def test_a_pruned_model_says_mask_and_mode(tiny_model, mode):
    model = tiny_model()
    mask = random_mask(model)
    made = prune(model, mask, mode)
    assert state(made).mask is mask and pruned(made) == mode and state(model) == ModelState() and pruned(model) is None
    assert (state(made).applied is not None) == (mode == "mask"), "the weights are still the dense model's"


def test_sparse_inputs_are_said_while_the_context_is_open(tiny_model):
    model = tiny_model()
    with griffin.griffin(model, 9):
        assert state(model).sparse == {"griffin": 9}
    assert state(model) == ModelState()


def test_an_expert_model_states_its_own(tiny_model, tiny_tokenizer):
    model = tiny_model()
    experts = ExpertModel(model, tiny_tokenizer, masks_of(model))
    done = state(experts)
    assert done.label["method"] == "routed experts" and done.mask is None
    with experts.using("piqa"):
        assert state(experts).applied != done.applied
