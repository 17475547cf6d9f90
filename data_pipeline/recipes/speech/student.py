"""The small wav2vec2 while it learns: shape, faster convolutions, heads, start and end.

The feature is the encoder's last state, behind its last norm, during training as in use. Four
heads read it and are thrown away. The one that answers for the teachers' states has a hidden layer:
were it linear, the feature would bend towards the teachers' own coordinates and lose what these
weigh little. Those for the teachers' moments over a crop and for the prosody are linear, so that
both stay linearly readable. The last one answers for the student's own running mean, see
`own_states`.

Shapes: B crops, T samples, S states, D width of the student, E numbers of the teachers, P prosody.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from data_pipeline.recipes.speech.prosody import COLUMNS
from data_pipeline.recipes.speech.teachers import normalized

SHAPES = {256: (4, 768), 320: (4, 640), 384: (3, 640)}
"""Layers and inner width for each width: what 8 MB in half precision hold."""
HEAD_WIDTH = 512
SPREAD_STEP = 0.02


def student_config(width: int = 256) -> Wav2Vec2Config:
    """The shape that ships. Early layers are narrow (they run at 3,200 Hz and set the cost), norms
    are per position, so that a state does not depend on padding or on the rest of a batch."""
    layers, inner = SHAPES[width]
    return Wav2Vec2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=inner,
        conv_dim=(48, 64, 96, 128, 192, 224, 256),
        conv_bias=True,
        feat_extract_norm="layer",
        feat_extract_activation="relu",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=width // 16,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.05,
    )


class ChannelsLastFeatureEncoder(Wav2Vec2FeatureEncoder):
    """The same convolutions with channels last: two matrix products each, and no transposes around
    the norms. A training step costs 0.7 of the plain module's; parameters have the same names."""

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        x_BTC = input_values[..., None]
        for layer in self.conv_layers:
            weight = layer.conv.weight
            out, channels, kernel = weight.shape
            stride = layer.conv.stride[0]
            states = (x_BTC.shape[1] - kernel) // stride + 1
            rows = states + math.ceil(kernel / stride) - 1
            x_BTC = F.pad(x_BTC, (0, 0, 0, max(0, rows * stride - x_BTC.shape[1])))
            row_BRC = x_BTC[:, : rows * stride].reshape(len(x_BTC), rows, stride * channels)
            weight = weight.permute(0, 2, 1).reshape(out, kernel * channels)
            y = F.linear(row_BRC[:, :states], weight[:, : stride * channels], layer.conv.bias)
            if rows > states:  # kernel in (stride, 2 * stride]: the rest lies in the next row
                rest = (kernel - stride) * channels
                y = y + F.linear(row_BRC[:, 1:, :rest], weight[:, stride * channels :])
            x_BTC = layer.activation(layer.layer_norm(y))
        return x_BTC.transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the heads read from the features."""

    state_BSE: torch.Tensor
    moment_BE2: torch.Tensor
    prosody_BSP: torch.Tensor
    own_BSD: torch.Tensor
    """What the running mean of these weights is thought to say here."""
    own_B2D: torch.Tensor
    """[B, 2 D] mean and deviation of the features over time, on the scale of their own spread."""


class Student(nn.Module):
    """The encoder and its heads."""

    def __init__(self, config: Wav2Vec2Config, num_targets: int) -> None:
        super().__init__()
        config._attn_implementation = "eager"  # 3x faster backward in bf16 on CPU than SDPA
        self.encoder = Wav2Vec2Model(config)
        fast = ChannelsLastFeatureEncoder(config)
        fast.load_state_dict(self.encoder.feature_extractor.state_dict())
        self.encoder.feature_extractor = fast
        width = config.hidden_size
        self.state_head = nn.Sequential(
            nn.Linear(width, HEAD_WIDTH), nn.GELU(), nn.Linear(HEAD_WIDTH, num_targets)
        )
        self.moment_head = nn.Linear(2 * width, 2 * num_targets)
        self.prosody_head = nn.Linear(width, len(COLUMNS))
        self.own_head = nn.Linear(width, width)
        self.register_buffer("moment_spread", torch.ones(2 * width))  # a running one

    def forward(self, sound_BT: torch.Tensor, mask_BS: torch.Tensor | None = None) -> Answers:
        state_BSD = self.encoder(sound_BT, mask_time_indices=mask_BS).last_hidden_state
        moment_B2D = torch.cat([state_BSD.float().mean(1), state_BSD.float().std(1)], -1)
        if self.training:
            self.moment_spread.lerp_(moment_B2D.detach().std(0), SPREAD_STEP)
        return Answers(
            state_BSE=self.state_head(state_BSD).float(),
            moment_BE2=self.moment_head(moment_B2D).float(),
            prosody_BSP=self.prosody_head(state_BSD).float(),
            own_BSD=self.own_head(state_BSD).float(),
            own_B2D=moment_B2D / self.moment_spread,
        )

    @torch.no_grad()
    def own_states(self, sound_BT: torch.Tensor) -> torch.Tensor:
        """[B, S, D] float32: the mean of all layers' states, each normalized, of sound with nothing
        masked: the target of data2vec (Baevski et al. 2022, section 3.3)."""
        states = self.encoder(sound_BT, output_hidden_states=True).hidden_states[1:]
        return torch.stack([F.layer_norm(x.float(), x.shape[-1:]) for x in states]).mean(0)


def start_from(encoder: Wav2Vec2Model, found: dict[str, torch.Tensor]) -> None:
    """Take over the weights of a narrower or deeper encoder of this family.

    Each is copied into the first rows and columns of ours. What is new in the stream starts at
    zero, so that the old numbers work on; since norms now divide by the deviation of a longer
    vector, the gains behind them shrink by the root of the ratio of the widths. Of inner numbers
    the strongest stay; layers above ours are left out.
    """
    shrink = math.sqrt(len(found["encoder.layer_norm.weight"]) / encoder.config.hidden_size)
    found = strongest_inner(found)
    own = encoder.state_dict()
    for name in own.keys() & found.keys():
        weight, value = own[name], found[name]
        if weight.shape == value.shape:
            weight.copy_(value)
            continue
        into = tuple(slice(min(a, b)) for a, b in zip(weight.shape, value.shape, strict=True))
        if "norm" not in name:  # new gains of norms stay one; what feeds the stream starts at zero
            feeds = ("out_proj", "output_dense", "projection.projection", "pos_conv", "masked_spec")
            weight.mul_(not any(part in name for part in feeds))
        weight[into] = value[into]
        if "layer_norm.weight" in name:
            weight[into] *= shrink
    encoder.load_state_dict(own)


def strongest_inner(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same function, inner numbers of each feed-forward part in falling order of the product
    of their weights' norms."""
    found = {name: value.float() for name, value in found.items()}
    for name in [n for n in found if n.endswith("feed_forward.output_dense.weight")]:
        into = name.replace("output_dense", "intermediate_dense")
        order = (found[name].norm(dim=0) * found[into].norm(dim=1)).argsort(descending=True)
        found[name] = found[name][:, order]
        for part in (into, into.replace("weight", "bias")):
            found[part] = found[part][order]
    return found


def shipped(encoder: Wav2Vec2Model, sounds: Iterable[np.ndarray]) -> Wav2Vec2Model:
    """The encoder, its last norm set so that over `sounds` every number of a state has mean 0 and
    deviation 1: pretraining does not normalize what it reads, and numbers many times as large as
    the rest would outweigh all else in the loss of SpanMAFR."""
    small = Wav2Vec2Model(Wav2Vec2Config.from_dict(encoder.config.to_dict()))
    small.load_state_dict(encoder.state_dict())
    small.eval()
    with torch.inference_mode():
        states = [small(torch.from_numpy(normalized(x))[None]).last_hidden_state for x in sounds]
        std_D, mean_D = torch.std_mean(torch.cat(states, 1)[0], 0)
    norm = small.encoder.layer_norm
    with torch.no_grad():
        norm.weight.div_(std_D)
        norm.bias.sub_(mean_D).div_(std_D)
    return small
