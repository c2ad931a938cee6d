"""lm-eval's tasks over our rows: prompts, requests and metrics are lm-eval's, the model loop is ours.

:class:`Bench` holds what does not depend on a variant: the items drawn, the requests tokenised exactly as
lm-eval's HFLM tokenises them, and the batches in which they are scored. Metrics come from lm-eval's own
``process_results``; exact match (is the right option the greedy continuation?) comes from the same requests
as accuracy.
"""

import copy
import hashlib
import math
import os.path
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from torch import nn

from .. import store
from ..models import identity, layers, likelihood, passes
from ..settings import METRICS, Evaluation
from ..texts import lm_eval, rows, tasks


@dataclass
class Prepared:
    """The requests of a task, tokenised and in batches: what all variants share."""

    name: str
    task: object  # lm-eval's
    instances: list[list]  # lm-eval's requests, per item
    doc_ids: tuple[str, ...]
    batches: list[likelihood.Batch]  # empty for a task that generates
    dense: likelihood.LayerInputs  # for variants that change nothing in the first layers
    truncated: list[bool]  # per item

    @property
    def prompts(self) -> list[str]:
        """What each item asks: the text that the contexts of its requests begin with."""
        return [os.path.commonprefix([instance.args[0] for instance in item]) for item in self.instances]


@runtime_checkable
class Answering(Protocol):
    """What a variant may apply instead of a model: it scores the prepared requests of a task by a protocol of its own.

    Item results are made of :meth:`Bench.score`, :meth:`Bench.measured` and :meth:`Bench.written`.
    """

    def answer(self, bench: "Bench", prepared: Prepared) -> pd.DataFrame: ...


