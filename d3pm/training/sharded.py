"""One model over several processes: each keeps a part of every weight, and of all that follows from it.

FSDP2 (``torch.distributed.fsdp.fully_shard``) puts the weights of a layer together when it is the layer's turn, lets
them go after it, and gives every process its part of the summed gradient. So the optimizer's state is in parts too,
and so is the moving average: of n processes each holds about 1/n of all of it. What is written is whole: a checkpoint
does not tell how many processes made it, and any number of them may go on with it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from d3pm.training.layers import layers


def shard(network: nn.Module, device: torch.device) -> None:
    """Keep this process's part of every parameter alone, on ``device``; buffers stay whole in every process.

    Gathered are one layer at a time, and what is in no layer for the whole of the way there and back.
    All processes must call this, and later the network, equally often. Needs a process group.
    """
    # Linear maps give views, which nothing in this package changes in place.
    warnings.filterwarnings(
        "ignore", rf"FSDP2-wrapped module \(FSDP{type(network).__name__}\) returned a view"
    )
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    network.register_forward_hook(_aliased)
    for layer in layers(network):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)


def _aliased(module: nn.Module, args: Any, output: Any) -> Any:
    """Give out views of parameters instead of themselves: FSDP hangs a hook on what it gives, anew every step."""
    return tree_map(lambda x: x.view_as(x) if isinstance(x, nn.Parameter) else x, output)


def settle(model: nn.Module) -> None:
    """Let gathered weights go: after a call without a way back, those in no layer are still there."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gathered(state: Any) -> Any:
    """The same dicts and lists with whole tensors, on the CPU, for those in parts; None but in process 0.

    All processes must call this. Tensors are gathered one after the other.
    """
    if isinstance(state, dict):
        return {name: gathered(value) for name, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    if isinstance(state, DTensor):
        whole = state.full_tensor().detach()
        return whole.cpu() if torch.distributed.get_rank() == 0 else None
    return state.detach() if isinstance(state, Tensor) else state


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """``model.state_dict()``, :func:`gathered`; tied weights stay one tensor."""
    own = model.state_dict(keep_vars=True)
    whole = {id(value): gathered(value) for value in own.values()}
    return {name: whole[id(value)] for name, value in own.items()}


def parted(whole: Any, like: Tensor) -> Any:
    """What this process keeps of a whole tensor if ``like``, of its shape, is in parts; anything else as it is."""
    if not isinstance(like, DTensor) or not isinstance(whole, Tensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """``model.load_state_dict`` of whole tensors, whether or not the model is in parts; of tied ones one will do."""
    own = model.state_dict(keep_vars=True)
    known = {id(own[name]): value for name, value in state.items() if name in own}
    tied = {name: known[id(value)] for name, value in own.items() if name not in state and id(value) in known}
    parts = {name: parted(value, own.get(name, value)) for name, value in (state | tied).items()}
    model.load_state_dict(parts)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """``optimizer.load_state_dict`` of whole tensors, whether or not its parameters are in parts."""
    numbered = {
        number: parameter
        for ours, theirs in zip(optimizer.param_groups, state["param_groups"], strict=True)
        for number, parameter in zip(theirs["params"], ours["params"], strict=True)
    }
    parts = {
        number: {name: parted(value, numbered[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": parts})
