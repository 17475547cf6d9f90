"""One clip's way through the data stage.

Media, voice, faces, active speaker and text are its evidence; of that its streams are made, one
extractor after the other. It ends as a ClipSample, or as a Reject that says at which of these steps
and why.
"""

import contextlib
import importlib.metadata
import logging
import platform
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers

from data_pipeline.extraction.config import MAX_MISSING_SECONDS, DataConfig
from data_pipeline.extraction.devices import resolve_device, take_device
from data_pipeline.extraction.preview import PreviewTap, make_preview
from data_pipeline.faces.finder import FaceFinder, FaceSettings, TrackedFace
from data_pipeline.features.extractors import (
    Evidence,
    StreamAbsent,
    StreamExtractor,
    common_crop_size,
    extract,
    find_module,
    load_extractors,
)
from data_pipeline.features.transcripts import load_transcriber
from data_pipeline.media.clip_media import ClipMedia, MediaError, open_clip
from data_pipeline.runs.worker_pool import Extraction, Preview, is_gpu_error
from data_pipeline.schema import Clip, ClipSample, Passport, Reject, Stream
from data_pipeline.speaker.active_speaker import SpeakerChoice, choose_speaker
from data_pipeline.speaker.network import load_evidence
from data_pipeline.speaker.voice import VoiceActivity, voice_activity
from data_pipeline.table.clip_table import FILES
from data_pipeline.table.words import split_words

log = logging.getLogger(__name__)

LIBRARIES = (
    *("ai-edge-litert", "av", "decord", "facenet-pytorch", "faster-whisper", "numpy"),
    *("onnxruntime", "scipy", "silero-vad", "torch", "torchaudio", "transformers"),
)


SILENCE = 1e-3
"""Peak of a sound track, of 1, below which another of the file's tracks is tried: -60 dB."""


class ClipRejected(Exception):
    """This clip gives no sample: (reason, detail)."""


class ClipExtractor:
    """Everything that a worker loads once, and the way of one clip through it.

    extractor = ClipExtractor(config, device="cpu")
    extraction = extractor(clip)      # .sample or .reject
    """

    def __init__(self, config: DataConfig, device: str = "cpu") -> None:
        transformers.utils.logging.disable_progress_bar()
        self.config = config
        self.extractors = load_extractors(config.extractors, device)
        self.passport: Passport = {}
        for extractor in self.extractors.values():
            self.passport |= extractor.passport
        self.finder = None
        crop_size = common_crop_size(self.extractors)
        if crop_size is not None:
            faces = FaceSettings(**asdict(config.faces), crop_size=crop_size)
            network = config.active_speaker.network if config.speaker == "active" else None
            if network is not None:
                load_evidence(network)
            self.finder = FaceFinder(faces, device=device, pictures=network is not None)
        self.transcribe = None
        if config.transcriber is not None:
            self.transcribe = load_transcriber(config.transcriber)
        self.versions = library_versions(device)

    def __call__(self, clip: Clip, *, preview: bool = False) -> Extraction:
        """Extract one clip. Whatever goes wrong with it comes back as a Reject; an error of the GPU
        is raised, see data_pipeline.runs.worker_pool."""
        return Course(self, clip, preview).run()


