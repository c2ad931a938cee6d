"""The plain way to calibrate: one prompt at a time through the whole model, activations copied to the CPU.

What the published codes do. It is timed against, and tests compare its numbers with the fast way's.
"""

import torch

from seaplib import models
from seaplib.activations.capture import UNIT_ROLES


class Running:
    """Count, mean, variance (1/n) and mean square of one projection's input, a prompt at a time."""

    def __init__(self):
        self.count, self.mean, self.var, self.second_moment = 0, 0.0, 0.0, 0.0

    def update(self, x: torch.Tensor) -> None:
        """Add a prompt's activations ``x`` [tokens, dim]."""
        x = x.float()
        n, new = self.count, len(x)
        total = n + new
        mean = (self.mean * n + x.sum(0)) / total
        around = (x - x.mean(0)).square().sum(0) + new * (x.mean(0) - self.mean).square() * n / total
        self.var = (self.var * n + around) / total
        self.second_moment = (self.second_moment * n + x.norm(dim=0).square()) / total
        self.count, self.mean = total, mean


@torch.inference_mode()
def calibrate(model, encoded: list[list[int]]) -> dict[tuple[int, str], Running]:
    """(layer, role) → statistics of the token ids ``encoded``."""
    found, handles = {}, []
    for index, layer in enumerate(models.decoder_layers(model)):
        for role in UNIT_ROLES:
            statistics = found[index, role] = Running()
            see = lambda module, args, own=statistics: own.update(args[0][0].detach().cpu())  # noqa: E731
            handles.append(models.linear(layer, role).register_forward_pre_hook(see))
    try:
        for ids in encoded:
            model(input_ids=torch.tensor([ids], device=models.input_device(model)))
    finally:
        for handle in handles:
            handle.remove()
    return found
