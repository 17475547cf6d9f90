"""The labelled clips that a run learned from, chose on and was judged on, from its folder."""

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import load_config
from data_pipeline.errors import UserError
from finetune.build import build_protocol
from finetune.clips.labelled import LabelledClip, LabelMap, read_labelled
from finetune.config import FinetuneConfig
from finetune.protocols import Splits, split_clips
from finetune.recognizer import Recognizer
from finetune.runs.results import ResultsRow, read_row


class RunError(UserError):
    """A folder that is no finished run, or not that of the recognizer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OfRun:
    """A finished run with its clips."""

    config: FinetuneConfig
    row: ResultsRow
    splits: Splits


def clips_of_run(folder: Path, recognizer: Recognizer) -> OfRun:
    """The clips of the run in `folder`, with the streams that the recognizer reads.

    Raises RunError where no run has ended there, or one of other classes.
    """
    row = read_row(folder) if (folder / "config.yaml").is_file() else None
    if row is None:
        raise RunError(
            f"no finished run in {folder}; expected config.yaml and row.json, as finetuning leaves "
            "them beside `recognizer`, runs/NAME/runs/SETTING/foldF-seedS-RECIPE"
        )
    config = load_config(FinetuneConfig, folder / "config.yaml", [])
    labels = LabelMap.build(config.data.labels, config.data.ignore_labels)
    if labels.classes != recognizer.classes:
        raise RunError(
            f"the run in {folder} tells apart {', '.join(labels.classes)}, the recognizer "
            f"{', '.join(recognizer.classes)}; give the run that the recognizer is of"
        )
    data = config.data
    clips = read_labelled(data.shards, labels, tuple(recognizer.passport), data.label_column)
    protocol = build_protocol(config.data, clips)
    splits = split_clips(clips.clips, protocol, row.fold, clips.classes)
    return OfRun(config=config, row=row, splits=splits)


def with_all(clips: list[LabelledClip], modalities: tuple[str, ...]) -> list[LabelledClip]:
    """Those that have each of these."""
    return [clip for clip in clips if all(map(clip.sample.has, modalities))]
