"""What a worker loads to add a stream: one extractor, and evidence without a look at pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch

from data_pipeline.config import ConfigError
from data_pipeline.extraction.clip_extractor import Course, library_versions
from data_pipeline.extraction.config import DataConfig
from data_pipeline.extraction.devices import take_device
from data_pipeline.features.crops import pictures
from data_pipeline.features.extractors import (
    Evidence,
    common_crop_size,
    load_extractors,
    needs_of,
)
from data_pipeline.runs.worker_pool import Extraction
from data_pipeline.schema import Clip, ClipSample, Passport
from data_pipeline.shards import list_shards, load_passport, read_manifest, read_shard


class StreamAdder:
    """Gives samples of one stream alone; config as that of `added_streams.adding`."""

    finder = None
    transcribe = None

    def __init__(self, config: DataConfig, folder: Path, device: str) -> None:
        self.config = config
        self.extractors = load_extractors(config.extractors, device)
        self.needs = needs_of(self.extractors)
        self.passport: Passport = {}
        for extractor in self.extractors.values():
            self.passport |= extractor.passport
        streams = ("crops",) if "face" in self.needs else ()
        self.stored = StoredSamples(folder, streams) if self.needs & {"face", "text"} else None
        size = common_crop_size(self.extractors)
        stored = round(load_passport(folder)["crops"].width ** 0.5) if streams else size
        if stored != size:
            raise ConfigError(
                f"{', '.join(self.extractors)} wants faces of {size} pixels, the crops in {folder} "
                f"have {stored}; extract anew with streams.crops.size={size} and another "
                "output=FOLDER"
            )
        self.versions = library_versions(device)

    def __call__(self, clip: Clip, *, preview: bool = False) -> Extraction:
        return _SideCourse(self, clip, False).run()


class _SideCourse(Course):
    """A clip's way to the one stream."""

    def _sample(self) -> ClipSample:
        return ClipSample(id=self.clip.id, streams=self._streams(self._evidence()))

    def _evidence(self) -> Evidence:
        adder, found = self.extractor, {"clip": self.clip}
        if adder.needs & {"sound", "voice"}:
            with self._timed("media"):
                self._open()
            found["sound_T"] = self.media.sound_T
        if "voice" in adder.needs:
            with self._timed("voice"):
                self._find_voice()
            found["has_voice"] = bool(self.voice.spans)
        if adder.stored is not None:
            with self._timed("media"):
                stored = adder.stored.of(self.clip.id)
            found["text"] = stored.text
            if stored.has("crops"):
                crops = stored.streams["crops"]
                found["crops_KHW"] = pictures(crops)
                found["crop_seconds_K"] = crops.seconds_N
        return Evidence(**found)


class StoredSamples:
    """The samples of a folder with some of their streams, by clip; clips come shard by shard, so
    one is kept."""

    def __init__(self, folder: Path, streams: Sequence[str]) -> None:
        self.streams = streams
        self._tar_of = {
            sample: tar
            for tar in list_shards(folder)
            for sample in read_manifest(tar.with_suffix(".json")).samples
        }
        self._tar: Path | None = None
        self._samples: dict[str, ClipSample] = {}

    def of(self, clip: str) -> ClipSample:
        tar = self._tar_of[clip]
        if tar != self._tar:
            self._samples = {s.id: s for s in read_shard(tar, streams=self.streams)}
            self._tar = tar
        return self._samples[clip]


def load_adder(config: DataConfig, folder: Path, device: str, number: int) -> StreamAdder:
    """The adder of worker `number`."""
    torch.set_num_threads(1)  # the workers are the parallelism
    return StreamAdder(config, folder, take_device(device, number))
