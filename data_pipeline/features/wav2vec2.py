"""Speech features: states of a frozen wav2vec2, pooled to about 16.7 a second.

    encoder = load_speech_encoder("wav2vec2_small")   # or facebook/wav2vec2-base, or a folder
    feature_SD = encoder(sound_T)                     # float32, mono, 16 kHz -> [S, D] float16
    encoder.spec                                      # goes into the passport of a shard

MEmoBERT takes the last hidden layer of wav2vec2-base, mean of every 3 states, first 10 s; here the
whole utterance is encoded, and a caller who wants the first 10 s passes `sound[:160_000]`.

Shapes: T samples, S states, D width.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

from data_pipeline.errors import UserError
from data_pipeline.files.weights import (
    ASSETS,
    WeightsError,
    sha256_of,
    transformers_folder,
    weights_file,
)
from data_pipeline.schema import SAMPLE_RATE, FeatureSpec

CARD_HASH = re.compile(r"^weights_sha256: *([0-9a-f]{64})$", re.MULTILINE)
_MAY_BE_MISSING = {"masked_spec_embed"}  # training only


class SpeechError(UserError):
    """A sound or a setting that the encoder cannot take."""


class ShortSoundError(SpeechError):
    """A sound that gives not even one state."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What is encoded at once, in states of the whole sound."""

    start: int
    stop: int
    keep_start: int
    """States before this one are context only."""
    keep_stop: int


