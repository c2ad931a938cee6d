"""A noun in a directory: tensors in NAME.safetensors, the rest in NAME.json."""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path

from safetensors import SafetensorError
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


def loader(what: str) -> Callable:
    """Decorator of a noun's ``load(cls, directory)``: errors of reading become a line about ``what`` and the directory.

    FileNotFoundError where a file is missing, ValueError where a file is damaged or does not hold such a noun.
    """

    def decorate(load: Callable) -> Callable:
        @wraps(load)
        def loading(cls, directory, *args, **options):
            try:
                return load(cls, directory, *args, **options)
            except FileNotFoundError as error:
                missing = Path(error.filename or "").name or "a file"
                raise FileNotFoundError(f"{directory} holds no {what}: {missing} is missing") from error
            except (SafetensorError, ValueError, TypeError, LookupError, AttributeError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"the {what} in {directory} is damaged: {type(error).__name__}, {reason}") from error

        return loading

    return decorate


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
