"""What a sparse input saves where a kernel exists for it, timed against the dense product.

The arithmetic bound is 1/(1 − ratio): multiplications with a zero left out, everything else free. On
a GPU with sparse tensor cores torch has a 2:4 product; the token's two largest of four must first be
packed, which is timed apart. On a CPU a single token's product reads the whole matrix, so that
summing only the columns of the coordinates that stay (``gather_product``) saves the reading.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from .rule import InputSparsity
from .sparsifier import Sparsifier

NO_KERNEL = "no kernel"


def gather_product(x: Float[Tensor, "1 in"], columns: Float[Tensor, "in out"]) -> Float[Tensor, "1 out"]:
    """x·Wᵀ [1, out] from the non-zero coordinates of ``x`` [1, in] alone; ``columns`` [in, out] is Wᵀ, contiguous."""
    places = x[0].nonzero()[:, 0]
    start = places.new_zeros(1)
    return functional.embedding_bag(places, columns, start, mode="sum", per_sample_weights=x[0, places])


def time_products(
    shapes: Mapping[str, tuple[int, int]],
    rules: Sequence[InputSparsity],
    tokens: int = 1,
    rounds: int = 15,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Seconds of products with random weights of ``shapes`` (name → (out, in)) and ``tokens`` random inputs.

    One row per shape, rule and kernel: shape, out, in, tokens, pattern, kernel ("dense"; "all columns", the
    gathered product without any zero; "gather", "select + gather", "2:4", "pack + 2:4", or "no kernel"),
    seconds (median over rounds), speedup (median of the ratios to dense within a round), low, high (its
    quartiles), bound (arithmetic).
    Products take turns within a round, so that a busy moment hits all of them.
    """
    generator, rows = torch.Generator().manual_seed(seed), []
    work = [(name, rule) for name in shapes for rule in rules]
    for name, rule in tqdm(work, desc="products", leave=False, disable=not progress):
        out, width = shapes[name]
        weight = torch.randn(out, width, generator=generator).to(device, dtype)
        x = torch.randn(tokens, width, generator=generator).to(device, dtype)
        about = {"shape": name, "out": out, "in": width, "tokens": tokens, "pattern": str(rule.pattern)}
        about["bound"] = 1 / (1 - rule.ratio) if rule.ratio < 1 else np.inf
        products = _products(x, weight, rule)
        seconds = _rounds(products, rounds, torch.device(device))
        for kernel, measured in seconds.items():
            ratio = np.percentile(np.array(seconds["dense"]) / np.array(measured), [50, 25, 75])
            row = {"kernel": kernel, "seconds": float(np.median(measured))}
            rows.append(about | row | dict(zip(("speedup", "low", "high"), ratio.tolist(), strict=True)))
        if len(products) == 1:
            rows.append(about | {"kernel": NO_KERNEL} | dict.fromkeys(("seconds", "speedup", "low", "high"), np.nan))
    return pd.DataFrame(rows)


def beside_dense(timed: pd.DataFrame) -> pd.DataFrame:
    """The sparse products of :func:`time_products`, each with the seconds of the dense product (``dense_seconds``)."""
    keys = ["shape", "tokens", "pattern"]
    is_dense = timed["kernel"] == "dense"
    dense = timed.loc[is_dense, [*keys, "seconds"]].rename(columns={"seconds": "dense_seconds"})
    return timed[~is_dense].merge(dense, on=keys)


@torch.inference_mode()
def _products(
    x: Float[Tensor, "tokens in"], weight: Float[Tensor, "out in"], rule: InputSparsity
) -> dict[str, Callable]:
    """The dense product, and those that a kernel exists for on this device."""
    sparsify = Sparsifier(rule)
    sparse = sparsify(x)
    found = {"dense": lambda: functional.linear(x, weight)}
    if x.device.type == "cpu" and len(x) == 1:
        columns = weight.T.contiguous()
        found["all columns"] = lambda: gather_product(x, columns)
        found["gather"] = lambda: gather_product(sparse, columns)
        found["select + gather"] = lambda: gather_product(sparsify(x), columns)
    if has_sparse_tensor_cores(x.device) and rule.nm == (2, 4) and packable(x):
        from torch.sparse import SparseSemiStructuredTensorCUTLASS

        packed = SparseSemiStructuredTensorCUTLASS.from_dense(sparse)
        transposed = weight.T
        found["2:4"] = lambda: packed @ transposed
        found["pack + 2:4"] = lambda: SparseSemiStructuredTensorCUTLASS.from_dense(sparse) @ transposed
    return found


def has_sparse_tensor_cores(device: torch.device) -> bool:
    """Whether torch's 2:4 products run here: CUDA, compute capability 8.0 or newer."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def packable(x: Float[Tensor, "tokens in"]) -> bool:
    """Whether ``x`` has a shape and type that can be packed as 2:4: half precision, rows and width multiples of 64."""
    return x.dtype in (torch.float16, torch.bfloat16) and x.shape[0] % 64 == 0 and x.shape[1] % 64 == 0


@torch.inference_mode()
def _rounds(products: dict[str, Callable], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every product in every round, after a warm-up; each round begins with another product."""
    names, seconds = list(products), {name: [] for name in products}
    for turn in range(-1, rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            _wait(device)
            began = time.perf_counter()
            products[name]()
            _wait(device)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
