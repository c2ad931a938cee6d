"""Parameters that accelerate keeps in main memory or on disk between uses: how to read, replace and share them."""

import copy
from collections import ChainMap
from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor, nn


def offloading(module: nn.Module):
    """accelerate's hook that keeps the module's parameters elsewhere between uses, or None."""
    hook = getattr(module, "_hf_hook", None)
    return next((h for h in getattr(hook, "hooks", [hook]) if getattr(h, "offload", False)), None)


def offload(module: nn.Module, like: nn.Module) -> None:
    """Keep a new module's parameters in main memory between uses, where those of the module ``like`` are offloaded."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    if (hook := offloading(like)) is not None:
        add_hook_to_module(module, AlignDevicesHook(hook.execution_device, offload=True, skip_keys=hook.skip_keys))


def tensor(module: nn.Module, name: str) -> Shaped[Tensor, "..."] | None:
    """A parameter or buffer of ``module``; where accelerate offloaded it, from where it is kept."""
    value = getattr(module, name)
    if value is None or value.device.type != "meta" or (hook := offloading(module)) is None:
        return value
    return hook.weights_map[name]


def runs_on(module: nn.Module) -> torch.device:
    """The device that ``module`` (with a weight) computes on, wherever its parameters are kept."""
    hook = getattr(module, "_hf_hook", None)
    place = next((h.execution_device for h in getattr(hook, "hooks", [hook]) if h is not None), None)
    return module.weight.device if place is None else torch.device(place)


def stand_in(module: nn.Module, name: str, value: Shaped[Tensor, "..."]) -> Callable[[], None]:
    """Put ``value`` in the place of the module's parameter ``name``; the returned function puts the parameter back.

    The parameter itself is not written to, and a copy of the model that shares it (:func:`copy_of`) keeps it.
    """
    own, hook = getattr(module, name), offloading(module)
    if hook is not None and own.device.type == "meta":
        before, hook.weights_map = hook.weights_map, ChainMap({name: value}, hook.weights_map)
        return lambda: setattr(hook, "weights_map", before)
    setattr(module, name, nn.Parameter(value, requires_grad=False))
    return lambda: setattr(module, name, own)


def kept_elsewhere(model: nn.Module) -> dict[int, object]:
    """What accelerate's hooks hold for offloaded parameters, by id: a copy of the model shares these objects."""
    found = {}
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for part in getattr(hook, "hooks", [hook]):
            for name in ("weights_map", "tied_params_map"):
                held = getattr(part, name, None)
                if held is not None:
                    found[id(held)] = held
    return found


def copy_of(model):
    """A copy of ``model`` that shares every tensor, offloaded ones too: replace projections, never write to one."""
    shared = {id(p): p for p in model.parameters()} | {id(b): b for b in model.buffers()}
    return copy.deepcopy(model, memo=shared | kept_elsewhere(model))


def unshare(made: nn.Module, model: nn.Module) -> None:
    """Give ``made`` tensors of its own where it shares those of ``model``; offloaded ones, which never learn, stay."""
    shared = {id(tensor) for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type != "meta"}
    own: dict[int, Tensor] = {}  # a tied tensor stays tied
    for module in made.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None or id(tensor) not in shared:
                    continue
                if id(tensor) not in own:
                    copied = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    own[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
                tensors[name] = own[id(tensor)]
