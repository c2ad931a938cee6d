"""Compensation of removed units: by their mean, or by a least-squares refit of the units that stay.

An output projection (o, down) computes y = W·x + b from the units x, of which pruning keeps x_k and
removes x_r. With the mean μ of x over calibration tokens, y is right on average,

    b' = b + W_r·μ_r                                                   (FLAP's bias compensation)

and with the covariance Σ too, y is as nearly right, token by token, as the kept units allow:

    min over W', b' of  E‖W·x + b − W'·x_k − b'‖² + Σ_j λ_j·‖w'_j − w_j‖²,   λ_j = RIDGE·Σ_jj
    W' = W_k + W_r·Σ_rk·(Σ_kk + diag λ)⁻¹,    b' = b + W·μ − W'·μ_k

What the kept units say about the removed units moves into the kept units' columns; the shapes stay those of
the mask. The ridge pulls to the first rule: where calibration says little, W' is W_k and b' the mean's.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..activations.covariances import Covariances, WeightedCovariances
from ..models import layers
from ..models.shapes import Geometry

RIDGE = 1e-2  # of each kept unit's variance; chosen on validation items of the bundled benchmark
#: what ``prune`` takes: mean activations (``attention``, ``mlp`` → [layers, dim]), or covariances
Compensation = dict[str, Float[Tensor, "layers dims"]] | Covariances | WeightedCovariances


def refit(
    weight: Float[Tensor, "out in"],
    covariance: Float[Tensor, "in in"],
    removed: Bool[Tensor, " in"],
    ridge: float = RIDGE,
) -> Float[Tensor, "out kept"]:
    """W' in float64 for a weight that loses the inputs ``removed``."""
    weight, kept = weight.double(), ~removed
    left = covariance[kept][:, kept].clone()
    variances = left.diagonal().clone()
    floor = 1e-8 * variances.mean() if len(variances) else 0.0  # units that never vary teach nothing
    left.diagonal().add_(ridge * variances + floor + torch.finfo(torch.float64).tiny)
    change = torch.linalg.solve(left, covariance[kept][:, removed] @ weight[:, removed].T).T
    return weight[:, kept] + change


def compensated(
    projection: nn.Module,
    removed: Bool[Tensor, " in"],
    module: str,
    layer: int,
    compensation: Compensation | None,
    bypass: bool = False,
) -> tuple[Float[Tensor, "out kept"] | None, Float[Tensor, " out"] | None]:
    """Weight (None: the columns of the old weight) and bias of an output projection without the inputs ``removed``.

    With ``bypass``, and no unit left, the bias is 0: nothing of the module remains.
    """
    bias = layers.tensor(projection, "bias")
    bias = None if bias is None else bias.detach()
    if bypass and bool(removed.all()):
        return None, None if bias is None else torch.zeros_like(bias)
    if compensation is None or not bool(removed.any()):
        return None, bias
    weight = layers.matrix(projection).detach()
    removed = removed.to(weight.device)
    if isinstance(compensation, dict):
        new, mean = None, compensation[module][layer].to(weight.device).double()
        extra = weight[:, removed].double() @ mean[removed]
    else:
        mean, covariance = (t.to(weight.device) for t in compensation.at(module, layer))
        if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
            raise ValueError(f"the covariances of layer {layer}'s {module} are not finite (NaN or Inf)")
        new = refit(weight, covariance, removed).to(weight.dtype)  # the bias makes up for its rounding too
        extra = weight.double() @ mean - new.double() @ mean[~removed]
    return new, (extra if bias is None else bias.double() + extra).to(weight.dtype)


def check(compensation: Compensation | None, geometry: Geometry) -> None:
    """ValueError for means that are not finite or of another shape; covariances are checked where they are read."""
    if not isinstance(compensation, dict):
        return
    shapes = {"attention": (geometry.layers, geometry.heads * geometry.head_dim)}
    shapes["mlp"] = (geometry.layers, geometry.channels)
    for module, shape in shapes.items():
        mean = compensation.get(module)
        if mean is None or tuple(mean.shape) != shape:
            found = "none" if mean is None else f"shape {tuple(mean.shape)}"
            raise ValueError(f"compensation needs the mean of every {module} unit, shape {shape}; it has {found}")
        if not torch.isfinite(mean).all():
            raise ValueError(f"the compensation's mean of {module} is not finite (NaN or Inf)")


def content(compensation: Compensation | None) -> bytes:
    """What a compensation changes in a model, as bytes to be hashed."""
    if compensation is None or isinstance(compensation, dict):
        means = sorted((compensation or {}).items())
        return b"".join(module.encode() + mean.double().contiguous().numpy().tobytes() for module, mean in means)
    return f"least squares {RIDGE} {compensation.fingerprint}".encode()
