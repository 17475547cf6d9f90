"""Stories: the clips of one recording as one clip, each stream of which is a single row.

Shapes: C clips of a story, N rows of a stream, D its width, E of all streams together.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from data_pipeline.schema import ClipSample, Passport, Stream, clip_id
from finetune.clips.labelled import DatasetError, LabelledClip
from finetune.protocols import some


def stories_of(
    clips: Sequence[LabelledClip], by: str, weighting: str, classes: Sequence[str]
) -> list[LabelledClip]:
    """The stories of these clips, in the order of their first ones; by="clip": each is its own.

    Raises DatasetError for a story with two labels, and for a clip that names none.
    """
    members: dict[str, list[LabelledClip]] = {}
    for clip in clips:
        members.setdefault(story_name(clip, by), []).append(clip)
    stories = []
    for name, part in members.items():
        counts = Counter(classes[clip.label] for clip in part)
        if len(counts) > 1:
            raise DatasetError(
                f"the story {name} has {len(counts)} labels: "
                f"{', '.join(f'{label} {n}' for label, n in counts.items())}, and a story has one; "
                f"give each story a name of its own in the column `{by}` of the clip table and "
                "extract again, or use options.story=clip"
            )
        sample = story_of(name, [clip.sample for clip in part], weighting)
        stories.append(LabelledClip(sample=sample, label=part[0].label))
    return stories


def story_name(clip: LabelledClip, by: str) -> str:
    """The clip's id, or CORPUS/CELL of that column. Raises DatasetError for an empty one."""
    cell = clip.sample.meta.get("columns", {}).get(by)
    return f"{clip.sample.meta.get('corpus')}/{cell}" if cell else clip.unit(by)


def group_of(story: LabelledClip, by: str) -> str:
    """What the inner search keeps together. Raises DatasetError for a story of no one's."""
    name = story.sample.id if by == "story" else story.named(by)
    if name is None:
        raise DatasetError(
            f"the story {story.sample.id} names no {by}, or several, and options.groups={by} keeps "
            f"each {by} on one side of the inner search; fill the column {by}, or use "
            "options.groups=story"
        )
    return name


def story_of(name: str, samples: Sequence[ClipSample], weighting: str) -> ClipSample:
    """These clips as one. A stream's row is the weighted sum of the clips' means, over those that
    have it, in the stream's own type: to whoever reads it the story is a clip."""
    streams = {}
    for stream in dict.fromkeys(stream for sample in samples for stream in sample.streams):
        there = [sample for sample in samples if sample.has(stream)]
        weight_C = weights(there, weighting)
        mean_CD = np.stack([_mean(sample.streams[stream]) for sample in there])
        values_1D = (weight_C @ mean_CD)[None].astype(there[0].streams[stream].values_ND.dtype)
        streams[stream] = Stream(values_ND=values_1D, seconds_N=np.zeros(1, np.float32))
    speakers = {sample.meta.get("speaker") for sample in samples}
    return ClipSample(
        id=clip_id(*name.split("/", 1), 0.0) if "/" in name else name,
        text=" ".join(sample.text for sample in samples if sample.text) or None,
        words=[word for sample in samples for word in sample.words],
        streams=streams,
        meta={**samples[0].meta, "speaker": speakers.pop() if len(speakers) == 1 else None},
    )


def weights(samples: Sequence[ClipSample], weighting: str) -> np.ndarray:
    """[C] float64, of sum one. Raises DatasetError for clips of unknown duration."""
    if weighting == "uniform" or len(samples) == 1:
        return np.full(len(samples), 1 / len(samples))
    ends = [(sample.meta.get("start"), sample.meta.get("end")) for sample in samples]
    without = [s.id for s, times in zip(samples, ends, strict=True) if None in times]
    if without:
        raise DatasetError(
            f"clips without start and end: {some(without)}, and options.weighting is duration; "
            "extract them again, or use options.weighting=uniform"
        )
    seconds_C = np.array([end - start for start, end in ends], np.float64)
    return seconds_C / seconds_C.sum()


def row_of(sample: ClipSample, passport: Passport) -> np.ndarray:
    """[E] float64: the means of all streams of the passport one after the other; NaN of one that
    the clip, or the story, has not."""
    return np.concatenate(
        [
            _mean(sample.streams[name]) if sample.has(name) else np.full(spec.width, np.nan)
            for name, spec in passport.items()
        ]
    )


def check_whole(splits: dict[str, list[LabelledClip]], by: str, fold: int) -> None:
    """Raise DatasetError for a story of which two splits have a part."""
    names = {split: {story_name(clip, by) for clip in clips} for split, clips in splits.items()}
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        if cut := sorted(names[a] & names[b]):
            raise DatasetError(
                f"fold {fold}: {a} and {b} both have clips of {some(cut)}, and a story cannot be "
                "cut in two; deal by recording (data.deal.by=recording), or use options.story=clip"
            )


def _mean(stream: Stream) -> np.ndarray:
    return stream.values_ND.mean(0, dtype=np.float64)
