"""What ZeRO has split over the ranks: read whole, and set.

At stages 1 to 3 a rank keeps, for the weights that it updates, fp32 copies in one flat tensor a
group, and AdamW knows these alone; at stage 3 the model's own weights are split as well. DeepSpeed
gathers and sets one weight at a time (deepspeed.utils.safe_*), in which all ranks take part.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

from pretrain.model.memobert import MEmoBert

MOMENTS = ("exp_avg", "exp_avg_sq")


def gather_moments(
    zero: Any, weights: list[torch.nn.Parameter], keep: bool
) -> dict[int, dict[str, torch.Tensor]]:
    """AdamW's state of `weights`, by their number, on the CPU of the ranks that `keep` it; empty
    before the first step."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    if not zero.optimizer.state:
        return state
    (step,) = {float(one["step"]) for one in zero.optimizer.state.values()}
    _link_moments(zero)
    for number, weight in enumerate(weights):
        found = {key: safe_get_full_optimizer_state(weight, key) for key in MOMENTS}
        if keep:
            moments = {key: tensor.cpu() for key, tensor in found.items()}
            state[number] = {"step": torch.tensor(step), **moments}
    return state


def set_moments(
    zero: Any, weights: list[torch.nn.Parameter], state: dict[int, dict[str, torch.Tensor]]
) -> None:
    """The reverse, before the first step; each rank takes its part."""
    if not state:
        return
    (step,) = {float(one["step"]) for one in state.values()}
    for group, flat in _flat_weights(zero):
        # AdamW makes its state at the first step, the step itself on the device for fused kernels.
        device = flat.device if group.get("fused") else "cpu"
        moments = {key: torch.zeros_like(flat, requires_grad=False) for key in MOMENTS}
        zero.optimizer.state[flat] = {"step": torch.tensor(step, device=device), **moments}
    _link_moments(zero)
    for number, weight in enumerate(weights):
        for key in MOMENTS:
            value = state[number][key]
            if hasattr(weight, "ds_id"):  # stage 3
                safe_set_local_optimizer_state(weight, _own_part(weight, value), key)
            else:
                safe_set_full_optimizer_state(weight, value, key)


def _link_moments(zero: Any) -> None:
    """Tell the weights of stages 1 and 2 where their moments lie. DeepSpeed does so once AdamW has
    stepped its first group, when the others have none yet (0.19)."""
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _flat_weights(zero: Any) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """A rank's flat tensors, with AdamW's settings of each."""
    groups = zero.optimizer.param_groups
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3, where a group may have several
        places = [zero.sub_group_to_group_id[n] for n in range(len(zero.fp16_groups))]
        return [
            (groups[place], flat)
            for place, flat in zip(places, zero.fp32_partitioned_groups_flat, strict=True)
        ]
    return list(zip(groups, zero.single_partition_of_fp32_groups, strict=True))


def set_weights(model: MEmoBert, tensors: dict[str, torch.Tensor], where: str) -> None:
    """MEmoBert.load_weights, in the model and in AdamW's copies."""
    with GatheredParameters(list(model.parameters()), modifier_rank=0):  # nothing below stage 3
        model.load_weights(tensors, where)
    for name, weight in model.named_parameters():
        if hasattr(weight, "ds_id"):
            safe_set_local_fp32_param(weight, _own_part(weight, tensors[name]))
        else:
            safe_set_full_fp32_param(weight, tensors[name])


def _own_part(weight: torch.nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """What stage 3 gives this rank of `value`; the last rank's is filled with zeros.

    DeepSpeed's own setter of a whole one (0.19) fails where the ranks do not divide its size.
    """
    size = weight.ds_tensor.numel()
    part = value.flatten()[size * dist.get_rank() :][:size]
    return F.pad(part, (0, size - part.numel()))


def whole_copy(model: MEmoBert) -> MEmoBert:
    """A model of the weights that stage 3 has split."""
    whole = {n: safe_get_full_fp32_param(p).view(p.ds_shape) for n, p in model.named_parameters()}
    with torch.device("meta"):
        copy = MEmoBert(**model._hub_mixin_config)
    copy.load_state_dict(whole, assign=True)
    copy.card = model.card
    return copy.train(model.training)
