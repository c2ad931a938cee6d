"""A model's shape as a plain object: how many units there are, and what removing a unit saves."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Geometry:
    """Shape of a decoder: how many units there are, and what removing a unit saves.

    Counts cover the projections of the decoder layers (q, k, v, o, gate, up, down), weights and
    biases; ``model_parameters`` is the whole model with embeddings and norms.
    """

    layers: int
    hidden: int
    heads: int  # query heads per layer
    kv_heads: int
    head_dim: int
    channels: int  # MLP channels per layer
    model_parameters: int
    vocabulary: int = 0  # rows of the LM head
    attention_bias: bool = False  # on q, k, v (o's bias stays whole when heads go)
    mlp_bias: bool = False  # on gate, up
    gated: bool = True  # whether the MLP has a gate beside up and down

    @property
    def queries_per_group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def query_parameters(self) -> int:
        """Parameters that go with a query head: its rows of q and its columns of o."""
        return self.head_dim * (2 * self.hidden + self.attention_bias)

    @property
    def kv_parameters(self) -> int:
        """Parameters that go with a KV head: its rows of k and v."""
        return 2 * self.head_dim * (self.hidden + self.attention_bias)

    @property
    def channel_parameters(self) -> int:
        """Parameters that go with an MLP channel: its rows of gate (if any) and up, its column of down."""
        inputs = 1 + self.gated
        return (inputs + 1) * self.hidden + inputs * self.mlp_bias

    @property
    def attention_parameters(self) -> int:
        return self.heads * self.query_parameters + self.kv_heads * self.kv_parameters

    @property
    def mlp_parameters(self) -> int:
        return self.channels * self.channel_parameters

    @property
    def layer_parameters(self) -> int:
        """Prunable parameters of a layer; output biases never go, and are not counted."""
        return self.attention_parameters + self.mlp_parameters

    @property
    def projection_parameters(self) -> int:
        return self.layers * self.layer_parameters

    def as_dict(self) -> dict:
        return asdict(self)


def _llama(hidden, channels, layers, heads, kv_heads, vocabulary, context, **more) -> dict:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": channels,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        "dtype": "float16",
    } | more


_LLAMA_3 = _llama(4096, 14336, 32, 32, 8, 128256, 131072, dtype="bfloat16")
#: hub id → the sizes in its config.json, so that a run can be planned where the hub is out of reach
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": _llama(4096, 11008, 32, 32, 32, 32000, 4096),
    "meta-llama/Llama-2-13b-hf": _llama(5120, 13824, 40, 40, 40, 32000, 4096),
    "meta-llama/Llama-2-70b-hf": _llama(8192, 28672, 80, 64, 8, 32000, 4096),
    "meta-llama/Llama-3.1-8B": _LLAMA_3,
    "meta-llama/Meta-Llama-3-8B": _LLAMA_3 | {"max_position_embeddings": 8192},
    "HuggingFaceTB/SmolLM2-135M": _llama(
        576, 1536, 30, 9, 3, 49152, 8192, dtype="bfloat16", tie_word_embeddings=True, rope_theta=100000
    ),
    "Qwen/Qwen2.5-0.5B": _llama(896, 4864, 24, 14, 2, 151936, 32768, dtype="bfloat16")
    | {"model_type": "qwen2", "tie_word_embeddings": True},
}
