"""The training stream: generated text -> tokens with loss weights; and the tokenizer trained on it."""

import random

import prose
import torch
from generate import MAKERS, items
from prompts import Prompt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from world import SEED, World

from seaplib.texts import tasks

# How often a document is of each kind; "general" is general text.
MIXTURE = dict(
    general=14, boolq=5, arc_easy=3, arc_challenge=5, openbookqa=3, piqa=3, hellaswag=5, winogrande=4, gsm8k=7, mmlu=4
)
ANSWER_WEIGHT, PROMPT_WEIGHT, TEXT_WEIGHT = 2.0, 0.3, 1.0
PLAIN_SHARE = 0.1  # of task items, in the wording of calibration texts instead of the prompt's


def train_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts <bos> first; any text can be encoded and comes back unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng, world = random.Random(f"{SEED}/tokenizer"), World()
    drawn = Drawer(world, rng)
    texts = ["".join(text for text, _ in drawn()) for _ in range(20_000)]
    texts += [
        f" {name}" for name in world.by_name for _ in range(1000)
    ]  # so that every name, rare ones too, is one token
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    return wrapped


class Drawer:
    """Draws training documents as [(text, loss weight), ...]."""

    def __init__(self, world: World, rng: random.Random):
        self.world, self.rng = world, rng
        self.prompts = {task: Prompt(task) for task in MAKERS}
        self.sources = {task: items(world, task, "train", rng) for task in MAKERS}

    def __call__(self) -> list[tuple[str, float]]:
        kind = self.rng.choices(list(MIXTURE), weights=list(MIXTURE.values()))[0]
        if kind == "general":
            return [(prose.document(self.world, self.rng), TEXT_WEIGHT)]
        row = next(self.sources[kind])
        if self.rng.random() < PLAIN_SHARE:
            return [(tasks.get(f"mini_{kind}").text(row), TEXT_WEIGHT)]
        context, options, gold = self.prompts[kind](row)
        return [(context, PROMPT_WEIGHT), (f" {options[gold]}", ANSWER_WEIGHT)]


class Stream:
    """Chunks of packed tokens; chunk ``i`` depends only on the seed and ``i``, so a resumed run sees the same text."""

    def __init__(self, tokenizer, seed: int):
        self.encode = tokenizer.backend_tokenizer.encode_batch
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.world, self.seed = World(), seed

    def chunk(self, index: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids [n], weights [n]) with n = tokens + 1: documents between <bos> and <eos>, one after another."""
        drawn = Drawer(self.world, random.Random(f"{SEED}/stream/{self.seed}/{index}"))
        ids, weights = [], []
        while len(ids) <= tokens:
            documents = [drawn() for _ in range(500)]
            pieces = [piece for document in documents for piece in document]
            encoded = iter(self.encode([text for text, _ in pieces], add_special_tokens=False))
            for document in documents:
                ids.append(self.bos)
                weights.append(0.0)
                for _, weight in document:
                    piece = next(encoded).ids
                    ids += piece
                    weights += [weight] * len(piece)
                ids.append(self.eos)
                weights.append(weight)
        return torch.tensor(ids[: tokens + 1]), torch.tensor(weights[: tokens + 1])

    def mask(self, ids: torch.Tensor) -> torch.Tensor:
        """[rows, 1, T, T], true where a token may look: back, within its own document."""
        document = (ids == self.bos).cumsum(1)
        return ((document[:, :, None] == document[:, None, :]).tril())[:, None]

    @staticmethod
    def batch(chunk, step: int, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The step's (ids, weights), each [rows, length + 1]; neighbours share one token."""
        starts = step * rows * length + torch.arange(rows) * length
        index = starts[:, None] + torch.arange(length + 1)
        return chunk[0][index], chunk[1][index]
