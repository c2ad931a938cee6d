"""lm-eval's tasks over our rows: its prompts, its requests, its metrics, without its model loop.

``Bench`` holds what does not depend on a variant: the items drawn, the requests tokenised exactly as
lm-eval's HFLM would, and the batches they are scored in. Metrics come from lm-eval's own
``process_results``; exact match (is the right option the greedy continuation?) comes from the same
requests as accuracy.
"""

import copy
import hashlib
import logging
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd

from . import batching, corpora, likelihood, models, store, tasks
from .settings import Evaluation

METRICS = ("acc", "acc_norm", "exact_match")


@dataclass
class Prepared:
    """A task's requests, tokenised and collated: what all variants share."""

    task: object  # lm-eval's
    instances: list[list]  # lm-eval's requests, per item
    doc_ids: tuple[str, ...]
    batches: list[likelihood.Batch]  # empty for a task that generates
    dense: likelihood.LayerInputs  # for variants that change nothing in the first layers
    truncated: list[bool]  # per item


class Bench:
    """Everything about an evaluation that does not depend on the variant."""

    def __init__(self, model, tokenizer, settings: Evaluation):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.max_length = min(settings.max_length or math.inf, models.context_length(model))
        self._drawn, self._prepared, self._identities = {}, {}, {}

    @cached_property
    def harness(self):
        """lm-eval's HFLM around the model in memory: its tokenisation and its generation."""
        from lm_eval.models.huggingface import HFLM

        harness = HFLM(
            self.model,
            tokenizer=copy.deepcopy(self.tokenizer),  # HFLM may give it a padding token
            max_length=self.max_length,
            batch_size=max(1, self.settings.batch_tokens // min(self.max_length, 512)),
            add_bos_token=self.settings.bos,
        )
        harness.tok_encode = lru_cache(maxsize=None)(harness.tok_encode)  # options repeat their context
        return harness

    @cached_property
    def fingerprints(self) -> dict:
        return {
            "model": models.fingerprint(self.model),
            "tokenizer": models.tokenizer_fingerprint(self.tokenizer),
            "attention": self.model.config._attn_implementation,
        }

    def drawn(self, name: str) -> corpora.Rows:
        """The test items: all, or the first ``settings.items`` of a seeded shuffle."""
        if name not in self._drawn:
            found = corpora.rows(name, "test")
            if self.settings.items is not None:
                order = np.random.default_rng(self.settings.item_seed).permutation(len(found))
                found = found.take(order[: self.settings.items])
            if not len(found):
                raise ValueError(f"{name} has no test items")
            self._drawn[name] = found
        return self._drawn[name]

    def identity(self, name: str) -> dict:
        """What a task's results depend on, the variant apart; needs no lm-eval and no tokens."""
        if name not in self._identities:
            task = tasks.get(name)
            config = task.config_file()
            if not config.exists():
                raise FileNotFoundError(f"{name}: no lm-eval configuration {config.name}")
            content = repr(list(self.drawn(name))) + config.read_text("utf-8") + repr(sorted(task.changes.items()))
            spec = self.settings.as_dict()
            for irrelevant in ("batch_tokens", "items", "item_seed"):  # the items themselves are hashed
                del spec[irrelevant]
            spec |= {"task": name, "content": hashlib.sha256(content.encode()).hexdigest(), "ids": self.drawn(name).ids}
            self._identities[name] = spec | {"max_length": self.max_length}
        return self._identities[name]

    def items(self, name: str, variant, applied) -> pd.DataFrame:
        """Item results of one variant (``applied()`` is its model) on one task, from the store if there."""
        identity = None if variant is None else variant.fingerprint
        spec = self.fingerprints | self.identity(name) | {"variant": identity}
        first = getattr(variant, "first_layer", 0)
        return store.fetch("items", spec, lambda: self._score(self.prepared(name), applied(), first), pd.DataFrame)

    def prepared(self, name: str) -> Prepared:
        if name not in self._prepared:
            self._prepared[name] = self._prepare(name)
        return self._prepared[name]

    def _prepare(self, name: str) -> Prepared:
        task = harness_task(name, self.drawn(name))
        chat = {}
        if self.settings.chat_template:
            chat = {"apply_chat_template": True, "chat_template": self.harness.apply_chat_template}
        instances = []
        for index, doc in enumerate(task.eval_docs):
            context = task.fewshot_context(doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc), **chat)
            made = task.construct_requests(doc=doc, ctx=context, metadata=(name, index, 1), **chat)
            instances.append(made if isinstance(made, list) else [made])
        ids = self.drawn(name).ids
        if task.OUTPUT_TYPE == "generate_until":
            room = self.max_length - instances[0][0].args[1].get("max_gen_toks", self.harness.max_gen_toks)
            too_long = [len(self.harness.tok_encode(item[0].args[0])) > room for item in instances]
            return Prepared(task, instances, ids, [], likelihood.LayerInputs(self.model, []), too_long)
        requests = [[self._encode(*instance.args) for instance in item] for item in instances]
        too_long = [any(likelihood.truncated(request, self.max_length) for request in item) for item in requests]
        window = getattr(self.model.config, "sliding_window", None)
        share = likelihood.can_share(self.model)
        tokens = batching.affordable(models.input_device(self.model), self.settings.batch_tokens)
        batches = likelihood.plan(requests, self.max_length, tokens, share, window)
        return Prepared(task, instances, ids, batches, likelihood.LayerInputs(self.model, batches), too_long)

    def _encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids as in HFLM: an empty context is the BOS token, or else the EOS token."""
        if context:
            return self.harness._encode_pair(context, continuation)
        encoded = self.harness.tok_encode(continuation, add_special_tokens=False)
        prefix = self.harness.prefix_token_id
        return (encoded[:1], encoded[1:]) if encoded[0] == prefix else ([prefix], encoded)

    def _score(self, prepared: Prepared, model, first: int) -> pd.DataFrame:
        """Item results of ``model``, which before layer ``first`` is the model that was prepared for."""
        task, items = prepared.task, prepared.instances
        if prepared.batches:
            sums, greedy = likelihood.score(model, prepared.batches, prepared.dense, first)
            answers = iter(zip(sums.tolist(), greedy.tolist(), strict=True))
            responses = [[next(answers) for _ in item] for item in items]
        else:
            responses = self._generate(task, [item[0] for item in items], model)
        rows = []
        for item, response, doc_id, long in zip(items, responses, prepared.doc_ids, prepared.truncated, strict=True):
            metrics = task.process_results(item[0].doc, response)
            rows += [
                (task.VERSION, metric, doc_id, float(metrics[metric]), long) for metric in METRICS if metric in metrics
            ]
        frame = pd.DataFrame(rows, columns=["task_version", "metric", "doc_id", "value", "truncated"])
        return frame.astype({"task_version": str})

    def _generate(self, task, instances: list, model) -> list[list[str]]:
        self.harness._model = model
        try:
            texts = self.harness.generate_until(instances, disable_tqdm=True)
        finally:
            self.harness._model = self.model
        for instance, text in zip(instances, texts, strict=True):
            instance.resps = [text]
        task._instances = instances
        task.apply_filters()
        name = next(iter(instances[0].filtered_resps))
        return [[instance.filtered_resps[name]] for instance in instances]


def harness_task(name: str, found: corpora.Rows):
    """lm-eval's task of that name over exactly these rows, zero-shot, exact match beside accuracy."""
    import datasets
    from lm_eval import utils
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of models and rows handed over in memory
    if not hasattr(utils.env.from_string, "cache_info"):  # it compiles a task's template anew for every item
        utils.env.from_string = lru_cache(utils.env.from_string)
    task = tasks.get(name)
    config = load_yaml(task.config_file()) | task.changes
    for key in ("tag", "group", "training_split", "validation_split", "fewshot_split", "fewshot_config"):
        config.pop(key, None)
    data = datasets.Dataset(datasets.table.InMemoryTable(found.table))
    if process := config.pop("process_docs", None):
        shown = datasets.are_progress_bars_disabled() is False
        datasets.disable_progress_bars()
        data = process(data)
        if shown:
            datasets.enable_progress_bars()
        if len(data) != len(found):
            raise ValueError(f"{name}: lm-eval drops items while it prepares them, so that ids would be lost")
    if config["output_type"] == "multiple_choice":
        measured = {metric["metric"] for metric in config["metric_list"]}
        exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
        config["metric_list"] = [*config["metric_list"], *([] if "exact_match" in measured else [exact])]
    splits = datasets.DatasetDict({"test": data})
    made = ConfigurableTask(
        config=config | {"task": name, "test_split": "test", "num_fewshot": 0, "custom_dataset": lambda **_: splits}
    )
    for field in ("doc_to_text", "doc_to_target", "doc_to_choice"):  # lm-eval compiles a template at every call
        setattr(made, field, _remembered(getattr(made, field)))
    return made


def _remembered(function):
    """``function(doc)`` computed once per document, which is kept, so that its id stays its own."""
    known = {}

    def remembered(doc, *args):
        if args:
            return function(doc, *args)
        if id(doc) not in known:
            known[id(doc)] = doc, function(doc)
        return known[id(doc)][1]

    return remembered


def chance(name: str) -> float:
    """Accuracy that guessing would give: the mean of 1/options over the test items, 0 where answers are written."""
    task = harness_task(name, corpora.rows(name, "test"))
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0.0
    return float(np.mean([1 / len(task.doc_to_choice(doc)) for doc in task.eval_docs]))
