"""A noun in a directory: tensors in NAME.safetensors, the rest in NAME.json."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def save(directory: Path, name: str, tensors: Mapping[str, Tensor], facts: dict) -> None:
    """Write ``tensors`` and plain values beside them; the directory is made where it is missing."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, Path(directory) / f"{name}.safetensors")
    (Path(directory) / f"{name}.json").write_text(json.dumps(facts, indent=1), "utf-8")


def load(directory: Path, name: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the plain values that :func:`save` wrote."""
    facts = json.loads((Path(directory) / f"{name}.json").read_text("utf-8"))
    return load_file(Path(directory) / f"{name}.safetensors"), facts


def flat(groups: Mapping[str, Mapping[str, Tensor]], separator: str = ".") -> dict[str, Tensor]:
    """Group → name → tensor as one mapping, "<group>.<name>" → tensor."""
    return {f"{group}{separator}{name}": tensor for group, part in groups.items() for name, tensor in part.items()}


def grouped(tensors: Mapping[str, Tensor], separator: str = ".") -> dict[str, dict[str, Tensor]]:
    """What :func:`flat` made one mapping, as group → name → tensor."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        group, name = key.split(separator, 1)
        found.setdefault(group, {})[name] = tensor
    return found
