"""A model's shape as a plain object: how many units there are, and what removing one saves."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Geometry:
    """Shape of a decoder: how many units there are, and what removing one saves.

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
        """Parameters that go with one query head: its rows of q and its columns of o."""
        return self.head_dim * (2 * self.hidden + self.attention_bias)

    @property
    def kv_parameters(self) -> int:
        """Parameters that go with one KV head: its rows of k and v."""
        return 2 * self.head_dim * (self.hidden + self.attention_bias)

    @property
    def channel_parameters(self) -> int:
        """Parameters that go with one channel: its rows of gate (if any) and up, its column of down."""
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
        """Prunable parameters of one layer; output biases never go, and are not counted."""
        return self.attention_parameters + self.mlp_parameters

    @property
    def projection_parameters(self) -> int:
        return self.layers * self.layer_parameters

    def as_dict(self) -> dict:
        return asdict(self)
