"""An :class:`~seaplib.experts.ExpertModel` as a model of lm-eval, for ``lm_eval.simple_evaluate``.

HFLM batches requests by length, whatever they ask. Here they are first grouped by the expert that the
prompt alone (not the answer that is scored) calls for, so that all options of an item are compared
under the same one. :func:`seaplib.evaluate` needs none of this: it takes an ExpertModel as it is.
"""

from lm_eval.models.huggingface import HFLM

from .experts import ExpertModel
from .routing import GENERAL


class ExpertLM(HFLM):
    """HFLM around an ExpertModel; its options are HFLM's.

    Prompts go to the expert of the router, or of :meth:`~seaplib.experts.ExpertModel.using` where that
    is open. Text without a prompt (rolling perplexity) is read by the general mask.
    """

    def __init__(self, experts: ExpertModel, tokenizer=None, **options):
        super().__init__(experts, tokenizer=tokenizer or experts.tokenizer, **options)

    def _loglikelihood_tokens(self, requests, *args, **kwargs):
        experts, answers = self.model, [None] * len(requests)
        contexts = [context for _, context, _ in requests]
        for name, places in experts.cache.grouped(experts.answering(contexts)).items():
            with experts.using(name):
                found = super()._loglikelihood_tokens([requests[place] for place in places], *args, **kwargs)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def generate_until(self, requests, *args, **kwargs):
        experts, answers = self.model, [None] * len(requests)
        contexts = [self.tok_encode(request.args[0]) for request in requests]
        for name, places in experts.cache.grouped(experts.answering(contexts)).items():
            with experts.using(name):
                found = super().generate_until([requests[place] for place in places], *args, **kwargs)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def loglikelihood_rolling(self, requests, *args, **kwargs):
        with self.model.using(self.model.chosen or GENERAL):
            return super().loglikelihood_rolling(requests, *args, **kwargs)
