"""Who speaks: voice x mouth movement -> one of the visible faces, or nobody.

An utterance (one clip) has one speaker or none. Three counts are made of each face, after
MEmoBERT's ActiveSpeakerSelector; MTCNN has no lip landmarks, so its lip gaps in pixels become
pictures of the mouth (data_pipeline.mouth), always less the same measure of the eyes and brow,
which cancels turning heads, lighting and compression:

  open    frames at which the mouth is away from its usual look
  change  frames at which it has moved since the frame before
  match   10 ms hops of voice at such a frame

A face whose open or change is zero, or whose mouth moves in less than a quarter of the voice it is
seen in, does not speak. (The reference asks for a match above zero; a compressed picture of a
still mouth passes that: silent people reach a share of 0 to 0.23 where speakers start at 0.34.)
Of the faces left the one most in step with the voice is chosen, if it is in step at all:

  synchrony  correlation of the mouth's movement with the loudness of the sound (square root of
             its RMS), both smoothed over 0.1 s, the highest over the lags at which lips can be:
             up to 0.24 s before the sound or 0.16 s after it

On three-second pieces of people who talk in the wild it tells a person's own sound from another
part of it with an area under the curve of 0.92; how much the mouth moves tells nothing there.
The reference ranks the counts instead, score = sum of 1 / sqrt(rank); that is `strategy="counts"`,
with its faults mended: what it called the width of the mouth was its height a second time. Where
two people move their lips it picks the livelier one (docs/results/active_speaker.md has both).
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from data_pipeline.faces import TrackedFace
from data_pipeline.mouth import movement, openness
from data_pipeline.schema import SAMPLE_RATE
from data_pipeline.voice import VoiceActivity

STRATEGIES = ("synchrony", "counts")
VOICE_HOP_SECONDS = 0.01
RATE = 25.0  # per second: synchrony is measured on this grid, whatever the video's rate
MIN_SYNCHRONY_SECONDS = 0.6  # a shorter stretch correlates with anything


@dataclass(frozen=True, kw_only=True)
class SpeakerSettings:
    """When a face speaks."""

    strategy: str = "synchrony"
    """What decides between faces that all move: synchrony, or counts as the reference does."""
    open_level: float = 0.05
    """A mouth is open above this difference from its median picture, of its contrast, less that of
    the upper face."""
    change_level: float = 0.03
    """A mouth moves above this change from frame to frame, of its contrast, less that of the upper
    face."""
    min_match_share: float = 0.25
    """Least share of the voice, while the face is seen, during which its mouth moves."""
    min_synchrony: float = 0.1
    """Least correlation of movement and loudness; below, the voice is somebody else's."""
    min_voice_seconds: float = 0.1
    """Clips with less voice have no speaker."""
    lead_seconds: float = 0.24
    """Most that lips may be ahead of the sound."""
    lag_seconds: float = 0.16
    """Most that lips may be behind the sound."""

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"no strategy {self.strategy!r}; there are {', '.join(STRATEGIES)}")


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


@dataclass(frozen=True, kw_only=True)
class SpeakerChoice:
    """The answer for one utterance."""

    index: int | None
    """Into the faces; None is nobody."""
    score: float
    """Of the chosen face: its synchrony, or its rank score (counts); 0 for nobody."""
    reason: str
    """A slug: only_mover, most_in_step, most_counts for a speaker; no_face, no_sound, no_voice,
    no_mouth_movement, off_screen_voice for nobody."""
    counts: list[FaceCounts]
    """One per face."""


def choose_speaker(
    faces: list[TrackedFace],
    voice: VoiceActivity,
    sound_T: np.ndarray | None,
    settings: SpeakerSettings | None = None,
) -> SpeakerChoice:
    """Which of `faces` speaks in this utterance. Sound is mono float32 [T] at 16 kHz, or None."""
    s = settings or SpeakerSettings()
    counts = [count_face(face, voice, sound_T, s) for face in faces]

    def nobody(reason: str) -> SpeakerChoice:
        return SpeakerChoice(index=None, score=0.0, reason=reason, counts=counts)

    if not faces:
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
    # Too short to be measured is no evidence against: such a face ranks below any in step.
    synchrony = {
        i: s.min_synchrony if counts[i].synchrony is None else counts[i].synchrony for i in movers
    }
    best = max(movers, key=lambda i: (synchrony[i], counts[i].match))
    if synchrony[best] < s.min_synchrony:
        return nobody("off_screen_voice")
    reason = "most_in_step" if len(movers) > 1 else "only_mover"
    return SpeakerChoice(index=best, score=synchrony[best], reason=reason, counts=counts)


