"""Loading a model and its tokenizer, once its files are found to be there and whole."""

import re
from pathlib import Path

import torch

from .. import hub
from .architectures import ModelError
from .files import read_config, resolve

#: buffers that older versions saved and today's make anew: masks of attention, rotary frequencies
FORMER = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")


def check(name_or_path: str | Path):
    """The model's configuration as transformers' object; weights and tokenizer must be there, and are not loaded.

    Raises :class:`ModelError` where the model is missing, damaged or of an unsupported architecture.
    """
    from transformers import AutoConfig

    read_config(name_or_path)
    try:
        return AutoConfig.from_pretrained(resolve(name_or_path), trust_remote_code=False)
    except Exception as error:  # transformers' own checks of the values raise many kinds
        raise ModelError(f"cannot load model {str(name_or_path)!r}: {hub.reason(error)}") from error


def load(
    name_or_path: str | Path,
    dtype: torch.dtype | str = "auto",
    device: str | None = None,
    device_map: str | dict | None = None,
    max_memory: dict | None = None,
    offload_folder: str | Path | None = None,
):
    """Load a model and its tokenizer; returns ``(model, tokenizer)``, the model in eval mode.

    ``dtype="auto"`` keeps the checkpoint's. ``device`` (default: the GPU if there is one) takes the
    whole model. ``device_map="auto"`` spreads it over the GPUs and, where they are too small, main
    memory and then ``offload_folder`` (a fast disk), as accelerate does; ``max_memory`` bounds each,
    ``{0: "38GiB", "cpu": "60GiB"}``. Weights are read once, straight to where they belong.
    Raises :class:`ModelError` for a missing or unsupported model, and where the weights on disk do
    not match the architecture one to one: transformers would drop unknown tensors and
    initialise missing tensors at random.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check(name_or_path)
    source = resolve(name_or_path)
    if device is not None and device_map is not None:
        raise ModelError("device puts the whole model in one place, device_map spreads it: give one of them")
    whole = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        on_gpu = torch.device(whole).type == "cuda"
    except RuntimeError as error:
        raise ModelError(f"there is no device {whole!r}; name one as 'cpu' or 'cuda:0'") from error
    placed = {"device_map": device_map, "max_memory": max_memory, "offload_folder": offload_folder}
    if device_map is None:
        placed = {"device_map": {"": whole}} if on_gpu else {}
    try:
        ours = {"trust_remote_code": False}  # said, because transformers would else ask on standard input
        options = placed | ours | {"dtype": dtype, "output_loading_info": True}
        model, report = AutoModelForCausalLM.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **ours)
    except Exception as error:  # transformers, tokenizers and safetensors raise many classes about damaged files
        said = not Path(source).is_dir() and hub.problem(error)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "ignore_mismatched_sizes" in first:
            first = "the weights do not have the shapes that config.json says; fetch the model again"
        elif not isinstance(error, OSError | RuntimeError | ValueError):
            first = f"a file of it is damaged or says what is not known ({type(error).__name__}: {first})"
        raise ModelError(f"cannot load {source}: {said or first}") from error
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    found = {
        kind: [name for name in sorted(map(str, report.get(kind, ()))) if not FORMER.search(name)] for kind in kinds
    }
    wrong = {kind: names for kind, names in found.items() if names}
    if wrong:
        found = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names[:3])}" for kind, names in wrong.items())
        raise ModelError(f"the weights in {source} do not fit the architecture ({found})")
    if not placed:
        model.to(whole)
    model.eval()
    return model, tokenizer


def random_llama(tokenizer, like, layers: int = 8, hidden: int = 768, channels: int = 2048, seed: int = 0):
    """A Llama of random weights with heads of 64 dimensions, on the device and of the dtype of the model ``like``.

    Nothing can be said of its texts; its matrices have the size at which removing units pays.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=channels,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).to(like.device, like.dtype).eval()
