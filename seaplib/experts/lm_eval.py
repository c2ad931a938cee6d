"""An :class:`~seaplib.experts.ExpertModel` as a model of lm-eval, for ``lm_eval.simple_evaluate``.

HFLM batches requests by length. Here requests are first grouped by expert, and the prompt alone (not the answer
that is scored) decides the expert, so that all options of an item are compared under the same expert.
:func:`seaplib.evaluate` does not need this module: it takes an ExpertModel as it is.
"""

from functools import partial

from lm_eval.models.huggingface import HFLM

from .model import ExpertModel
from .router import GENERAL


class ExpertLM(HFLM):
    """HFLM around an ExpertModel, with HFLM's options.

    Prompts go to the router's expert, or to the experts of :meth:`~seaplib.experts.model.ExpertModel.using`
    where that context is open. The general mask reads text without a prompt (rolling perplexity).
    """

    def __init__(self, experts: ExpertModel, tokenizer=None, **options):
        super().__init__(experts, tokenizer=tokenizer or experts.tokenizer, **options)

    def _by_expert(self, run, contexts: list, requests: list) -> list:
        """``run`` the requests of each expert together; answers come in the order of ``requests``."""
        answers = [None] * len(requests)
        for name, places in self.model.cache.grouped(self.model.answering(contexts)).items():
            with self.model.using(name):
                found = run([requests[place] for place in places])
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _loglikelihood_tokens(self, requests, *args, **kwargs):
        run = partial(super()._loglikelihood_tokens, **kwargs)
        return self._by_expert(lambda some: run(some, *args), [context for _, context, _ in requests], requests)

    def generate_until(self, requests, *args, **kwargs):
        run = partial(super().generate_until, **kwargs)
        contexts = [self.tok_encode(request.args[0]) for request in requests]
        return self._by_expert(lambda some: run(some, *args), contexts, requests)

    def loglikelihood_rolling(self, requests, *args, **kwargs):
        with self.model.using(self.model.chosen or GENERAL):
            return super().loglikelihood_rolling(requests, *args, **kwargs)
