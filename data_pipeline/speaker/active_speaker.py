"""Who speaks: voice x mouth movement -> one of the visible faces, or nobody.

An utterance (one clip) has one speaker or none. Three counts are made of each face, after
MEmoBERT's ActiveSpeakerSelector; MTCNN has no lip landmarks, so its lip gaps in pixels become
pictures of the mouth (data_pipeline.faces.mouth), always less the same measure of the eyes and
brow, which cancels turning heads, lighting and compression:

  open    frames at which the mouth is away from its usual look
  change  frames at which it has moved since the frame before
  match   10 ms hops of voice at such a frame

A face whose open or change is zero, or whose mouth moves in less than a tenth of the voice it is
seen in, does not speak. (The reference asks for a match above zero; a compressed picture of a
still mouth passes that.) Of the faces left the one most in step with the voice is chosen, if it is
in step at all:

  synchrony  how well the mouth's picture goes with the sound's spectrum (speaker.synchrony), the
             best over lips up to 0.24 s before the sound or 0.16 s after it
  network    optional: the mean log odds of a published network (data_pipeline.speaker.network)

Seven people of the GRID corpus whom the maps never saw, each sound against each face: the right
face fits better than another in 95 % of the 42 pairs. The correlation of movement with loudness,
which needs no weights, reaches 55 %: they all say a sentence of one length.
The reference ranks the counts instead, score = sum of 1 / sqrt(rank); that is `strategy="counts"`,
with its faults mended: what it called the width of the mouth was its height a second time. Where
two people move their lips it picks the livelier one (docs/results/active_speaker.md has both).
"""

from dataclasses import dataclass

import numpy as np

from data_pipeline.faces.finder import TrackedFace
from data_pipeline.faces.mouth import movement, openness
from data_pipeline.settings import SpeakerSettings
from data_pipeline.speaker.network import load_evidence
from data_pipeline.speaker.synchrony import load_lip_sync
from data_pipeline.speaker.voice import VoiceActivity

VOICE_HOP_SECONDS = 0.01
LONGEST_FRAME_SECONDS = 0.5  # a frame older than this no longer shows the face


@dataclass(frozen=True, kw_only=True)
class FaceCounts:
    """What was measured of one face."""

    open: int
    """Frames."""
    change: int
    """Frames."""
    match: int
    """Hops of 10 ms."""
    match_share: float
    """Of the voice during which the face is seen."""
    movement: float
    """Mean change of the mouth while the face is seen, less that of the upper face."""
    synchrony: float | None
    """-1 to 1; None when the face is seen too shortly to tell."""
    network: float | None = None
    """Mean log odds that it speaks, by the network of the settings; None without one, or when the
    face is seen too shortly."""


@dataclass(frozen=True, kw_only=True)
class SpeakerChoice:
    """The answer for one utterance."""

    index: int | None
    """Into the faces; None is nobody."""
    score: float
    """Of the chosen face: its synchrony, with a network its joint score, or its rank score
    (counts); 0 for nobody."""
    reason: str
    """A slug: only_mover, most_in_step, most_counts for a speaker; no_face, no_sound, no_voice,
    no_mouth_movement, off_screen_voice for nobody."""
    counts: list[FaceCounts]
    """One per face."""


def choose_speaker(
    faces: list[TrackedFace],
    voice: VoiceActivity,
    sound_T: np.ndarray | None,
    settings: SpeakerSettings,
) -> SpeakerChoice:
    """Which of `faces` speaks in this utterance. Sound is mono float32 [T] at 16 kHz, or None."""
    counts = [count_face(face, voice, sound_T, settings) for face in faces]
    return decide(counts, voice, sound_T, settings)


