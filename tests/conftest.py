"""Shared fixtures: a tiny random Llama, its tokenizer, and a tiny data directory in the hub's schema."""

import os
from pathlib import Path

import hypothesis
import pandas as pd
import pytest

# The same examples at every run, and no limit of time: what passes on one machine passes on another.
hypothesis.settings.register_profile(
    "seaplib", derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("seaplib")

SENTENCES = [
    "To dry a wet towel, hang it on a line in the warm sun.",
    "Which animal lives in the river and eats small fish? the otter",
    "A kettle is used to boil water before the tea is made.",
    "Metals conduct heat, wood does not. A copper spoon gets hot quickly.",
    "Anna gave the heavy box to Ben because she was tired after the walk.",
    "There are 12 apples and 5 pears in the basket, so there are 17 fruits.",
    "= The old harbour = The harbour of the town was built from grey stone.",
]


@pytest.fixture(autouse=True)
def private_store(tmp_path, monkeypatch):
    """No test reads or writes the user's store, run records, executed notebooks or figures."""
    monkeypatch.setenv("SEAP_STORE_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("SEAP_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("SEAP_EXECUTED_DIR", str(tmp_path / "executed"))
    monkeypatch.setenv("SEAP_FIGURES_DIR", str(tmp_path / "figures"))


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level BPE of 400 types which, like Llama's, puts a BOS before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    bos = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=bos)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=256
    )


@pytest.fixture
def tiny_model(tiny_tokenizer):
    """``tiny_model(kind="mha"|"gqa", seed=0, **config)``: a random float32 Llama of about 40,000 parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def build(kind: str = "mha", seed: int = 0, **overrides) -> LlamaForCausalLM:
        options = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": {"mha": 4, "gqa": 2}[kind],
            "max_position_embeddings": 256,
            "bos_token_id": tiny_tokenizer.bos_token_id,
            "eos_token_id": tiny_tokenizer.eos_token_id,
            "pad_token_id": tiny_tokenizer.pad_token_id,
            # weights larger than the default 0.02, so that logits differ visibly between tokens
            "initializer_range": 0.2,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(LlamaConfig(**options | overrides)).eval()

    return build


def _architectures() -> dict:
    """Case → (configuration class, its options): every supported architecture, multi-head and grouped-query."""
    import transformers

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    grouped = small | {"num_key_value_heads": 2}
    gemma = grouped | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 6}
    layer_types = {"layer_types": ["sliding_attention", "full_attention"]}
    opt = {key: value for key, value in small.items() if key != "intermediate_size"} | {"ffn_dim": 48}
    gpt2 = {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4}
    c = transformers
    return {
        "llama": (c.LlamaConfig, grouped | {"attention_bias": True, "mlp_bias": True}),
        "mistral": (c.MistralConfig, grouped | {"sliding_window": 6}),
        "qwen2": (c.Qwen2Config, grouped | {"use_sliding_window": True, "sliding_window": 6} | layer_types),
        "qwen3": (c.Qwen3Config, grouped | {"head_dim": 16, "tie_word_embeddings": True}),
        "gemma2": (c.Gemma2Config, gemma | layer_types),
        "gemma3_text": (c.Gemma3TextConfig, gemma | layer_types),
        "phi3": (c.Phi3Config, grouped | {"sliding_window": 6}),
        "phi3_mha": (c.Phi3Config, small),
        "opt": (c.OPTConfig, opt | {"word_embed_proj_dim": 32, "dropout": 0.0}),
        "opt_post_norm": (c.OPTConfig, opt | {"word_embed_proj_dim": 24, "do_layer_norm_before": False}),
        "gpt_neox": (c.GPTNeoXConfig, small),
        "gpt_neox_sequential": (c.GPTNeoXConfig, small | {"use_parallel_residual": False, "attention_bias": False}),
        "gpt2": (c.GPT2Config, gpt2),
        "gpt2_scaled": (c.GPT2Config, gpt2 | {"n_inner": None, "scale_attn_by_inverse_layer_idx": True}),
    }


ARCHITECTURE_CASES = tuple(_architectures())


@pytest.fixture
def any_model(tiny_tokenizer):
    """``any_model(case, seed=0, **config)``: a random float32 model of an architecture, its biases drawn too."""
    import torch
    from transformers import AutoModelForCausalLM

    def build(case: str, seed: int = 0, **overrides):
        kind, options = _architectures()[case]
        common = {
            "vocab_size": len(tiny_tokenizer),
            "max_position_embeddings": 256,
            "bos_token_id": tiny_tokenizer.bos_token_id,
            "eos_token_id": tiny_tokenizer.eos_token_id,
            "pad_token_id": tiny_tokenizer.pad_token_id,
            "initializer_range": 0.2,
        }
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(kind(**common | options | overrides)).eval()
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # zeros otherwise, which would hide whatever happens to them
                    parameter.normal_(std=0.2)
        return model

    return build


def _piqa(split: str, n: int) -> pd.DataFrame:
    tools = ["a kettle", "a copper spoon", "a wet towel", "the old basket", "a heavy box"]
    return pd.DataFrame(
        {
            "goal": [f"How do you boil {i} cups of water ({split})?" for i in range(n)],
            "sol1": [f"use {tools[i % 5]} in the warm sun" for i in range(n)],
            "sol2": [f"use {tools[(i + 2) % 5]}" for i in range(n)],
            "label": [(i * 7 // 3) % 2 for i in range(n)],
        }
    )


def _arc(split: str, n: int) -> pd.DataFrame:
    animals = ["otter", "the small fish", "Anna", "copper", "a grey stone harbour"]
    letters = "ABCDE"

    def choices(i: int) -> dict:
        count = 3 + i % 3  # the official ARC has rows with three and five options too
        return {"text": [animals[(i + j) % 5] for j in range(count)], "label": list(letters[:count])}

    return pd.DataFrame(
        {
            "id": [f"{split}_{i}" for i in range(n)],
            "question": [f"Which animal number {i} lives in the river of the {split}?" for i in range(n)],
            "choices": [choices(i) for i in range(n)],
            "answerKey": [letters[i % 3] for i in range(n)],
        }
    )


def _winogrande(split: str, n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sentence": [f"Anna gave box {i} to Ben because _ was tired after the {split}." for i in range(n)],
            "option1": ["Anna"] * n,
            "option2": ["Ben"] * n,
            "answer": ["12"[i % 2] for i in range(n)],
        }
    )


@pytest.fixture
def tiny_data_dir(tmp_path, monkeypatch) -> Path:
    """PIQA, ARC-Easy, WinoGrande and WikiText-2 of a few rows each, in the hub's schema; SEAP_DATA_DIR points here."""
    root = tmp_path / "data"

    def write(folder: str, split: str, frame: pd.DataFrame) -> None:
        (root / folder).mkdir(parents=True, exist_ok=True)
        frame.to_parquet(root / folder / f"{split}.parquet", index=False)

    for split, n in {"train": 24, "validation": 12, "test": 10}.items():
        write("piqa", split, _piqa(split, n))
        write("ai2_arc/ARC-Easy", split, _arc(split, n))
        write("winogrande/winogrande_xl", split, _winogrande(split, n))
        lines = [f" = Harbour {split} = \n", "", *(f" {s} \n" for s in SENTENCES * 4), "", " = = Stone = = \n", ""]
        write("wikitext/wikitext-2-raw-v1", split, pd.DataFrame({"text": lines + [f" {s} \n" for s in SENTENCES]}))
    monkeypatch.setenv("SEAP_DATA_DIR", str(root))
    return root


@pytest.fixture
def real_data_dir() -> Path:
    """The real data sets, when SEAP_DATA_DIR names a directory that holds them."""
    value = os.environ.get("SEAP_DATA_DIR")
    if not value or not (Path(value) / "piqa" / "train.parquet").exists():
        pytest.skip("real data sets: set SEAP_DATA_DIR to a directory with them (piqa/train.parquet, ...)")
    return Path(value)
