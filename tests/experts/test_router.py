"""The router: scikit-learn's probabilities from its own arrays, a threshold with a price, saved without a change."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold

import seaplib
from seaplib import paths
from seaplib.evaluation import bootstrap
from seaplib.experts import classifier, variants
from seaplib.experts import router as routing
from seaplib.experts.model import ExpertModel
from seaplib.settings import Calibration, Evaluation, Routing
from seaplib.texts import tasks as registry

pytestmark = pytest.mark.unit
TASKS = ["piqa", "arc_easy", "winogrande"]


def cloud(classes=("a", "b", "c"), each: int = 40, spread: float = 1.2, seed: int = 0):
    draw = np.random.default_rng(seed)
    names = np.repeat(classes, each)
    centres = np.eye(len(classes), 6)[np.repeat(np.arange(len(classes)), each)]
    return draw.normal(size=(len(names), 6)) + spread * centres, names


@pytest.mark.parametrize("classes", [("a", "b", "c"), ("yes", "no")])
def test_probabilities_are_those_of_scikit_learn(classes):
    features, names = cloud(classes, each=400)
    router = routing.fit(features, names, Routing(seed=3))
    new, _ = cloud(classes, seed=1)
    plain = classifier.train(features, names)
    assert list(router.classes) == list(plain.classes_)
    as_they_come = replace(router, sharpness=1.0)
    np.testing.assert_allclose(as_they_come.probabilities(new), plain.predict_proba(new), atol=1e-9)
    assert (router.at(0).decide(new)[0] == plain.predict(new)).all()
    folds = StratifiedKFold(routing.FOLDS, shuffle=True, random_state=3)
    theirs = CalibratedClassifierCV(classifier.untrained(), method="temperature", cv=folds, ensemble=False)
    theirs.fit(features, names)  # without Platt's targets, which change little where classes overlap
    np.testing.assert_allclose(router.probabilities(new), theirs.predict_proba(new), atol=0.01)


def test_prompts_that_are_never_mistaken_leave_as_much_doubt_as_their_number():
    features, names = cloud(each=50, spread=60.0)
    confidence = routing.fit(features, names, Routing(coverage=1.0)).at(0).decide(features)[1]
    assert np.median(confidence) == pytest.approx(51 / 52, abs=0.01) and confidence.max() < 0.9999


def test_a_decision_does_not_depend_on_the_batch():
    features, names = cloud()
    router = routing.fit(features, names)
    together = router.probabilities(features)
    for rows in (slice(0, 1), slice(5, 12), slice(0, 119), slice(119, 120)):
        np.testing.assert_array_equal(router.probabilities(features[rows]), together[rows])


def test_the_threshold_is_the_largest_that_still_routes_the_wanted_share():
    confidence = np.array([0.9, 0.5, 0.8, 0.7, 0.6])
    assert routing.threshold_at(confidence, 1.0) == 0.5
    assert routing.threshold_at(confidence, 0.6) == 0.7
    assert routing.threshold_at(confidence, 0.61) == 0.6
    for coverage in (0, 1.1):
        with pytest.raises(ValueError, match="coverage"):
            routing.threshold_at(confidence, coverage)
    features, names = cloud(each=200)
    new, _ = cloud(each=400, seed=1)
    for coverage in (0.5, 0.9):
        routed = routing.fit(features, names, Routing(coverage=coverage)).decide(new)[0] != routing.GENERAL
        assert routed.mean() == pytest.approx(coverage, abs=0.05), "the price holds on new prompts of the same kind"


def test_temperature_makes_overconfident_probabilities_true():
    features, names = cloud(each=60, spread=0.8)
    noise = np.random.default_rng(2).normal(size=(len(features), 60))  # so that the regression overfits
    router = routing.fit(np.hstack([features, noise]), names)
    new, truth = cloud(each=500, spread=0.8, seed=1)
    noise = np.random.default_rng(3).normal(size=(len(new), 60))
    found = routing.reliability(router, np.hstack([new, noise]), truth).set_index("calibration")
    assert router.sharpness < 1
    assert found.loc["temperature", "calibration_error"] < found.loc["none", "calibration_error"] / 2
    assert found.loc["temperature", "log_loss"] < found.loc["none", "log_loss"]
    assert (found["n"] == 1500).all()


def test_calibration_error_by_hand():
    """Two prompts said with 0.9 of which one is right, two with 0.6, both right: (|0.9 − 0.5| + |0.6 − 1|) / 2."""
    features = np.log([[9.0, 1.0], [9.0, 1.0], [6.0, 4.0], [6.0, 4.0]])
    router = routing.Router(("a", "b"), np.zeros(2), np.ones(2), np.eye(2), np.zeros(2), 1.0, 0.0)
    found = routing.reliability(router, features, ["a", "b", "a", "a"], bins=2)
    np.testing.assert_allclose(found["calibration_error"], 0.4)


def test_abstention_by_hand():
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True])
    curve = routing.abstention(confidence, right, [0.0, 0.7, 0.75, 0.95])
    assert curve["coverage"].tolist() == [1, 0.75, 0.5, 0] and curve["routed"].tolist() == [4, 3, 2, 0]
    assert curve["accuracy"].tolist()[:3] == [0.75, 2 / 3, 1] and np.isnan(curve["accuracy"][3])
    assert (curve["low"][:3] < curve["accuracy"][:3]).all()
    assert routing.abstention(confidence, right)["threshold"].tolist() == [0, 0.6, 0.7, 0.8, 0.9]


def test_saved_and_loaded_it_is_bit_equal(tmp_path):
    features, names = cloud()
    router = routing.fit(features, names, provenance={"model": "m"})
    router.save(tmp_path)
    again = routing.Router.load(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["router.json", "router.safetensors"]
    assert again.classes == router.classes and again.fingerprint == router.fingerprint
    assert again.provenance == router.provenance and again.provenance["prompts"] == {"a": 40, "b": 40, "c": 40}
    np.testing.assert_array_equal(again.probabilities(features), router.probabilities(features))
    assert again.at(0.3).fingerprint != router.fingerprint


def test_bad_input_is_refused():
    features, names = cloud()
    with pytest.raises(ValueError, match="got a"):
        routing.fit(features[:40], names[:40])
    with pytest.raises(ValueError, match="b has 2.*5"):
        routing.fit(features[:42], names[:42])
    router = routing.fit(features, names)
    with pytest.raises(ValueError, match="6.*7"):
        router.probabilities(np.zeros((1, 7)))
    with pytest.raises(ValueError, match="threshold"):
        router.at(1.5)
    with pytest.raises(ValueError, match="general"):
        routing.fit(features, np.where(names == "a", routing.GENERAL, names))
    with pytest.raises(ValueError, match="weight"):
        routing.Router(("a", "b"), np.zeros(2), np.ones(2), np.eye(3), np.zeros(2), 1.0, 0.0)
    with pytest.raises(ValueError, match="wording"):
        routing.asked(["piqa"], wording="poem")


def test_prompts_are_what_the_model_is_asked(tiny_data_dir):
    frame = routing.asked(TASKS, 5, split="test")
    assert frame["task"].value_counts().to_dict() == dict.fromkeys(TASKS, 5)
    assert set(frame["expert"]) == {"piqa", "arc_challenge", "winogrande"}
    asked = {task: part["text"].tolist() for task, part in frame.groupby("task")}
    assert all(text.startswith("Question: How do you boil") and text.endswith("\nAnswer:") for text in asked["piqa"])
    assert all(text.startswith("Anna gave box") and "_" not in text for text in asked["winogrande"])
    bare = routing.asked(["piqa"], 5, wording="question")
    assert all(text.startswith("How do you boil") for text in bare["text"])
    assert set(routing.asked(["piqa"], 3)["id"]) <= set(routing.asked(["piqa"], 6)["id"])


def test_embeddings_leave_out_special_tokens(tiny_model, tiny_tokenizer):
    model = tiny_model()
    table = classifier.embeddings(model)
    texts = ["the otter", "<s>the otter</s>", ""]
    found = routing.embed(model, tiny_tokenizer, texts)
    np.testing.assert_array_equal(found[0], classifier.embed(table, tiny_tokenizer, texts[:1])[0])
    np.testing.assert_array_equal(found[0], found[1])
    assert not found[2].any()


# --- experts put together, and scored -----------------------------------------------------------


@pytest.fixture
def built(tiny_model, tiny_tokenizer, tiny_data_dir) -> ExpertModel:
    shutil.copytree(tiny_data_dir / "ai2_arc" / "ARC-Easy", tiny_data_dir / "ai2_arc" / "ARC-Challenge")
    calibration = Calibration(samples=6, seed=1)
    model = tiny_model(num_hidden_layers=6)
    options = {"calibration": calibration, "routing": Routing(per_task=20, seed=1)}
    return variants.build(model, tiny_tokenizer, TASKS, "wikitext2", 0.45, **options)


def test_building_makes_a_mask_for_every_expert_and_a_router_between_them(built):
    assert set(built.masks) == {"piqa", "arc_challenge", "winogrande", routing.GENERAL}
    assert set(built.router.classes) == {"piqa", "arc_challenge", "winogrande"}
    assert all(abs(mask.achieved - 0.45) < 0.01 for mask in built.masks.values())
    held = routing.asked(TASKS, 10, split="test")
    right = np.array(built.choose(held["text"], always=True)) == held["expert"]
    assert right.mean() > 0.9, "three templates are not hard to tell apart"
    assert (paths.store_dir() / "router").is_dir()
    with pytest.raises(ValueError, match="task"):
        variants.build(built.dense, built.tokenizer, [], "wikitext2")


def items(model, tokenizer, variants, names=TASKS) -> pd.DataFrame:
    return seaplib.evaluate_items(model, tokenizer, names, variants, Evaluation(items=8), progress=False)


def test_scored_under_the_true_task_every_item_has_its_experts_result(built):
    """By way of ordinary variants, one for each expert."""
    dense, tokenizer = built.dense, built.tokenizer
    ours = items(dense, tokenizer, [variants.Route(built, "task"), variants.Route(built, routing.GENERAL)])
    own = [seaplib.Variant({}, built.masks[registry.get(task).expert], tasks=(task,)) for task in TASKS]
    theirs = items(dense, tokenizer, [*own, seaplib.Variant({}, built.masks[routing.GENERAL])])
    keys = ["task", "metric", "doc_id"]
    for way, part in ours.groupby("variant"):
        wanted = theirs[theirs["variant"].isin(["0", "1", "2"] if way == "0" else ["3"])]
        pd.testing.assert_series_equal(
            part.set_index(keys)["value"].sort_index(), wanted.set_index(keys)["value"].sort_index()
        )
    assert set(ours["method"]) == {"experts, true task", "general"}


def test_contrasts_name_the_claims_of_each_kind_of_tasks():
    parts = []
    for method, rate in {"dense": 0.9, "general": 0.5, **dict.fromkeys(variants.WAYS.values(), 0.7)}.items():
        for task in ("piqa", "winogrande"):
            for metric in (registry.get(task).metric, "exact_match"):
                value = [float(i < 20 * rate) for i in range(20)]
                cell = pd.DataFrame({"doc_id": [str(i) for i in range(20)], "value": value})
                named = {"task": task, "metric": metric, "method": method, "truncated": False}
                named |= {"calibration_seed": pd.NA if method == "dense" else 0}
                parts.append(cell.assign(requested_sparsity=0.0 if method == "dense" else 0.5, **named))
    items = pd.concat(parts, ignore_index=True).astype({"calibration_seed": "Int64"})
    kinds = {"known": ["piqa"], "unseen": ["winogrande"]}
    found = variants.contrasts(items, kinds, draws=200)
    metrics = sum(len(bootstrap.measured(items[items["task"].isin(names)])) for names in kinds.values())
    assert len(found) == metrics * len(variants.PAIRS) and (found["claim"] != "").sum() == len(variants.CLAIMS)
    gain = found[found["claim"] == "Routed experts are more accurate than one general mask"].iloc[0]
    assert (gain["kind"], gain["null"], gain["difference"]) == ("known", 0, pytest.approx(0.2))
    little = found[found["null"] == -1].iloc[0]
    assert little["difference"] == 0 and little["p"] == little["p_floor"], "against -1 point, not against 0"


def test_random_experts_have_masks_for_every_task_and_a_router(built):
    model, tokenizer = built.dense, built.tokenizer
    made = variants.random_experts(model, tokenizer, TASKS, 0.5, Routing(per_task=20))
    assert set(made.masks) == {*registry.experts(TASKS), routing.GENERAL} and made.router is not None
    assert all(abs(mask.achieved - 0.5) < 0.1 for mask in made.masks.values())
    table = routing.across_wordings(model, tokenizer, TASKS[:2], TASKS[2:], 6, Routing(per_task=20))
    assert table[["trained on", "asked as"]].values.tolist() == [
        [a, b] for a in routing.WORDINGS for b in routing.WORDINGS
    ]
    assert table.drop(columns=["trained on", "asked as"]).apply(lambda c: c.dropna().between(0, 1).all()).all()


def test_routed_items_are_each_answered_by_the_routers_choice(built):
    found = items(built.dense, built.tokenizer, [variants.Route(built, "router")])
    through = items(built, built.tokenizer, [None])  # the model itself, like any model
    assert set(through["method"]) == {"routed experts"} and set(found["method"]) == {"experts, routed"}
    pd.testing.assert_series_equal(found["value"], through["value"])
    assert found["doc_id"].tolist() == items(built.dense, built.tokenizer, None)["doc_id"].tolist(), "in order"
    each = {name: items(built.dense, built.tokenizer, [variants.Route(built, name)]) for name in built.masks}
    asked = routing.asked(TASKS, 10, split="test").set_index(["task", "id"])["text"]
    for row, task, doc_id in zip(found.index, found["task"], found["doc_id"], strict=True):
        (name,) = built.choose([asked[task, doc_id]])
        assert found["value"][row] == each[name]["value"][row]
    assert len(set(built.choose(asked))) > 2, "several experts, or the test says nothing"


def test_ways_that_are_controls(built):
    route = variants.Route(built, "random", seed=4)
    texts = [f"question {i}" for i in range(60)]
    drawn = route.choose("piqa", texts)
    assert set(drawn) == {"arc_challenge", "winogrande"} and drawn == route.choose("piqa", texts)
    assert route.choose("piqa", texts[7:9]) == drawn[7:9], "by prompt, wherever it stands"
    assert variants.Route(built, "task").choose("boolq", texts[:2]) == [routing.GENERAL] * 2, "a task without an expert"
    prints = [variants.Route(built, way).fingerprint for way in (*variants.WAYS, "dense", "piqa", routing.GENERAL)]
    assert len(set(prints)) == len(prints)
    silent = ExpertModel(built.dense, built.tokenizer, built.masks)
    with pytest.raises(ValueError, match="forced"):
        variants.Route(silent, "forced")
    with pytest.raises(ValueError, match="expert"):
        variants.Route(ExpertModel(built.dense, built.tokenizer, {"piqa": built.masks["piqa"]}), "random")
    with pytest.raises(ValueError, match="experts"):
        route.apply(built.expert("piqa"))


def test_a_choice_made_by_hand_is_no_other_choices_cached_result(built):
    with built.using(routing.GENERAL):
        fixed = items(built, built.tokenizer, [None])
    expected = items(built.dense, built.tokenizer, [variants.Route(built, routing.GENERAL)])
    pd.testing.assert_series_equal(fixed["value"], expected["value"])
    with built.using("piqa"):
        assert not items(built, built.tokenizer, [None])["value"].equals(fixed["value"])


def test_lm_evals_own_loop_gives_the_same(built):
    """HFLM around the model: the likelihoods and continuations of each prompt's own expert."""
    from lm_eval.api.instance import Instance

    from seaplib.experts.lm_eval import ExpertLM

    lm = ExpertLM(built, batch_size=3)
    asked = routing.asked(TASKS, 3, split="test")["text"].tolist()
    pairs = [(text, answer) for text in asked for answer in (" Anna", " a copper spoon in the sun")]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    found = lm.loglikelihood(requests, disable_tqdm=True)
    chosen = built.choose([text for text, _ in pairs])
    assert len(set(chosen)) >= 3
    for name in set(chosen):
        with built.using(name):
            alone = lm.loglikelihood(requests, disable_tqdm=True)
        mine = [place for place, one in enumerate(chosen) if one == name]
        np.testing.assert_allclose([found[i][0] for i in mine], [alone[i][0] for i in mine], rtol=1e-4)
        assert [found[i][1] for i in mine] == [alone[i][1] for i in mine]
    options = {"until": ["."], "max_gen_toks": 4}
    writing = [Instance("generate_until", {}, (text, options), i) for i, text in enumerate(asked)]
    written = lm.generate_until(writing, disable_tqdm=True)
    for text, answer, name in zip(asked, written, built.choose(asked), strict=True):
        with built.using(name):
            alone = [Instance("generate_until", {}, (text, options), 0)]
            assert lm.generate_until(alone, disable_tqdm=True) == [answer]
    rolling = [Instance("loglikelihood_rolling", {}, ("the old harbour of the town",), 0)]
    with built.using(routing.GENERAL):
        expected = lm.loglikelihood_rolling(rolling, disable_tqdm=True)
    assert lm.loglikelihood_rolling(rolling, disable_tqdm=True) == expected