def decide(
    counts: list[FaceCounts],
    voice: VoiceActivity,
    sound_T: np.ndarray | None,
    settings: SpeakerSettings,
) -> SpeakerChoice:
    """Which of the faces speaks, by what was measured of each."""
    s = settings

    def nobody(reason: str) -> SpeakerChoice:
        return SpeakerChoice(index=None, score=0.0, reason=reason, counts=counts)

    if not counts:
        return nobody("no_face")
    if sound_T is None:
        return nobody("no_sound")
    if voice.seconds < s.min_voice_seconds:
        return nobody("no_voice")
    movers = [
        i
        for i, c in enumerate(counts)
        if c.open > 0 and c.change > 0 and c.match_share >= s.min_match_share
    ]
    if not movers:
        return nobody("no_mouth_movement")
    if s.strategy == "counts":
        scores = rank_scores([counts[i] for i in movers])
        best = max(range(len(movers)), key=lambda k: scores[k])
        reason = "most_counts" if len(movers) > 1 else "only_mover"
        return SpeakerChoice(index=movers[best], score=scores[best], reason=reason, counts=counts)
    heard = [i for i in movers if in_step(counts[i], s)]
    if not heard:
        return nobody("off_screen_voice")
    best = max(heard, key=lambda i: (evidence(counts[i], s), counts[i].match))
    reason = "most_in_step" if len(movers) > 1 else "only_mover"
    return SpeakerChoice(index=best, score=evidence(counts[best], s), reason=reason, counts=counts)


def in_step(counts: FaceCounts, settings: SpeakerSettings) -> bool:
    """Whether the voice can be this face's; too short to be measured is no evidence against."""
    if counts.synchrony is None:
        return True
    if counts.network is None:
        return counts.synchrony >= settings.min_synchrony
    joint = load_evidence(settings.network).joint
    return counts.synchrony >= joint.min_synchrony and counts.network >= joint.min_log_odds


def evidence(counts: FaceCounts, settings: SpeakerSettings) -> float:
    """What speaks for a face; one too short to be measured ranks below any in step."""
    if counts.synchrony is None:
        return settings.min_synchrony
    if counts.network is None:
        return counts.synchrony
    return counts.synchrony + load_evidence(settings.network).joint.weight * counts.network


def count_face(
    face: TrackedFace,
    voice: VoiceActivity,
    sound_T: np.ndarray | None,
    settings: SpeakerSettings,
) -> FaceCounts:
    """The counts, the movement, the synchrony and the network's word of one face."""
    seconds_F = face.track.seconds_F.astype(np.float64)
    open_F = openness(face.mouth_FHW) - openness(face.upper_FHW) > settings.open_level
    movement_F = movement(face.mouth_FHW) - movement(face.upper_FHW)
    change_F = movement_F > settings.change_level
    # Each hop belongs to the frame shown at that moment; it is not seen where no frame is.
    hop_H = np.arange(0.0, seconds_F[-1] + 0.04, VOICE_HOP_SECONDS) + VOICE_HOP_SECONDS / 2
    shown_H = np.searchsorted(seconds_F, hop_H, side="right") - 1
    seen_H = (shown_H >= 0) & (hop_H - seconds_F[shown_H] < LONGEST_FRAME_SECONDS)
    voiced_H = seen_H & voice.voiced_at(hop_H)
    match = int((voiced_H & change_F[shown_H]).sum())
    return FaceCounts(
        open=int(open_F.sum()),
        change=int(change_F.sum()),
        match=match,
        match_share=match / max(1, int(voiced_H.sum())),
        movement=float(movement_F.mean()),
        synchrony=(
            None
            if sound_T is None
            else load_lip_sync().score(face.mouth_FHW, movement_F, seconds_F, sound_T)
        ),
        network=network_log_odds(face, voice, sound_T, settings.network),
    )


def network_log_odds(
    face: TrackedFace, voice: VoiceActivity, sound_T: np.ndarray | None, network: str | None
) -> float | None:
    """What the network in this file says of one face; None without sound, or without a network."""
    if network is None or sound_T is None:
        return None
    if face.picture_FHW is None:
        raise ValueError("a speaker network wants FaceFinder(pictures=True)")
    seconds_F = face.track.seconds_F.astype(np.float64)
    return load_evidence(network).score(face.picture_FHW, seconds_F, sound_T, voice)


def rank_scores(counts: list[FaceCounts]) -> list[float]:
    """Sum over the three counts of 1 / sqrt(rank); rank 1 is the highest, equals share a rank."""
    scores = [0.0] * len(counts)
    for name in ("open", "change", "match"):
        values = sorted({getattr(c, name) for c in counts}, reverse=True)
        for i, c in enumerate(counts):
            scores[i] += 1 / np.sqrt(1 + values.index(getattr(c, name)))
    return [float(x) for x in scores]
