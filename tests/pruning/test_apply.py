import pytest
import reference
import torch
from pruned import TOLERANCE, assert_same_function, logits, random_mask, random_means

from seaplib import activations, models
from seaplib.activations import capture
from seaplib.models import layers
from seaplib.models.layers import EmptyAttention, EmptyMLP
from seaplib.models.state import ModelState, state
from seaplib.pruning import apply, masks, selection
from seaplib.pruning.apply import Variant, prune
from seaplib.pruning.scores import Scores
from seaplib.settings import Calibration
from seaplib.texts import corpora

pytestmark = pytest.mark.unit

KINDS = [("mha", "group"), ("gqa", "group"), ("gqa", "query")]


@pytest.fixture
def ids():
    return torch.randint(3, 250, (2, 11), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def draw_biases(model) -> None:
    """Biases start as zeros, which would hide whatever happens to them."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(generator=generator)


@pytest.mark.parametrize("compensate", [False, True], ids=["plain", "compensated"])
@pytest.mark.parametrize(("kind", "kv_unit"), KINDS)
def test_removal_equals_zeroing(tiny_model, ids, kind, kv_unit, compensate):
    model = tiny_model(kind)
    mask = random_mask(model, kv_unit)
    means = random_means(model) if compensate else None
    zeroed, removed = prune(model, mask, "zero", means), prune(model, mask, "remove", means)
    assert sum(p.numel() for p in removed.parameters()) < sum(p.numel() for p in zeroed.parameters())
    assert float((logits(removed, ids) - logits(model, ids)).abs().max()) > 1e-2, "pruning changes something"
    assert_same_function(removed, zeroed, ids)


@pytest.mark.parametrize(("kind", "kv_unit"), KINDS)
def test_projections_with_biases(tiny_model, ids, kind, kv_unit):
    model = tiny_model(kind, attention_bias=True, mlp_bias=True)
    draw_biases(model)
    mask = random_mask(model, kv_unit)
    for means in (None, random_means(model)):
        assert_same_function(
            prune(model, mask, "remove", means), prune(model, mask, "zero", means), ids, caches=("dynamic",)
        )


def test_padding_and_positions(tiny_model, ids):
    """A left-padded batch, too."""
    model = tiny_model("gqa")
    mask = random_mask(model)
    attention = torch.ones_like(ids)
    attention[0, :4] = 0
    with torch.no_grad():
        a, b = (
            prune(model, mask, mode)(ids, attention_mask=attention).logits[attention.bool()]
            for mode in ("zero", "remove")
        )
    torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["mha", "gqa"])
def test_zeroing_equals_the_slow_one(tiny_model, kind):
    """Rows of q, k, v, gate, up with their biases, and columns of o, down; each weight looked at by itself."""
    model = tiny_model(kind, attention_bias=True, mlp_bias=True)
    draw_biases(model)
    g = models.geometry(model)
    mask = random_mask(model)
    pruned = prune(model, mask, "zero")
    size, queries = g.head_dim, g.queries_per_group
    for index in range(g.layers):
        heads, channels = mask.heads[index].tolist(), mask.channels[index].tolist()
        group = [any(heads[i * queries : (i + 1) * queries]) for i in range(g.kv_heads)]
        gone = {
            "q": lambda row, _, heads=heads: not heads[row // size],
            "k": lambda row, _, group=group: not group[row // size],
            "v": lambda row, _, group=group: not group[row // size],
            "o": lambda _, column, heads=heads: not heads[column // size],
            "gate": lambda row, _, channels=channels: not channels[row],
            "up": lambda row, _, channels=channels: not channels[row],
            "down": lambda _, column, channels=channels: not channels[column],
        }
        for role, rule in gone.items():
            before, after = (models.linear(models.decoder_layers(m)[index], role) for m in (model, pruned))
            assert after.weight.tolist() == reference.zeroed(before.weight.tolist(), rule), role
            if role not in ("o", "down"):
                biases = reference.zeroed([[b] for b in before.bias.tolist()], rule)
                assert [[b] for b in after.bias.tolist()] == biases, role
            else:
                assert torch.equal(after.bias, before.bias), "an output's bias is nobody's unit"


def test_removed_shapes_are_the_masks(tiny_model):
    model = tiny_model("gqa")
    mask = random_mask(model, "query")
    layer = models.decoder_layers(prune(model, mask))[1]
    heads, channels = int(mask.heads[1].sum()), int(mask.channels[1].sum())
    shapes = {role: tuple(models.linear(layer, role).weight.shape) for role in models.ROLES}
    assert shapes == {
        "q": (8 * heads, 32), "k": (16, 32), "v": (16, 32), "o": (32, 8 * heads),
        "gate": (channels, 32), "up": (channels, 32), "down": (32, channels),
    }  # fmt: skip


@pytest.mark.parametrize("compensate", [False, True], ids=["plain", "compensated"])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("kind", ["mha", "gqa"])
def test_emptied_attention_and_mlp(tiny_model, ids, kind, layer, compensate, recwarn):
    model = tiny_model(kind, num_hidden_layers=3)
    mask = random_mask(model)
    mask.heads[layer] = False
    mask.channels[(layer + 1) % 3] = False
    means = random_means(model) if compensate else None
    removed, zeroed = prune(model, mask, "remove", means), prune(model, mask, "zero", means)
    assert isinstance(models.attention(models.decoder_layers(removed)[layer]), EmptyAttention)
    assert isinstance(models.decoder_layers(removed)[(layer + 1) % 3].mlp, EmptyMLP)
    assert not [w for w in recwarn if "zero-element" in str(w.message)]
    assert_same_function(removed, zeroed, ids)


def test_everything_emptied(tiny_model, ids):
    """What remains is embedding, norm and LM head."""
    model = tiny_model()
    mask = masks.keep_all(models.geometry(model))
    mask.heads[:] = False
    mask.channels[:] = False
    removed = prune(model, mask)
    assert models.projection_parameters(removed) == 0 and mask.achieved == 1
    assert_same_function(removed, prune(model, mask, "zero"), ids)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mode", ["zero", "remove"])
@pytest.mark.parametrize(("kind", "kv_unit"), KINDS)
def test_compensation_adds_the_removed_mean_to_the_output(tiny_model, kind, kv_unit, mode, bias):
    """W·(h with the removed units at their mean) + b = W_kept·h_kept + new bias, for o and for down."""
    model = tiny_model(kind, attention_bias=bias, mlp_bias=bias)
    draw_biases(model)
    mask, means = random_mask(model, kv_unit), random_means(model)
    pruned = prune(model, mask, mode, means)
    for index in range(2):
        kept = {"o": mask.heads[index].repeat_interleave(8), "down": mask.channels[index]}
        for module, role in capture.UNITS.items():
            projection = models.linear(models.decoder_layers(model)[index], role)
            dense = projection.weight.detach().double()
            small = models.linear(models.decoder_layers(pruned)[index], role)
            h = torch.randn(dense.shape[1], dtype=torch.float64)
            expected = dense @ torch.where(kept[role], h, means[module][index])
            expected += projection.bias.detach() if bias else 0
            got = (
                small.weight.detach().double() @ (h[kept[role]] if mode == "remove" else h)
                + small.bias.detach().double()
            )
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_compensation_restores_the_mean_output(tiny_model, tiny_tokenizer):
    """With a task's own means, the mean output of a pruned MLP is the dense one's."""
    model = tiny_model(num_hidden_layers=1)
    texts = ("the otter in the river", "A kettle is used to boil water.")
    stats = activations.collect(
        model, tiny_tokenizer, corpora.Corpus("mine", texts, ("0", "1"), {}), Calibration(), progress=False
    )
    mask = masks.keep_all(models.geometry(model))
    mask.channels[0, ::2] = False

    def mean_output(m):
        seen = []
        handle = models.decoder_layers(m)[0].mlp.register_forward_hook(lambda _, args, out: seen.append(out[0]))
        with torch.no_grad():
            for ids in tiny_tokenizer(list(texts))["input_ids"]:
                m(torch.tensor([ids]))
        handle.remove()
        return torch.cat(seen).mean(0)

    dense = mean_output(model)
    torch.testing.assert_close(mean_output(prune(model, mask, "remove", stats.mean)), dense, rtol=0, atol=1e-5)
    assert float((mean_output(prune(model, mask)) - dense).abs().max()) > 1e-3


@pytest.mark.parametrize("mode", ["zero", "remove"])
def test_the_original_is_untouched(tiny_model, ids, mode):
    model = tiny_model("gqa")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    structure, expected = str(model), logits(model, ids)
    config = model.config.to_dict()
    pruned = prune(model, random_mask(model), mode, random_means(model))
    logits(pruned, ids)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert str(model) == structure and model.config.to_dict() == config
    assert torch.equal(logits(model, ids), expected)
    assert state(model) == ModelState()


@pytest.mark.parametrize("mode", ["zero", "remove"])
def test_a_mask_that_keeps_all_is_the_identity(tiny_model, ids, mode):
    model = tiny_model("gqa")
    pruned = prune(model, masks.keep_all(models.geometry(model)), mode, random_means(model))
    assert torch.equal(logits(pruned, ids), logits(model, ids))
    assert models.fingerprint(pruned) == models.fingerprint(model)


def test_an_unpruned_layer_shares_its_memory(tiny_model):
    """Many variants of a large model fit in memory because only what changes is copied."""
    model = tiny_model()
    mask = masks.keep_all(models.geometry(model))
    mask.channels[0, :5] = False
    pruned = Variant({}, mask).apply(model)
    assert pruned.get_input_embeddings().weight is model.get_input_embeddings().weight
    assert (
        models.linear(models.decoder_layers(pruned)[1], "up").weight
        is models.linear(models.decoder_layers(model)[1], "up").weight
    )


def test_dtype_and_tied_embeddings_survive(tiny_model, ids):
    model = tiny_model("gqa", tie_word_embeddings=True).to(torch.bfloat16)
    pruned = prune(model, random_mask(model), "remove", random_means(model))
    assert {p.dtype for p in pruned.parameters()} == {torch.bfloat16}
    assert pruned.get_output_embeddings().weight is pruned.get_input_embeddings().weight
    assert torch.isfinite(logits(pruned, ids)).all()


def test_a_mask_of_another_model_is_refused(tiny_model):
    with pytest.raises(ValueError, match="Geometry"):
        prune(tiny_model("gqa"), random_mask(tiny_model("mha")))


def test_a_pruned_model_is_refused(tiny_model):
    model = tiny_model()
    mask = random_mask(model)
    mask.channels[1, 0] = not mask.channels[1, 0]
    for one in (mask, selection.single_layer(Scores(mask.geometry, torch.rand(2, 32), torch.rand(2, 48)), 0, 1.0)):
        with pytest.raises(ValueError, match="pruned"):
            prune(prune(model, one), one)


def test_unknown_modes_are_refused(tiny_model):
    model = tiny_model()
    with pytest.raises(ValueError, match="drop"):
        prune(model, random_mask(model), "drop")


def test_a_variant_states_requested_and_achieved(tiny_model):
    model = tiny_model()
    mask = random_mask(model)
    variant = Variant({"method": "SEAP", "score": "s_F"}, mask)
    assert variant.label == {
        "method": "SEAP",
        "score": "s_F",
        "requested_sparsity": 0.45,
        "achieved_sparsity": mask.achieved,
        "achieved_model_sparsity": mask.achieved_model,
    }
    assert models.fingerprint(variant.apply(model)) == models.fingerprint(prune(model, mask))


def test_a_variants_fingerprint_follows_what_it_computes(tiny_model):
    model = tiny_model()
    mask, means = random_mask(model), random_means(model)
    same = Variant({"method": "a"}, mask).fingerprint
    assert Variant({"method": "b"}, random_mask(model)).fingerprint == same, "its name does not matter"
    others = [
        Variant({}, random_mask(model, seed=3)),
        Variant({}, mask, mode="zero"),
        Variant({}, mask, compensation=means),
    ]
    others.append(Variant({}, mask, compensation=random_means(model, seed=2)))
    assert len({same, *(one.fingerprint for one in others)}) == 5


def test_the_attention_implementation_is_each_models_own(tiny_model):
    """Changing a pruned model's attention implementation does not change the original's."""
    model = tiny_model()
    pruned = prune(model, random_mask(model))
    original = model.config._attn_implementation
    pruned.set_attn_implementation("eager" if original == "sdpa" else "sdpa")
    assert model.config._attn_implementation == original


def test_resized_slices_weight_and_bias():
    linear = torch.nn.Linear(5, 4)
    small = layers.resized(linear, rows=torch.tensor([0, 3]), columns=torch.tensor([1, 2, 4]))
    assert torch.equal(small.weight, linear.weight[[0, 3]][:, [1, 2, 4]])
    assert torch.equal(small.bias, linear.bias[[0, 3]])
    copy = layers.resized(linear)
    assert torch.equal(copy.weight, linear.weight) and copy.weight.data_ptr() != linear.weight.data_ptr()


@pytest.mark.parametrize("mode", ["remove", "zero", "mask"])
def test_a_model_that_was_stopped_halfway_in_place_is_not_the_dense_one(tiny_model, monkeypatch, mode):
    model = tiny_model("gqa")
    before, mask = models.fingerprint(model), random_mask(model)
    name = "_mask_layer" if mode == "mask" else "_prune_layer"
    whole = getattr(apply, name)

    def stop(layer, index, *rest):
        if index:
            raise KeyboardInterrupt
        whole(layer, index, *rest)

    monkeypatch.setattr(apply, name, stop)
    with pytest.raises(KeyboardInterrupt):
        prune(model, mask, mode, in_place=True)
    assert models.fingerprint(model) != before
    with pytest.raises(ValueError, match="already pruned"):
        prune(model, mask, mode)


@pytest.mark.parametrize("mode", ["remove", "zero"])
@pytest.mark.parametrize("kind", ["gqa", "tied"])
def test_a_pruned_model_learns_and_the_dense_one_does_not(tiny_model, ids, mode, kind):
    """Cut projections were frozen, and embeddings and norms were the dense model's own."""
    model = tiny_model("gqa", tie_word_embeddings=kind == "tied")
    mask = random_mask(model)
    mask.heads[0] = False
    pruned, before = prune(model, mask, mode, random_means(model)), models.fingerprint(model)
    assert all(parameter.requires_grad for parameter in pruned.parameters())
    assert (pruned.lm_head.weight is pruned.get_input_embeddings().weight) == (kind == "tied")
    optimizer, losses = torch.optim.SGD(pruned.parameters(), lr=0.1), []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append(pruned(ids, labels=ids).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    unused = {name for name, parameter in pruned.named_parameters() if parameter.grad is None}
    assert unused <= {"model.layers.0.input_layernorm.weight"}, "only the norm before attention without heads"
    assert models.fingerprint(model) == before


def test_what_was_frozen_stays_frozen(tiny_model):
    model = tiny_model().requires_grad_(False)
    model.get_output_embeddings().requires_grad_(True)
    pruned = prune(model, random_mask(model))
    learning = [name for name, parameter in pruned.named_parameters() if parameter.requires_grad]
    assert learning == ["lm_head.weight"]


def test_a_mask_is_boolean(tiny_model):
    """~ of an integer is arithmetic: such a mask had an achieved sparsity of 254.5."""
    mask = random_mask(tiny_model())
    for name, units in (("heads", mask.heads.long()), ("channels", mask.channels.float())):
        made = object.__new__(masks.PruningMask)  # around the types that the tests enforce, and users do not
        vars(made).update(vars(mask) | {name: units})
        with pytest.raises(ValueError, match=rf"{name}.*{units.dtype}.*torch\.bool"):
            made.__post_init__()


def test_compensation_must_be_finite_and_of_the_models_shape(tiny_model):
    model = tiny_model()
    mask, means = random_mask(model), random_means(model)
    for module in means:
        broken = means[module].clone()
        broken[1, 2] = torch.nan
        with pytest.raises(ValueError, match=f"{module}.*NaN"):
            prune(model, mask, compensation=means | {module: broken})
        with pytest.raises(ValueError, match=f"{module}.*shape"):
            prune(model, mask, compensation=means | {module: means[module][:, 1:]})
    with pytest.raises(ValueError, match="mlp.*none"):
        prune(model, mask, compensation={"attention": means["attention"]})


@pytest.mark.parametrize("mode", ["remove", "zero", "mask"])
def test_a_compensated_model_may_change_its_dtype(tiny_model, ids, mode):
    model = tiny_model()
    pruned = prune(model, random_mask(model), mode, random_means(model))
    whole = logits(pruned, ids)
    torch.testing.assert_close(logits(pruned.to(torch.bfloat16), ids).float(), whole, rtol=0, atol=0.1)