class Course:
    """One clip on its way. What was found so far is kept, for the preview of a reject."""

    def __init__(self, extractor: ClipExtractor, clip: Clip, preview: bool) -> None:
        self.extractor, self.config, self.clip = extractor, extractor.config, clip
        self.wants_preview = preview
        self.stage = "media"
        self.seconds: dict[str, float] = {}
        self.media: ClipMedia | None = None
        self.tap: PreviewTap | None = None
        self.voice: VoiceActivity | None = None
        self.faces: list[TrackedFace] = []
        self.speaker: int | None = None
        self.speaker_score: float | None = None
        self.notes: list[str] = []
        """Beside those of the media."""

    def run(self) -> Extraction:
        sample, reject = None, None
        try:
            sample = self._sample()
            sample.check(self.extractor.passport)
        except (ClipRejected, MediaError) as error:
            reason, detail = error.args if isinstance(error, ClipRejected) else _parts(error)
            reject = self._reject(reason, detail)
        except Exception as error:  # a clip never ends the run
            if is_gpu_error(error):
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            detail = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            log.debug("%s", self.clip.id, exc_info=True)
            sample, reject = None, self._reject("error", detail)
        return Extraction(
            sample=sample,
            reject=reject,
            preview=self._preview(reject),
            seconds=self.seconds,
            media_seconds=self.media.duration if self.media is not None else 0.0,
            notes=self._all_notes(),
        )

    def _all_notes(self) -> list[str]:
        return [*(self.media.notes if self.media is not None else []), *self.notes]

    def _preview(self, reject: Reject | None) -> Preview | None:
        """What the report shows of the clip; a picture that cannot be made costs no sample."""
        if self.tap is None:
            return None
        try:
            with self._timed("preview"):
                return make_preview(
                    self.clip,
                    self.tap,
                    faces=self.faces,
                    voice_spans=self.voice.spans if self.voice is not None else [],
                    speaker=self.speaker,
                    outcome="sample" if reject is None else f"{reject.reason}: {reject.detail}",
                )
        except Exception:
            log.warning("%s: its preview cannot be made", self.clip.id, exc_info=True)
            return None

    def _sample(self) -> ClipSample:
        evidence = self._evidence()
        streams, text = self._streams(evidence), evidence.text
        if not streams and text is None:
            raise ClipRejected("nothing_left", "no text and none of the streams in it")
        clip, notes, end = self.clip, self._all_notes(), self.clip.end
        if self.media is not None:
            end = round(clip.start + self.media.duration, 6)
        columns = {n: Path(v).name if n in FILES else v for n, v in clip.columns}
        return ClipSample(
            id=clip.id,
            text=text,
            words=split_words(text or ""),
            streams=streams,
            meta={
                "corpus": clip.corpus,
                "recording": clip.recording,
                "speaker": clip.speaker,
                "label": clip.label,
                "start": clip.start,
                "end": end,
                "speaker_score": self.speaker_score,
                **({"region": clip.region} if clip.region is not None else {}),
                **({"columns": columns} if columns else {}),
                **({"notes": notes} if notes else {}),
            },
        )

    def _evidence(self) -> Evidence:
        if not self.config.opens_video:
            with self._timed("text"):
                return Evidence(clip=self.clip, text=self._text())
        with self._timed("media"):
            self._open()
        with self._timed("voice"):
            self._find_voice()
        if self.extractor.finder is not None and self.config.speaker != "none":
            with self._timed("faces"):
                self._find_faces()
            with self._timed("active_speaker"):
                self._choose_speaker()
        with self._timed("text"):
            text = self._text()
        chosen = None if self.speaker is None else self.faces[self.speaker]
        return Evidence(
            clip=self.clip,
            sound_T=self.media.sound_T,
            has_voice=bool(self.voice.spans),
            crops_KHW=None if chosen is None else chosen.crops_KHW,
            crop_seconds_K=None if chosen is None else chosen.crop_seconds_K,
            text=text,
        )

    def _streams(self, evidence: Evidence) -> dict[str, Stream]:
        streams: dict[str, Stream] = {}
        for name, extractor in self.extractor.extractors.items():
            with self._timed(name):
                streams |= self._extract(name, extractor, evidence)
                for stream in find_module(name).STREAMS:
                    if stream in self.config.require and stream not in streams:
                        raise ClipRejected(
                            "empty_stream", f"the clip holds too little to make {stream} of"
                        )
        return streams

    def _extract(
        self, name: str, extractor: StreamExtractor, evidence: Evidence
    ) -> dict[str, Stream]:
        """What it makes; nothing, and a note, where it says why it makes none."""
        try:
            return extract(name, extractor, evidence)
        except StreamAbsent as absent:
            reason, detail = absent.args
            if not set(find_module(name).STREAMS).isdisjoint(self.config.require):
                raise ClipRejected(reason, detail) from absent
            self.notes.append(f"no {name}, {reason}: {detail}")
            return {}

    def _open(self) -> None:
        self.media = self._choose_track(self._open_track(self.config.media.audio_track))
        log.debug("%s: %s", self.clip.id, "; ".join([self.media.decoder, *self.media.notes]))
        self._check_end()
        if self.media.duration < self.config.min_seconds:
            found = f"{self.media.duration:.3f} s long"
            least = f"expected min_seconds={self.config.min_seconds:g}"
            raise ClipRejected("too_short", f"{found}, {least}")
        if self.wants_preview:
            self.tap = PreviewTap(self.media)
        config = self.config
        if not self.media.has_video and config.requires("face"):
            kept = config.without("face")
            raise ClipRejected("no_video", f"only sound; require=[{kept}] takes such files too")
        if self.media.sound_T is None and config.requires("sound", "voice"):
            kept = config.without("sound", "voice")
            raise ClipRejected(
                "no_sound", f"the file has no sound; require=[{kept}] takes such files"
            )

    def _open_track(self, audio_track: int | None) -> ClipMedia:
        media = self.config.media
        return open_clip(
            self.clip,
            frames_per_second=media.frames_per_second,
            window_seconds=media.window_seconds,
            max_height=media.max_height,
            decoder=media.decoder,
            max_seconds=self.config.max_seconds,
            audio_track=audio_track,
        )

    def _choose_track(self, media: ClipMedia) -> ClipMedia:
        """`media`, or that of another sound track with a voice where nobody chose a silent one."""
        if len(media.audio_tracks) < 2:
            return media
        first = media.audio_track
        if self.config.media.audio_track is None and _is_silent(media):
            voiced = [(other, voice) for other, voice in self._other_tracks(media) if voice.spans]
            media, _ = max(voiced, key=lambda found: found[1].seconds, default=(media, None))
        tracks = "; ".join(f"{n} ({what})" for n, what in enumerate(media.audio_tracks))
        why = f", as track {first} is silent" if media.audio_track != first else ""
        media.notes.append(
            f"of the sound tracks {tracks}, number {media.audio_track} is taken{why}; "
            "media.audio_track chooses"
        )
        return media

    def _other_tracks(self, media: ClipMedia) -> Iterator[tuple[ClipMedia, VoiceActivity]]:
        """The clip with each of the file's other sound tracks that can be read."""
        for track in range(len(media.audio_tracks)):
            if track == media.audio_track:
                continue
            try:
                other = self._open_track(track)
            except MediaError as error:
                media.notes.append(f"sound track {track} cannot be read ({error.reason})")
                continue
            yield other, voice_activity(other.sound_T, self.config.voice)

    def _check_end(self) -> None:
        """Reject a clip of which the file holds a part; its text would say more than is there."""
        clip, media = self.clip, self.media
        ends = clip.start + media.duration
        missing = 0.0 if clip.end is None else clip.end - ends
        if self.config.media.take_truncated:
            if missing > MAX_MISSING_SECONDS:
                media.notes.append(
                    f"the clip should end at {clip.end:.2f} s, but the file ends at {ends:.2f} s"
                )
            return
        if media.cut_seconds is not None:
            promised = media.promised_seconds
            of = "" if promised is None else f" of {promised:.2f} s"
            raise ClipRejected(
                "truncated",
                f"the file breaks off at {media.cut_seconds:.2f} s{of}; copy it again, or set "
                "media.take_truncated=true",
            )
        if missing > MAX_MISSING_SECONDS:
            raise ClipRejected(
                "end_past_file",
                f"the clip ends at {clip.end:.2f} s, but {media.path.name} at {ends:.2f} s, so the "
                "text may say more than is there; correct `end`, or set media.take_truncated=true",
            )

    def _find_voice(self) -> None:
        media = self.media
        self.voice = voice_activity(media.sound_T, self.config.voice)
        if not self.voice.spans and self.config.requires("voice"):
            peak = float(np.abs(media.sound_T).max(initial=0.0))
            elsewhere = "".join(
                f"; sound track {other.audio_track} has {voice.seconds:.2f} s of voice: "
                f"media.audio_track={other.audio_track} takes it"
                for other, voice in self._other_tracks(media)
                if voice.spans
            )
            raise ClipRejected(
                "no_voice",
                f"the detector voice={self.config.voice} hears none; the sound's peak is "
                f"{peak:.3g} of 1{elsewhere}",
            )

    def _find_faces(self) -> None:
        if self.media.has_video:
            self.faces = self.extractor.finder.find(self.tap or self.media)
        if not self.faces and self.config.requires("face"):
            raise ClipRejected("no_face", self._why_no_face())

    def _choose_speaker(self) -> None:
        if not self.faces:
            return
        if self.config.speaker == "any_face":
            seen = [len(face.track) for face in self.faces]
            self.speaker = seen.index(max(seen))
            return
        choice = choose_speaker(
            self.faces, self.voice, self.media.sound_T, self.config.active_speaker
        )
        if choice.index is None:
            if self.config.requires("face"):
                raise ClipRejected(choice.reason, self._why_nobody(choice))
            return
        self.speaker, self.speaker_score = choice.index, round(float(choice.score), 4)

    def _why_no_face(self) -> str:
        faces = self.config.faces
        size = (
            f"faces.min_face_pixels={faces.min_face_pixels} or more in frames scaled down to "
            f"faces.detection_pixels={faces.detection_pixels}"
        )
        presence = self.extractor.finder.presence if self.media.has_video else 0.0
        if not presence:
            return f"no face was found; looked for {size}"
        return (
            f"the face seen longest is there in a share of {presence:.3f} of the frames, expected "
            f"faces.min_presence={faces.min_presence:g}; looked for {size}"
        )

    def _why_nobody(self, choice: SpeakerChoice) -> str:
        """What was measured, and the setting that it falls short of."""
        s = self.config.active_speaker
        found = f"{len(self.faces)} face{'s' * (len(self.faces) != 1)}"
        voice = f"{self.voice.seconds:.2f} s of voice"
        if choice.reason == "no_sound":
            return f"{found} but no sound to tell who speaks; speaker=any_face takes a face anyway"
        if choice.reason == "no_voice":
            least = s.min_voice_seconds
            return f"{found}, {voice}; expected active_speaker.min_voice_seconds={least:g}"
        if choice.reason == "off_screen_voice":
            movers = [c for c in choice.counts if c.open and c.match_share >= s.min_match_share]
            best = max(c.synchrony for c in movers if c.synchrony is not None)
            if s.network is not None:
                joint = load_evidence(s.network).joint
                odds = max((c.network for c in movers if c.network is not None), default=None)
                return (
                    f"{found}, {voice}; no face has both a synchrony of {joint.min_synchrony:g} "
                    f"(the best: {best:.3f}) and, of active_speaker.network, log odds of "
                    f"{joint.min_log_odds:g} (the best: {odds})"
                )
            return (
                f"{found}, {voice}; the mouth most in step with it has a synchrony of {best:.3f}, "
                f"expected active_speaker.min_synchrony={s.min_synchrony:g}"
            )
        best = max(c.match_share for c in choice.counts)
        if best >= s.min_match_share:
            return (
                f"{found}, {voice}; a mouth moves, but none is ever open, which is measured by "
                f"active_speaker.open_level={s.open_level:g}"
            )
        return (
            f"{found}, {voice}; the mouth that moves most does so in a share of {best:.2f} of it, "
            f"expected active_speaker.min_match_share={s.min_match_share:g}"
        )

    def _text(self) -> str | None:
        text = self.clip.text
        if text is None and self.extractor.transcribe is not None and self.voice.spans:
            text = self.extractor.transcribe(self.media.sound_T, self.voice.spans)
        if text is None and "text" in self.config.require:
            raise ClipRejected(
                "no_text",
                "no text in the table and none heard; set transcriber, or fill the column"
                if self.extractor.transcribe is None
                else "no text in the table, and the transcriber heard no words",
            )
        return text

    def _reject(self, reason: str, detail: str) -> Reject:
        if reason != "truncated":
            detail = "; ".join([detail, *self._all_notes()])
        return Reject(clip=self.clip.id, stage=self.stage, reason=reason, detail=detail)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self.stage = stage
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = time.perf_counter() - started


def _is_silent(media: ClipMedia) -> bool:
    return media.sound_T is None or float(np.abs(media.sound_T).max(initial=0.0)) < SILENCE


def _parts(error: MediaError) -> tuple[str, str]:
    return error.reason, error.detail


def library_versions(device: str = "cpu") -> dict[str, str]:
    """What made the features, for the manifest: name to version, of what is installed; and the
    GPU, where there was one."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    if device != "cpu":
        versions["device"] = torch.cuda.get_device_name(device)
    return versions


def load_extractor(config: DataConfig, number: int) -> ClipExtractor:
    """The extractor of worker `number`: one CPU thread, and one GPU after the other."""
    torch.set_num_threads(1)  # the workers are the parallelism
    return ClipExtractor(config, device=take_device(resolve_device(config.device), number))