class Bench:
    """Everything about an evaluation that does not depend on the variant."""

    def __init__(self, model: nn.Module, tokenizer, settings: Evaluation):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        layers.check_vocabulary(model, tokenizer)
        self.max_length = min(settings.max_length or math.inf, layers.context_length(model))
        if settings.chat_template and not getattr(tokenizer, "chat_template", None):
            raise ValueError("the tokenizer has no chat template; leave chat_template off")
        if settings.bos and tokenizer.bos_token_id is None:
            raise ValueError("the tokenizer has no BOS token to begin with; leave bos at null")
        if settings.chat_template:
            self._check_template()
        self._drawn, self._prepared, self._identities, self._chances = {}, {}, {}, {}

    def _check_template(self) -> None:
        """ValueError where the chat template cannot word a user's turn, or leaves out what the user says."""
        said = "Why is the sky blue?"
        try:
            turn = [{"role": "user", "content": said}]
            text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # jinja's, or what the template itself raises
            reason = " ".join(str(error).split())
            raise ValueError(f"the tokenizer's chat template cannot word a user's turn ({reason})") from error
        if said not in text:
            raise ValueError("the tokenizer's chat template leaves out what the user says; leave chat_template off")

    @cached_property
    def harness(self):
        """lm-eval's HFLM around the model in memory, for tokenisation and generation."""
        from lm_eval.models.huggingface import HFLM

        with passes.evaluating(self.model):  # HFLM would leave it so
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
    def begins_with_bos(self) -> bool:
        """Whether the first token of a prompt is BOS: by the settings, or else by tokenizer or chat template."""
        if self.settings.bos is not None:
            return self.settings.bos
        text, bos = "a", self.tokenizer.bos_token
        if self.settings.chat_template:
            turn = [{"role": "user", "content": text}]
            text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return bool(bos) and (
            text.startswith(bos) or self.tokenizer(text)["input_ids"][0] == self.tokenizer.bos_token_id
        )

    @property
    def conditions(self) -> dict:
        """The columns that say how prompts were worded."""
        return {"bos": self.begins_with_bos, "chat_template": self.settings.chat_template}

    def _begun(self, context: str) -> str:
        """A prompt with a single BOS in front where ``settings.bos`` is true, and without BOS where it is false.

        HFLM alone does not do so: a tokenizer that never adds BOS has no special tokens to add, and a BOS
        that the chat template has written stays.
        """
        bos = self.tokenizer.bos_token
        if self.settings.bos is None or not bos:
            return context
        if not self.settings.bos:
            return context.removeprefix(bos)
        adds = self.tokenizer("a")["input_ids"][:1] == [self.tokenizer.bos_token_id]
        return context if adds or context.startswith(bos) else bos + context

    @cached_property
    def fingerprints(self) -> dict:
        """What results depend on, task and variant apart."""
        known = identity.specification(self.model, self.tokenizer)
        return known | {"attention": self.model.config._attn_implementation}

    def drawn(self, name: str) -> rows.Rows:
        """The test items: all, or the first ``settings.items`` of a seeded shuffle."""
        if name not in self._drawn:
            found = rows.read_rows(name, "test")
            if self.settings.items is not None:
                order = np.random.default_rng(self.settings.item_seed).permutation(len(found))
                found = found.take(order[: self.settings.items])
            if not len(found):
                raise ValueError(f"{name} has no test items")
            self._drawn[name] = found
        return self._drawn[name]

    def identity(self, name: str) -> dict:
        """What the results of a task depend on, the variant apart; needs neither lm-eval nor tokens."""
        if name not in self._identities:
            task = tasks.get(name)
            config = task.config_file()
            if not config.exists():
                raise FileNotFoundError(f"{name}: no lm-eval configuration {config.name}")
            content = repr(list(self.drawn(name))) + lm_eval.content(config) + repr(sorted(task.changes.items()))
            spec = self.settings.as_dict()
            for irrelevant in ("batch_tokens", "items", "item_seed", "workers"):  # the items themselves are hashed
                del spec[irrelevant]
            spec |= {"task": name, "content": hashlib.sha256(content.encode()).hexdigest(), "ids": self.drawn(name).ids}
            if self.settings.chat_template:
                spec["chat_template"] = self.tokenizer.chat_template
            self._identities[name] = spec | {
                "max_length": self.max_length,
                "metrics": sorted([name, kind.lm_eval or name] for name, kind in METRICS.items()),
            }
        return self._identities[name]

    def items(self, name: str, variant, applied) -> pd.DataFrame:
        """Item results of a variant on a task, asking the store first; ``applied()`` gives what the variant applies."""
        first = getattr(variant, "first_layer", 0)
        make = lambda: self.score(self.prepared(name), applied(), first)  # noqa: E731
        return store.fetch("items", self._specification(name, variant), make, pd.DataFrame, (variant, self.model))

    def chance(self, name: str) -> float:
        """Expected accuracy of guessing on the drawn items: the mean of 1/options, 0 where answers are written."""
        if name not in self._chances:
            make = lambda: pd.DataFrame({"chance": [self._guessed(name)]})  # noqa: E731
            spec = {key: self.identity(name)[key] for key in ("task", "content")}
            self._chances[name] = float(store.fetch("chance", spec, make, pd.DataFrame)["chance"].item())
        return self._chances[name]

    def _guessed(self, name: str) -> float:
        known = self._prepared.get(name)
        task = known.task if known else lm_eval.harness_task(tasks.get(name), self.drawn(name).table)[0]
        if task.OUTPUT_TYPE != "multiple_choice":
            return 0.0
        return float(np.mean([1 / len(task.doc_to_choice(doc)) for doc in task.eval_docs]))

    def stored(self, name: str, variant) -> bool:
        """Whether the store has the item results of a variant on a task."""
        return store.holds("items", self._specification(name, variant), (self.items, variant, self.model))

    def _specification(self, name: str, variant) -> dict:
        identity = None if variant is None else variant.fingerprint
        return self.fingerprints | self.identity(name) | {"variant": identity}

    def prepared(self, name: str) -> Prepared:
        """The requests of a task, made at the first call."""
        if name not in self._prepared:
            self._prepared[name] = self._prepare(name)
        return self._prepared[name]

    def _prepare(self, name: str) -> Prepared:
        drawn = self.drawn(name)
        task, places = lm_eval.harness_task(tasks.get(name), drawn.table)
        ids = tuple(drawn.ids[place] for place in places)
        chat = {}
        if self.settings.chat_template:
            chat = {"apply_chat_template": True, "chat_template": self.harness.apply_chat_template}
        instances = []
        for index, doc in enumerate(task.eval_docs):
            if task.OUTPUT_TYPE == "multiple_choice" and not callable(task.config.process_results):
                self._has_an_answer(task, doc, name, ids[index])
            context = task.fewshot_context(doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc), **chat)
            context = list(map(self._begun, context)) if isinstance(context, list) else self._begun(context)
            made = task.construct_requests(doc=doc, ctx=context, metadata=(name, index, 1), **chat)
            instances.append(made if isinstance(made, list) else [made])
        return self._planned(task, name, instances, ids)

    def _planned(self, task, name: str, instances: list[list], ids: tuple[str, ...]) -> Prepared:
        """Requests tokenised and in batches."""
        if task.OUTPUT_TYPE == "generate_until":
            written = instances[0][0].args[1].get("max_gen_toks", self.harness.max_gen_toks)
            if (room := self.max_length - written) < 1:
                raise ValueError(
                    f"{name}: answers of up to {written} tokens leave no room for a prompt "
                    f"in a context of {self.max_length}"
                )
            too_long = [len(self.harness.tok_encode(item[0].args[0])) > room for item in instances]
            return Prepared(name, task, instances, ids, [], likelihood.LayerInputs(self.model, []), too_long)
        requests = self.requests(instances)
        if empty := [i for i, item in zip(ids, requests, strict=True) if not all(answer for _, answer in item)]:
            raise ValueError(f"{name}: item {empty[0]} cannot be scored: an answer of it tokenises to nothing")
        too_long = [any(likelihood.truncated(request, self.max_length) for request in item) for item in requests]
        window = getattr(self.model.config, "sliding_window", None)
        share = likelihood.can_share(self.model)
        tokens = passes.affordable(layers.input_device(self.model), self.settings.batch_tokens)
        batches = likelihood.plan(requests, self.max_length, tokens, share, window)
        return Prepared(name, task, instances, ids, batches, likelihood.LayerInputs(self.model, batches), too_long)

    @staticmethod
    def _has_an_answer(task, doc: dict, name: str, doc_id: str) -> None:
        try:
            lm_eval.targets(task, doc)
        except Exception as error:  # what a template or function raises about a label is not one class
            raise ValueError(f"{name}: item {doc_id} cannot be scored: {error}") from error

    def requests(self, instances: list[list]) -> list[list[likelihood.Request]]:
        """Token ids of every item's requests (context, continuation)."""
        return [[self._encode(*instance.args) for instance in item] for item in instances]

    def _encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids as in HFLM: an empty context is the BOS token, or else the EOS token."""
        if context:
            return self.harness._encode_pair(context, continuation)
        encoded = self.harness.tok_encode(continuation, add_special_tokens=False)
        prefix = self.harness.prefix_token_id
        return (encoded[:1], encoded[1:]) if encoded[:1] == [prefix] else ([prefix], encoded)

    def score(self, prepared: Prepared, applied, first: int = 0) -> pd.DataFrame:
        """Item results of ``applied``: a model that equals ``self.model`` before layer ``first``, or an Answering."""
        if isinstance(applied, Answering):
            return applied.answer(self, prepared)
        if prepared.batches:
            return self.measured(prepared, *likelihood.score(applied, prepared.batches, prepared.dense, first))
        return self.written(prepared, applied)

    def divided(self, prepared: Prepared, parts: Iterable[tuple[object, Sequence[int]]]) -> pd.DataFrame:
        """Item results where models share the items: each scores the items at its places, in batches of their own."""
        frames = []
        for model, places in parts:
            instances, ids = [prepared.instances[i] for i in places], tuple(prepared.doc_ids[i] for i in places)
            frames.append(self.score(self._planned(prepared.task, prepared.name, instances, ids), model))
        place = {doc_id: number for number, doc_id in enumerate(prepared.doc_ids)}
        frame = pd.concat(frames, ignore_index=True)
        return frame.iloc[frame["doc_id"].map(place).argsort(kind="stable")].reset_index(drop=True)

    def measured(
        self, prepared: Prepared, sums: Float[np.ndarray, " requests"], greedy: Bool[np.ndarray, " requests"]
    ) -> pd.DataFrame:
        """Item results from the log-probability of each request, and whether it is the greedy continuation."""
        answers = iter(zip(sums.tolist(), greedy.tolist(), strict=True))
        return self._rows(prepared, [[next(answers) for _ in item] for item in prepared.instances])

    def written(self, prepared: Prepared, model: nn.Module) -> pd.DataFrame:
        """Item results of a task whose answers ``model`` writes."""
        return self._rows(prepared, self._generate(prepared.task, [item[0] for item in prepared.instances], model))

    def _rows(self, prepared: Prepared, responses: list[list]) -> pd.DataFrame:
        task, items, rows = prepared.task, prepared.instances, []
        for item, response, doc_id, long in zip(items, responses, prepared.doc_ids, prepared.truncated, strict=True):
            metrics = task.process_results(item[0].doc, response)
            rows += [
                (task.VERSION, metric, doc_id, float(metrics[theirs]), long)
                for metric, theirs in sorted((name, kind.lm_eval or name) for name, kind in METRICS.items())
                if theirs in metrics
            ]
        frame = pd.DataFrame(rows, columns=["task_version", "metric", "doc_id", "value", "truncated"])
        return frame.astype({"task_version": str})

    def _generate(self, task, instances: list, model) -> list[list[str]]:
        self.harness._model = model
        try:
            with passes.writing(model):
                texts = self.harness.generate_until(instances, disable_tqdm=True)
        finally:
            self.harness._model = self.model
        for instance, text in zip(instances, texts, strict=True):
            instance.resps = [text]
        task._instances = instances
        task.apply_filters()
        name = next(iter(instances[0].filtered_resps))
        return [[instance.filtered_resps[name]] for instance in instances]