class SpeechEncoder:
    """A frozen speech model with a choice of layer and pooling; made by `load_speech_encoder`.

    A sound of more than `window_seconds` is encoded in windows of that length, each with
    `margin_seconds` of context at its inner ends, so that memory stays bounded.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: FeatureSpec,
        *,
        normalize: bool,
        device: str = "cpu",
        window_seconds: float = 30.0,
        margin_seconds: float = 2.0,
    ) -> None:
        if not 0 <= 2 * margin_seconds < window_seconds:
            raise SpeechError(
                f"margin {margin_seconds} s, window {window_seconds} s; expected a window of more "
                "than two margins"
            )
        self.model = model.to(device).eval().requires_grad_(False)
        self.spec = spec
        self.device = device
        self.normalize = normalize
        self.hop = math.prod(model.config.conv_stride)
        self.field = receptive_field(model.config.conv_kernel, model.config.conv_stride)
        self.window = int(window_seconds * SAMPLE_RATE) // self.hop
        self.margin = int(margin_seconds * SAMPLE_RATE) // self.hop

    def __call__(self, sound_T: np.ndarray) -> np.ndarray:
        """[S, D] float16 features of one sound: mono float32, 16 kHz, finite, any level.

        Raises ShortSoundError below one state (400 samples for wav2vec2), SpeechError otherwise.
        """
        sound_T = self._prepare(sound_T)
        kept = []
        for window in self._windows(len(sound_T)):
            state_SD = self._encode(self._cut(sound_T, window))
            first, last = window.keep_start - window.start, window.keep_stop - window.start
            kept.append(state_SD[first:last])
        return self._pool(np.concatenate(kept))

    def num_states(self, num_samples: int) -> int:
        """States of a sound before pooling."""
        return max(0, (num_samples - self.field) // self.hop + 1)

    def _prepare(self, sound_T: np.ndarray) -> np.ndarray:
        if not isinstance(sound_T, np.ndarray) or sound_T.dtype != np.float32 or sound_T.ndim != 1:
            found = f"{getattr(sound_T, 'dtype', type(sound_T).__name__)} {np.shape(sound_T)}"
            raise SpeechError(
                f"found a sound of {found}, expected float32 [T], mono, {SAMPLE_RATE} Hz"
            )
        if len(sound_T) < self.field:
            raise ShortSoundError(
                f"found a sound of {len(sound_T)} samples ({len(sound_T) / SAMPLE_RATE:.4f} s), "
                f"expected at least {self.field} ({self.field / SAMPLE_RATE:.4f} s): one state"
            )
        if not np.isfinite(sound_T).all():
            bad = int((~np.isfinite(sound_T)).sum())
            raise SpeechError(f"found {bad} samples of {len(sound_T)} that are NaN or infinite")
        if self.normalize:
            sound_T = (sound_T - sound_T.mean()) / np.sqrt(sound_T.var() + 1e-7)
        return sound_T

    def _windows(self, num_samples: int) -> Iterator[Window]:
        states = self.num_states(num_samples)
        step = states if states <= self.window else self.window - 2 * self.margin
        for start in range(0, states, step):
            stop = min(start + step, states)
            yield Window(
                start=max(0, start - self.margin),
                stop=min(states, stop + self.margin),
                keep_start=start,
                keep_stop=stop,
            )

    def _cut(self, sound_T: np.ndarray, window: Window) -> np.ndarray:
        last = window.stop == self.num_states(len(sound_T))
        stop = None if last else (window.stop - 1) * self.hop + self.field
        return sound_T[window.start * self.hop : stop]

    @torch.inference_mode()
    def _encode(self, sound_T: np.ndarray) -> np.ndarray:
        sound_1T = torch.tensor(sound_T)[None].to(self.device)
        # TF32 would make a GPU's states differ from a CPU's in the third digit.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            state_SD = self.model(sound_1T).last_hidden_state[0].float().cpu().numpy()
        return state_SD[: self.num_states(len(sound_T))]

    def _pool(self, state_SD: np.ndarray) -> np.ndarray:
        starts = np.arange(0, len(state_SD), self.spec.pooling)
        counts = np.diff(np.append(starts, len(state_SD)))
        pooled = (np.add.reduceat(state_SD, starts, axis=0) / counts[:, None]).astype(np.float16)
        if not np.isfinite(pooled).all():
            raise SpeechError(
                f"layer {self.spec.layer} of {self.spec.name} gives values beyond float16 "
                f"(largest {np.abs(state_SD).max():.3g}); choose another layer"
            )
        return pooled


def load_speech_encoder(
    name_or_folder: str = "wav2vec2_small",
    *,
    layer: int = -1,
    pooling: int = 3,
    device: str = "cpu",
    window_seconds: float = 30.0,
    margin_seconds: float = 2.0,
) -> SpeechEncoder:
    """A frozen encoder of the wav2vec2 kind (wav2vec2, HuBERT, WavLM) with its passport entry.

    `name_or_folder` is read by data_pipeline.files.weights.resolve_weights. `layer` is an index
    into the hidden states: 0 enters the transformer, -1 is its end (`last_hidden_state`); layers
    above it are never computed.
    Raises WeightsError when weights are absent, incomplete, or not those of their card.
    """
    folder = transformers_folder(name_or_folder, "wav2vec2_small, which ships")
    weights = weights_file(folder)
    digest = sha256_of(weights)
    check_card(folder, digest)
    config = AutoConfig.from_pretrained(folder)
    if not all(hasattr(config, key) for key in ("conv_stride", "conv_kernel", "feat_extract_norm")):
        raise WeightsError(f"{folder} holds a {config.model_type}, expected wav2vec2 or its kin")
    depth = config.num_hidden_layers
    if not -depth - 1 <= layer <= depth or pooling < 1:
        raise SpeechError(
            f"layer {layer}, pooling {pooling}: {name_or_folder} has hidden states 0 to {depth} "
            f"(or -{depth + 1} to -1), and pooling is at least 1"
        )
    try:
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    except OSError as error:
        raise WeightsError(
            f"{folder} has no preprocessor_config.json, which says how its input is normalized"
        ) from error
    if extractor.sampling_rate != SAMPLE_RATE:
        raise WeightsError(f"{folder} hears {extractor.sampling_rate} Hz, expected {SAMPLE_RATE}")
    model, report = AutoModel.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    missing = set(report["missing_keys"]) - _MAY_BE_MISSING
    if missing:
        raise WeightsError(f"{weights} lacks {len(missing)} weights, first {min(missing)}")
    layer %= depth + 1
    cut_above(model, layer)
    shift = "zscore" if extractor.do_normalize else "raw"
    spec = FeatureSpec(
        name=name_or_folder if not Path(name_or_folder).is_dir() else Path(name_or_folder).name,
        weights_sha256=digest,
        layer=-1 if layer == depth else layer,
        pooling=pooling,
        rate_hz=SAMPLE_RATE / math.prod(config.conv_stride) / pooling,
        width=config.hidden_size,
        preprocessing=f"16k-mono-{shift}-window{window_seconds:g}-margin{margin_seconds:g}",
    )
    return SpeechEncoder(
        model,
        spec,
        normalize=extractor.do_normalize,
        device=device,
        window_seconds=window_seconds,
        margin_seconds=margin_seconds,
    )


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that one state of stacked convolutions sees."""
    field, jump = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * jump
        jump *= stride
    return field


def cut_above(model: nn.Module, layer: int) -> None:
    """Take the layers above hidden state `layer` off, so that the last state is that one."""
    encoder = model.encoder
    if layer == len(encoder.layers):
        return
    encoder.layers = encoder.layers[:layer]
    if getattr(model.config, "do_stable_layer_norm", False):
        encoder.layer_norm = nn.Identity()  # in this kind it belongs to the last layer only


def check_card(folder: Path, digest: str) -> None:
    """Raise unless the weights are those that the folder's model card (README.md) states. A folder
    of another origin may have no such line; one that ships with the project must."""
    card = folder / "README.md"
    stated = CARD_HASH.search(card.read_text(encoding="utf-8")) if card.is_file() else None
    if stated is None and folder.parent == ASSETS:
        raise WeightsError(f"{card} states no weights_sha256; restore it from the repository")
    if stated is not None and stated[1] != digest:
        raise WeightsError(
            f"the weights in {folder} have sha256 {digest}, their card says {stated[1]}; "
            "restore the folder, or delete the line if you changed the weights on purpose"
        )
