"""A whole file cut into utterances: who speaks from when to when, and where nobody does.

    cut = cut_into_utterances("film.mp4")
    cut.pieces      [Piece(start, end, voiced, voice), ...], in order, none over another

Sound is read in windows of WINDOW_SECONDS, so an hour costs the memory of minutes. Voice activity
gives pieces; pieces of one voice with short pauses between them are an utterance, which is cut at
its longest pauses where it is too long. Where nobody speaks for a while the picture alone is cut,
at its shots.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_pipeline.faces.shots import CutFinder
from data_pipeline.media.clip_media import ClipMedia, MediaError, open_clip
from data_pipeline.schema import Clip
from data_pipeline.speaker.voice import SHORTEST_PAUSE_SECONDS, voice_activity

WINDOW_SECONDS = 120.0
MAX_PAUSE_SECONDS = 0.5
"""A longer pause ends an utterance."""
MAX_SECONDS = 10.0
"""Of an utterance; the median of MELD's is 2.7 s."""
MIN_SECONDS = 0.6
"""Less is widened: an extraction wants half a second."""
PAD_SECONDS = 0.5
"""Around an utterance, where there is room. The detector opens late, and hears an utterance again,
alone, only with some silence before it."""
MIN_SILENCE_SECONDS = 2.0
"""So long nobody speaks until the picture is looked at alone."""
MAX_SILENCE_SECONDS = 5.0
SHOT_FRAMES_PER_SECOND = 5.0
MAX_GAP_SECONDS = 3600.0
"""Of nothing that can be read, after which no more of the file is looked for."""

