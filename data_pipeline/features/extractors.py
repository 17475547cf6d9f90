"""What makes the streams of a sample: one extractor a file of this room, all with one signature.

    extractor(evidence) -> {"face": Stream, "face_probs": Stream}     # or nothing

A config names the streams that it wants, each with its settings:

    streams:
      face: {encoder: densenet_ferplus}
      speech: {encoder: facebook/wav2vec2-base, pooling: 3}
      fbank:                  # as it is by default
      mylab.wavlm: {layer: 9}

A name is a module of this room, or, with a dot in it, any module that can be imported. It holds

    NEEDS       what it reads of a clip's evidence: of sound, voice, face, text, and its row of the
                table
    STREAMS     the names of what it makes
    Settings    a frozen dataclass of what a user may set
    load        (settings, device) -> StreamExtractor

and nothing else has to know of it. Such a module imports torch when it loads, not before: configs
are read without.

Shapes: T samples, K crops of H x W pixels.
"""

import dataclasses
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Protocol, get_args

import numpy as np

from data_pipeline.config import ConfigError, check_settings
from data_pipeline.schema import Clip, Passport, Stream

Need = Literal["sound", "voice", "face", "text", "row"]
Wanted = dict[str, dict[str, Any] | bool | None]
"""Extractor to its settings, as a config says them: false leaves it out, null takes it as it is."""


class StreamAbsent(Exception):
    """A clip cannot give a stream: (reason, detail), for its row of rejects.csv where the stream is
    required, else for a note in the sample."""


_STREAM = re.compile(r"(?!text$|json$|.*_seconds$)[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What is known of a clip by the time its streams are made."""

    sound_T: np.ndarray | None = None
    """float32, mono, 16 kHz; None without sound."""
    has_voice: bool = False
    """Whether somebody speaks in it."""
    crops_KHW: np.ndarray | None = None
    """uint8 grey, the speaker's aligned face, 10 a second; None without a speaker who is seen."""
    crop_seconds_K: np.ndarray | None = None
    """float32, from the clip's start."""
    text: str | None = None
    """What is said; None where nobody knows."""
    clip: Clip | None = None
    """As the table has it, for streams of files that a column of its own names."""

    def has(self, need: Need) -> bool:
        if need == "face":
            return self.crops_KHW is not None
        if need == "text":
            return self.text is not None
        if need == "row":
            return self.clip is not None
        return self.sound_T is not None and (need == "sound" or self.has_voice)


class StreamExtractor(Protocol):
    """Makes one stream, or a few at once; loaded once by each worker.

    One that needs faces also has `crop_size`, the side in pixels in which it wants them.
    """

    passport: Passport
    """The streams that it gives."""

    def __call__(self, evidence: Evidence) -> dict[str, Stream]:
        """Streams by name; empty when there is too little to make one of. Raises StreamAbsent where
        there is more to say."""
        ...


def find_module(name: str) -> ModuleType:
    """The module of the extractor `name`. Raises ConfigError."""
    path = name if "." in name else f"{__package__}.{name}"
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ConfigError(
            f"streams.{name}: cannot import {path} ({error}); name a file of "
            "data_pipeline/features, or a module of your own with its dots"
        ) from error
    lacks = [part for part in ("NEEDS", "STREAMS", "Settings", "load") if not hasattr(module, part)]
    if lacks:
        raise ConfigError(
            f"streams.{name}: {path} makes no stream, it has no {', '.join(lacks)}; "
            "data_pipeline/features/fbank.py is an example"
        )
    strange = [f"needs {need!r}" for need in module.NEEDS if need not in get_args(Need)]
    strange += [f"makes {made!r}" for made in module.STREAMS if not _STREAM.fullmatch(made)]
    if strange or not module.STREAMS:
        raise ConfigError(
            f"streams.{name}: {path} {', '.join(strange) or 'makes nothing'}; there are sound, "
            "voice, face, text and row to need, and a stream is called by small letters, digits "
            "and _"
        )
    return module


def settings_class(name: str) -> type:
    return find_module(name).Settings


def needs_of(names: Iterable[str]) -> frozenset[Need]:
    """What these extractors read, all together."""
    return frozenset(need for name in names for need in find_module(name).NEEDS)


def owners(names: Iterable[str]) -> dict[str, str]:
    """Each stream that these extractors make, and which one of them does. Raises ConfigError."""
    made: dict[str, str] = {}
    for name in names:
        for stream in find_module(name).STREAMS:
            if stream in made:
                raise ConfigError(f"streams.{name} and streams.{made[stream]} both make {stream}")
            made[stream] = name
    return made


def with_defaults(streams: Wanted) -> Wanted:
    """All settings of each extractor, said or not; false stays. Raises ConfigError."""
    return {
        name: False
        if said is False
        else dataclasses.asdict(
            check_settings(
                settings_class(name), said if isinstance(said, dict) else {}, "streams", name
            )
        )
        for name, said in streams.items()
    }


def load_extractors(
    streams: Mapping[str, dict[str, Any]], device: str
) -> dict[str, StreamExtractor]:
    """The extractors that `streams` asks for, by its names. Raises ConfigError."""
    owners(streams)
    extractors = {}
    for name, said in streams.items():
        module = find_module(name)
        extractor = module.load(check_settings(module.Settings, said, "streams", name), device)
        if set(extractor.passport) != set(module.STREAMS):
            raise ConfigError(
                f"streams.{name} promises {', '.join(module.STREAMS)}, but its passport is of "
                f"{', '.join(sorted(extractor.passport))}"
            )
        extractors[name] = extractor
    return extractors


def common_crop_size(extractors: Mapping[str, StreamExtractor]) -> int | None:
    """The side in which faces are cut out for these; None where none of them looks at faces.

    Raises ConfigError where they want several.
    """
    sizes = {
        name: extractor.crop_size
        for name, extractor in extractors.items()
        if "face" in find_module(name).NEEDS
    }
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"streams.{name} {size}" for name, size in sizes.items())
        raise ConfigError(
            f"faces are cut out in one size, and these want several, in pixels: {found}; "
            "choose encoders of one size, and streams.crops.size alike"
        )
    return next(iter(sizes.values()), None)


def extract(name: str, extractor: StreamExtractor, evidence: Evidence) -> dict[str, Stream]:
    """What the evidence gives: nothing where it lacks what the extractor needs."""
    if not all(evidence.has(need) for need in find_module(name).NEEDS):
        return {}
    return extractor(evidence)
