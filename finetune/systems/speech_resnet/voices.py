"""Clips by their speakers, for stage 1."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from data_pipeline.arrow import open_shards, samples_of
from data_pipeline.errors import UserError
from data_pipeline.schema import Passport
from data_pipeline.shards import load_passport
from finetune.clips.labelled import LabelledClip
from finetune.clips.portions import few_labels
from finetune.protocols import Splits
from finetune.systems.speech_resnet.config import SpeakerConfig
from finetune.systems.speech_resnet.stream import heard_stream
from pretrain.data.manifests import read_manifests
from pretrain.data.seen import SeenClips


@dataclass(frozen=True, kw_only=True, eq=False)
class Voices:
    """Clips and who speaks in them."""

    train: list[LabelledClip]
    """`label` is the number of the speaker."""
    held_out: list[LabelledClip]
    speakers: tuple[str, ...]
    """As CORPUS/SPEAKER."""
    passport: Passport
    shards_sha256: dict[str, list[str]]
    seen: SeenClips
    notes: list[str]

    @property
    def corpora(self) -> list[str]:
        return sorted({str(clip.sample.meta.get("corpus")) for clip in self.train})


def read_voices(config: SpeakerConfig) -> Voices:
    """The clips of the shards, by speaker. Raises UserError where fewer than two speakers are
    left."""
    spec = heard_stream(load_passport(config.shards, (config.stream,)), config.stream)
    passport = {config.stream: spec}
    found = read_manifests(config.shards, (config.stream,))
    samples = samples_of(open_shards(config.shards, (config.stream,)), passport)
    digests = [f"{d:016x}" for part in found.shards.values() for r in part for d in r.features_C]
    clips, silent, nameless = [], 0, 0
    for sample, digest in zip(samples, digests, strict=True):
        clip = LabelledClip(sample=sample, label=-1, digest=digest)
        silent += not sample.has(config.stream)
        nameless += clip.named("speaker") is None
        if sample.has(config.stream) and clip.named("speaker") is not None:
            clips.append(clip)
    counts = Counter(clip.named("speaker") for clip in clips)
    strange = sorted(set(config.leave_out) - counts.keys())
    if strange:
        raise UserError(
            f"leave_out names {', '.join(strange)}, and the clips have {', '.join(sorted(counts))}"
        )
    rare = {name for name, count in counts.items() if count < config.min_clips}
    speakers = sorted(counts.keys() - rare - set(config.leave_out))
    if len(speakers) < 2:
        raise UserError(
            f"speakers to tell apart: {', '.join(speakers) or 'none'}; at least two are needed. "
            f"Of {len(clips)} clips with {config.stream} and a speaker, "
            f"{len(rare)} speakers have fewer than min_clips={config.min_clips}, "
            f"{len(config.leave_out)} are in leave_out, and {nameless} clips name none; give "
            "shards of more people, or fill the column `speaker` of the clip table"
        )
    number = {name: n for n, name in enumerate(speakers)}
    used = [
        LabelledClip(sample=c.sample, label=number[c.named("speaker")], digest=c.digest)
        for c in clips
        if c.named("speaker") in number
    ]
    whole = Splits(train=used, dev=[], test=[], notes=[])
    train = few_labels(whole, 1 - config.held_out_share, config.seed).train
    trained = {clip.sample.id for clip in train}
    records = [record for part in found.shards.values() for record in part]
    ids = [c for r in records for c in r.packed_ids.decode().split("\n") if c]
    wanted_C = np.array([clip in trained for clip in ids], dtype=bool)
    notes = [f"{len(speakers)} speakers, {len(train)} clips and {len(used) - len(train)} held out"]
    for count, what in (
        (silent, f"clips lack {config.stream}"),
        (nameless, "clips name no speaker"),
        (len(rare), f"speakers have fewer than {config.min_clips} clips"),
    ):
        if count:
            notes.append(f"{count} {what}: left out")
    return Voices(
        train=train,
        held_out=[clip for clip in used if clip.sample.id not in trained],
        speakers=tuple(speakers),
        passport=passport,
        shards_sha256={folder: [r.sha256 for r in part] for folder, part in found.shards.items()},
        seen=SeenClips.of(records, wanted_C),
        notes=notes,
    )