Span = tuple[float, float]
EmbedVoices = Callable[[np.ndarray, list[Span]], list[np.ndarray | None]]
"""(sound, pieces) -> of each piece an embedding, None where it is too short to tell."""
TellVoicesApart = Callable[[list[np.ndarray | None], list[float]], list[int | None]]
"""(embeddings, seconds of the pieces) -> whose voice each is."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """An utterance, or a silence. Seconds from the file's time 0."""

    start: float
    end: float
    voiced: bool
    """Somebody speaks; else the picture is all there is."""
    voice: int | None = None
    """Who, counted from 0 in order of appearance; None where voices are not told apart."""
    guessed: bool = False
    """Too short to tell whose voice it is: `voice` is a neighbour's."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    pieces: list[Piece]
    seconds: float
    """Length of the file, as far as it can be read."""
    has_sound: bool
    has_video: bool
    notes: list[str] = field(default_factory=list)
    """Sentences: what was odd about the file."""


def cut_into_utterances(
    path: str | Path,
    *,
    embed: EmbedVoices | None = None,
    tell_apart: TellVoicesApart | None = None,
    on_window: Callable[[float], None] = lambda seconds: None,
) -> Cut:
    """Cut the file at `path`. embed, tell_apart: see data_pipeline.speaker.voices; without them
    every voice is None. on_window: called with the seconds read so far.

    Raises MediaError where nothing of the file can be read.
    """
    heard = _listen(Path(path), None, embed, on_window)
    if not heard.pieces and heard.num_tracks > 1:  # as an extraction looks for another track
        others = [_listen(Path(path), n, embed, on_window) for n in range(heard.num_tracks)]
        heard = max(others, key=lambda other: sum(b - a for a, b in other.pieces))
    voices = [None] * len(heard.pieces)
    if tell_apart is not None:
        voices = tell_apart(heard.embeddings, [end - start for start, end in heard.pieces])
    heard_well = [embedding is not None for embedding in heard.embeddings]
    voiced = _padded(_utterances(heard.pieces, voices, heard_well), heard.seconds)
    silent = _silences(voiced, heard) if heard.has_video else []
    return Cut(
        pieces=sorted([*voiced, *silent], key=lambda piece: piece.start),
        seconds=heard.seconds,
        has_sound=heard.num_tracks > 0,
        has_video=heard.has_video,
        notes=heard.notes,
    )


@dataclass(kw_only=True)
class _Heard:
    """What one pass over a file found."""

    pieces: list[Span] = field(default_factory=list)
    """Of voice."""
    embeddings: list[np.ndarray | None] = field(default_factory=list)
    shots: list[float] = field(default_factory=list)
    """Where one begins, where nobody speaks."""
    gaps: list[Span] = field(default_factory=list)
    """Where nothing can be read."""
    seconds: float = 0.0
    num_tracks: int = 0
    """Of sound."""
    has_video: bool = False
    notes: list[str] = field(default_factory=list)


def _listen(
    path: Path,
    audio_track: int | None,
    embed: EmbedVoices | None,
    on_window: Callable[[float], None],
) -> _Heard:
    heard = _Heard()
    for start, media in _windows(path, audio_track, heard.notes):
        if start - heard.seconds > MIN_SILENCE_SECONDS:
            heard.gaps.append((heard.seconds, start))
            heard.notes.append(f"it can be read again from {start:.0f} s on")
        heard.num_tracks = max(heard.num_tracks, len(media.audio_tracks))
        if media.sound_T is not None:
            spans = voice_activity(media.sound_T).spans
            heard.pieces += [(start + a, start + b) for a, b in spans]
            heard.embeddings += (
                [None] * len(spans) if embed is None else embed(media.sound_T, spans)
            )
        heard.seconds = start + media.duration
        if media.has_video:
            heard.has_video = True
            if not _is_full_of_voice(heard.pieces, start, heard.seconds):
                heard.shots += [start + s for s in _shots(media, start, heard.notes)]
        on_window(heard.seconds)
    return heard


def _windows(
    path: Path, audio_track: int | None, notes: list[str]
) -> Iterator[tuple[float, ClipMedia]]:
    """The file's windows with their starts; those that cannot be read, but the first, are noted and
    passed over."""
    missing = 0.0
    for number in itertools.count():
        start = number * WINDOW_SECONDS
        clip = Clip(id="window", video=str(path), start=start, end=start + WINDOW_SECONDS)
        try:
            media = open_clip(
                clip,
                frames_per_second=SHOT_FRAMES_PER_SECOND,
                max_height=144,
                audio_track=audio_track,
            )
        except MediaError as error:
            if number == 0:
                raise
            if error.reason in ("empty_range", "too_short"):  # its end
                return
            if not missing:
                notes.append(f"from {start:.0f} s on it cannot be read: {error.detail}")
            missing += WINDOW_SECONDS
            if missing >= MAX_GAP_SECONDS:
                notes.append(f"it was looked at no further than {start + WINDOW_SECONDS:.0f} s")
                return
            continue
        missing = 0.0
        notes += [note for note in media.notes if note not in notes]
        yield start, media
        if media.duration < WINDOW_SECONDS - 1:  # its end
            return


def _is_full_of_voice(pieces: list[Span], start: float, end: float) -> bool:
    """Whether no silence between `start` and `end` is long enough to be cut at shots."""
    inside = [(max(a, start), min(b, end)) for a, b in pieces if b > start]
    edges = [start, *itertools.chain.from_iterable(inside), end]
    return all(b - a < MIN_SILENCE_SECONDS for a, b in zip(edges[::2], edges[1::2], strict=True))


def _shots(media: ClipMedia, start: float, notes: list[str]) -> list[float]:
    """Seconds at which a new shot begins; pictures that cannot be decoded show none."""
    finder = CutFinder()
    try:
        return [
            float(second)
            for window in media.windows()
            for frame_HW3, second in zip(window.frames_NHW3, window.seconds_N, strict=True)
            if finder.is_cut(frame_HW3)
        ]
    except MediaError as error:
        notes.append(f"from {start:.0f} s on its picture cannot be read: {error.detail}")
        return []


def _utterances(
    pieces: list[Span], voices: list[int | None], heard_well: list[bool]
) -> list[Piece]:
    """Pieces joined as far as voice and pauses allow."""
    groups: list[list[Span]] = []
    names: list[int | None] = []
    guessed: list[bool] = []
    for piece, voice, is_sure in zip(pieces, voices, heard_well, strict=True):
        pause = piece[0] - groups[-1][-1][1] if groups else np.inf
        if pause < SHORTEST_PAUSE_SECONDS or (pause <= MAX_PAUSE_SECONDS and voice == names[-1]):
            groups[-1].append(piece)  # below the least pause it is one piece, cut by a window
            guessed[-1] &= not is_sure
        else:
            groups.append([piece])
            names.append(voice)
            guessed.append(voice is not None and not is_sure)
    return [
        Piece(start=start, end=end, voiced=True, voice=voice, guessed=is_guessed)
        for group, voice, is_guessed in zip(groups, names, guessed, strict=True)
        for start, end in _short_enough(group)
    ]


def _short_enough(group: list[Span]) -> list[Span]:
    """One utterance, or several: cut at the longest pause as long as it is too long, and where
    there is no pause in the middle."""
    start, end = group[0][0], group[-1][1]
    if end - start <= MAX_SECONDS:
        return [(start, end)]
    if len(group) == 1:
        middle = (start + end) / 2
        return _short_enough([(start, middle)]) + _short_enough([(middle, end)])
    pauses = [b[0] - a[1] for a, b in itertools.pairwise(group)]
    at = int(np.argmax(pauses)) + 1
    return _short_enough(group[:at]) + _short_enough(group[at:])


def _padded(utterances: list[Piece], seconds: float) -> list[Piece]:
    """Each with its margins, MIN_SECONDS long where there is room; neighbours never meet."""
    found = []
    for n, u in enumerate(utterances):
        before = (utterances[n - 1].end + u.start) / 2 if n else 0.0
        after = (u.end + utterances[n + 1].start) / 2 if n + 1 < len(utterances) else seconds
        pad = max(PAD_SECONDS, (MIN_SECONDS - (u.end - u.start)) / 2)
        start, end = max(before, u.start - pad), min(after, u.end + pad)
        found.append(replace(u, start=round(start, 3), end=round(end, 3)))
    return found


def _silences(voiced: list[Piece], heard: _Heard) -> list[Piece]:
    """What lies between utterances, where it is long enough: cut at shots, then evenly."""
    taken = sorted([*((u.start, u.end) for u in voiced), *heard.gaps])
    edges = [0.0, *itertools.chain.from_iterable(taken), heard.seconds]
    found = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < MIN_SILENCE_SECONDS:
            continue
        inside = [s for s in heard.shots if start + MIN_SECONDS < s < end - MIN_SECONDS]
        for a, b in itertools.pairwise([start, *inside, end]):
            if b - a < MIN_SECONDS:
                continue
            count = int(np.ceil((b - a) / MAX_SILENCE_SECONDS))
            cuts = np.round(np.linspace(a, b, count + 1), 3).tolist()
            found += [Piece(start=x, end=y, voiced=False) for x, y in itertools.pairwise(cuts)]
    return found
