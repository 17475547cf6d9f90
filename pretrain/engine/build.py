"""The engine that a config asks for."""

import torch

from pretrain.config import EngineSettings
from pretrain.engine.deepspeed_engine import DeepSpeedEngine
from pretrain.engine.protocol import Engine
from pretrain.engine.torch_engine import TorchEngine
from pretrain.model.memobert import MEmoBert
from pretrain.runtime import Runtime


def build_engine(
    settings: EngineSettings,
    model: MEmoBert,
    optimizer: torch.optim.Optimizer,
    runtime: Runtime,
    *,
    clip_norm: float,
) -> Engine:
    """`model` is on its device already."""
    if settings.kind == "torch":
        return TorchEngine(model, optimizer, clip_norm, runtime)
    return DeepSpeedEngine(model, optimizer, clip_norm, runtime, zero_stage=settings.zero_stage)
