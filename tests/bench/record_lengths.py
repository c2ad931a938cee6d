"""Records lengths.csv: tokens of 25 calibration texts of eight tasks, as a tokenizer of 32,000 types counts them.

    SEAP_DATA_DIR=/path/to/data python -m tests.bench.record_lengths

The tokenizer is a byte-level BPE trained on 2,000 texts a task; with its BOS, lengths are close to Llama's.
Only numbers are recorded, so that everybody times the same texts without the data sets.
"""

from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from seaplib.texts import corpora

TASKS = ("piqa", "boolq", "openbookqa", "arc_challenge", "winogrande", "gsm8k", "mmlu", "hellaswag")
FILE = Path(__file__).with_name("lengths.csv")
TEXTS, VOCABULARY, BOS = 25, 32_000, 1


def main() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((t for task in TASKS for t in corpora.corpus(task, 2000, 0).texts), trainer)
    rows = [
        {"task": task, "tokens": BOS + len(tokenizer.encode(text).ids)}
        for task in TASKS
        for text in corpora.corpus(task, TEXTS, 0).texts
    ]
    pd.DataFrame(rows).to_csv(FILE, index=False)


if __name__ == "__main__":
    main()
