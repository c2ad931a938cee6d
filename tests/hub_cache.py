"""A hub cache on this disk, as the hub's client lays it out: what tests load hub ids from without a network."""

import hashlib
import os
from pathlib import Path

import pyarrow.parquet as pq


def put(home: Path, name: str, model, tokenizer) -> Path:
    """Save a model and its tokenizer into ``home`` (HF_HOME) under a hub id; the folder of their revision.

    ``models--<owner>--<name>/blobs`` holds the files by hash, ``snapshots/<revision>`` links to them by
    name, ``refs/main`` names the revision.
    """
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    made = repository / "made"
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(made.iterdir())}
    revision = hashlib.sha1(repr(hashes).encode()).hexdigest()
    snapshot = repository / "snapshots" / revision
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    for file, value in hashes.items():
        (made / file).rename(repository / "blobs" / value)
        (snapshot / file).symlink_to(os.path.relpath(repository / "blobs" / value, snapshot))
    made.rmdir()
    (repository / "refs" / "main").write_text(revision)
    return snapshot


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a process that has this cache and is told to ask no hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "SEAP_"))}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return kept | offline | {"HF_HOME": str(home), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | more


def smollm2_135m(vocabulary: int):
    """A random model of SmolLM2-135M's configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        rms_norm_eps=1e-5,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.041666666666666664,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def byte_level_tokenizer(data: Path, vocabulary: int):
    """A byte-level BPE trained on real text, which like SmolLM2's puts nothing before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [row for file in sorted((data / "wikitext").rglob("train.parquet")) for row in _column(file, "text")]
    texts += [row for file in (data / "c4_sample").glob("*.parquet") for row in _column(file, "text")]
    texts += _column(data / "piqa" / "train.parquet", "goal") + _column(data / "boolq" / "train.parquet", "passage")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end, model_max_length=8192
    )


def _column(file: Path, name: str) -> list[str]:
    return pq.read_table(file, columns=[name])[name].to_pylist()