def count_face(
    face: TrackedFace,
    voice: VoiceActivity,
    sound_T: np.ndarray | None,
    settings: SpeakerSettings,
) -> FaceCounts:
    """The counts, the movement and the synchrony of one face."""
    seconds_F = face.track.seconds_F.astype(np.float64)
    open_F = openness(face.mouth_FHW) - openness(face.upper_FHW) > settings.open_level
    movement_F = movement(face.mouth_FHW) - movement(face.upper_FHW)
    change_F = movement_F > settings.change_level
    # Each hop belongs to the frame shown at that moment; it is not seen where no frame is.
    hop_H = np.arange(0.0, seconds_F[-1] + 1 / RATE, VOICE_HOP_SECONDS) + VOICE_HOP_SECONDS / 2
    shown_H = np.searchsorted(seconds_F, hop_H, side="right") - 1
    seen_H = (shown_H >= 0) & (hop_H - seconds_F[shown_H] < 0.5)
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
            else synchrony_of(
                movement_F,
                seconds_F,
                sound_T,
                lead_seconds=settings.lead_seconds,
                lag_seconds=settings.lag_seconds,
            )
        ),
    )


def loudness(sound_T: np.ndarray, seconds_N: np.ndarray, width_seconds: float = 0.06) -> np.ndarray:
    """[N] square root of the RMS of the sound around each of these times; 0 outside the sound."""
    energy_T = np.concatenate([[0.0], np.cumsum(sound_T.astype(np.float64) ** 2)])
    first_N, last_N = (
        np.clip(np.round((seconds_N + d) * SAMPLE_RATE), 0, len(sound_T)).astype(np.int64)
        for d in (-width_seconds / 2, width_seconds / 2)
    )
    mean_N = (energy_T[last_N] - energy_T[first_N]) / np.maximum(last_N - first_N, 1)
    return np.maximum(mean_N, 0.0) ** 0.25


def synchrony_of(
    movement_F: np.ndarray,
    seconds_F: np.ndarray,
    sound_T: np.ndarray,
    *,
    lead_seconds: float,
    lag_seconds: float,
) -> float | None:
    """Highest correlation of movement and loudness over the lags; None when too short to tell.

    A lag shifts the sound's window, not the video's, so every lag is judged on the same frames.
    """
    if seconds_F[-1] - seconds_F[0] < MIN_SYNCHRONY_SECONDS:
        return None
    grid_N = np.arange(seconds_F[0], seconds_F[-1] + 1e-6, 1 / RATE)
    moved_N = gaussian_filter1d(np.interp(grid_N, seconds_F, movement_F), 1.0)
    best = -1.0
    for lag in np.arange(-round(lag_seconds * RATE), round(lead_seconds * RATE) + 1) / RATE:
        # Beyond the ends of the sound nothing is known: those frames are left out.
        known_N = (grid_N + lag >= 0) & (grid_N + lag <= len(sound_T) / SAMPLE_RATE)
        if known_N.sum() < MIN_SYNCHRONY_SECONDS * RATE:
            continue
        loud_N = gaussian_filter1d(loudness(sound_T, grid_N[known_N] + lag), 1.0)
        best = max(best, _correlation(moved_N[known_N], loud_N))
    return best


def _correlation(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Pearson's; 0 where one of the two does not vary."""
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    power = float(np.sqrt((a_N**2).sum() * (b_N**2).sum()))
    return float((a_N * b_N).sum()) / power if power > 1e-12 else 0.0


def rank_scores(counts: list[FaceCounts]) -> list[float]:
    """Sum over the three counts of 1 / sqrt(rank); rank 1 is the highest, equals share a rank."""
    scores = [0.0] * len(counts)
    for name in ("open", "change", "match"):
        values = sorted({getattr(c, name) for c in counts}, reverse=True)
        for i, c in enumerate(counts):
            scores[i] += 1 / np.sqrt(1 + values.index(getattr(c, name)))
    return [float(x) for x in scores]
