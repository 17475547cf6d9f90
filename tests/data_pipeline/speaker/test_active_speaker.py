import json
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipeline.faces.finder import FaceFinder, TrackedFace
from data_pipeline.media.clip_media import open_clip
from data_pipeline.recipes.lip_sync import fit
from data_pipeline.schema import SAMPLE_RATE, Clip, FaceTrack
from data_pipeline.speaker import active_speaker
from data_pipeline.speaker.active_speaker import (
    FaceCounts,
    SpeakerSettings,
    choose_speaker,
    decide,
    rank_scores,
)
from data_pipeline.speaker.network import Joint
from data_pipeline.speaker.voice import VoiceActivity, voice_activity

RATE = 25


def syllables(seconds: float, seed: int) -> np.ndarray:
    """[N] loudness of made-up speech at 25 per second: humps at uneven distances."""
    rng = np.random.default_rng(seed)
    at = np.arange(int(seconds * RATE)) / RATE
    centers = np.cumsum(rng.uniform(0.2, 0.5, int(seconds * 4)))
    return sum(np.exp(-(((at - c) / 0.06) ** 2)) for c in centers)


def sound_of(loud_N: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(9)
    count = len(loud_N) * SAMPLE_RATE // RATE
    level = np.interp(np.arange(count) / SAMPLE_RATE, np.arange(len(loud_N)) / RATE, loud_N)
    return (0.1 * level * rng.standard_normal(count)).astype(np.float32)


def face_of(loud_N: np.ndarray, *, still: bool = False) -> TrackedFace:
    """A face whose lips flap as loudly as `loud_N`; noise everywhere."""
    rng = np.random.default_rng(4)
    count = len(loud_N)
    skin = 120 + 30 * np.kron(rng.normal(0, 1, (9, 12)), np.ones((4, 4)))
    upper = skin + rng.normal(0, 1.5, (count, 36, 48))
    mouth = skin[::-1] + rng.normal(0, 1.5, (count, 36, 48))
    if not still:
        flap = loud_N * np.where(np.arange(count) % 2, 1, -1) * 40
        mouth[:, 14:24, 12:36] -= flap[:, None, None]
    at = np.arange(count) / RATE
    return TrackedFace(
        track=FaceTrack(
            seconds_F=at.astype(np.float32),
            boxes_F4=np.zeros((count, 4), np.float32),
            points_F52=np.zeros((count, 5, 2), np.float32),
            confidence_F=np.ones(count, np.float32),
            frame_F=np.arange(count),
        ),
        crops_KHW=np.zeros((1, 64, 64), np.uint8),
        crop_seconds_K=np.zeros(1, np.float32),
        mouth_FHW=np.clip(mouth, 0, 255).astype(np.uint8),
        upper_FHW=np.clip(upper, 0, 255).astype(np.uint8),
    )


def voiced(*spans: tuple[float, float]) -> VoiceActivity:
    return VoiceActivity(spans=list(spans))


LOUD, OTHER = syllables(3, 1), syllables(3, 2)
VOICE = voiced((0.2, 2.8))
DEFAULT = SpeakerSettings()


@pytest.fixture(scope="module")
def model():
    """Maps fitted to the made-up faces, which no real mouth looks like."""
    return fit([(face_of(x), sound_of(x)) for x in (syllables(3, n) for n in range(10, 30))])


@pytest.fixture
def flaps(model, monkeypatch) -> None:
    monkeypatch.setattr(active_speaker, "load_lip_sync", lambda: model)


def test_the_one_who_moves_speaks(flaps):
    faces = [face_of(LOUD, still=True), face_of(LOUD)]
    choice = choose_speaker(faces, VOICE, sound_of(LOUD), DEFAULT)
    assert (choice.index, choice.reason) == (1, "only_mover")
    assert choice.score > 0.5 and len(choice.counts) == 2
    assert choice.counts[0].match_share < 0.05 < 0.5 < choice.counts[1].match_share


def test_of_two_who_move_the_one_in_step_speaks(flaps):
    for speaker, loud in ((0, LOUD), (1, OTHER)):
        choice = choose_speaker([face_of(LOUD), face_of(OTHER)], VOICE, sound_of(loud), DEFAULT)
        assert (choice.index, choice.reason) == (speaker, "most_in_step")


def test_a_still_face_does_not_speak_even_alone(flaps):
    choice = choose_speaker([face_of(LOUD, still=True)], VOICE, sound_of(LOUD), DEFAULT)
    assert (choice.index, choice.score, choice.reason) == (None, 0.0, "no_mouth_movement")


def test_lips_out_of_step_are_somebody_elses_voice(flaps):
    """The lips get livelier while the voice dies away."""
    rising = np.linspace(0.3, 1.2, 75)
    choice = choose_speaker([face_of(rising)], VOICE, sound_of(rising[::-1]), DEFAULT)
    assert (choice.index, choice.reason) == (None, "off_screen_voice")


def test_nobody_and_why():
    face, sound = face_of(LOUD), sound_of(LOUD)
    assert choose_speaker([], VOICE, sound, DEFAULT).reason == "no_face"
    assert choose_speaker([face], VOICE, None, DEFAULT).reason == "no_sound"
    assert choose_speaker([face], voiced(), sound, DEFAULT).reason == "no_voice"
    assert choose_speaker([face], voiced((1.0, 1.05)), sound, DEFAULT).reason == "no_voice"
    # A voice before the face comes into view.
    late = face_of(LOUD)
    late.track.seconds_F[:] += 3
    assert choose_speaker([late], voiced((0.0, 1.0)), sound, DEFAULT).reason == "no_mouth_movement"


@pytest.mark.parametrize("frames", [1, 2, 5, 7])
def test_very_short_clips_are_defined(frames):
    """Under 0.3 s nothing can be in step: movement decides."""
    face = face_of(np.ones(frames))
    still = face_of(np.ones(frames), still=True)
    sound = sound_of(np.ones(frames))
    choice = choose_speaker([still, face], voiced((0.0, 1.0)), sound, DEFAULT)
    assert choice.counts[1].synchrony is None
    assert choice.index in ((None,) if frames == 1 else (1, None))
    assert choose_speaker([still], voiced((0.0, 1.0)), sound, DEFAULT).index is None


def test_counts_strategy_ranks_as_the_reference_does(flaps):
    def counts(open_, change, match):
        return FaceCounts(
            open=open_, change=change, match=match, match_share=1.0, movement=0.0, synchrony=None
        )

    scores = rank_scores([counts(9, 5, 40), counts(9, 7, 30), counts(2, 6, 20)])
    half, third = 1 / np.sqrt(2), 1 / np.sqrt(3)
    assert scores == pytest.approx([1 + third + 1, 1 + 1 + half, half + half + third])
    settings = SpeakerSettings(strategy="counts")
    faces = [face_of(0.7 * LOUD), face_of(1.5 * LOUD), face_of(LOUD, still=True)]
    choice = choose_speaker(faces, VOICE, sound_of(LOUD), settings)
    assert (choice.index, choice.reason) == (1, "most_counts")
    with pytest.raises(ValueError, match="synchrony, counts"):
        SpeakerSettings(strategy="loudest")


def heard(synchrony: float | None, network: float | None) -> FaceCounts:
    return FaceCounts(
        open=9,
        change=9,
        match=9,
        match_share=0.5,
        movement=0.1,
        synchrony=synchrony,
        network=network,
    )


@pytest.mark.parametrize(
    ("faces", "index"),
    [
        ([heard(0.5, 1.9)], None),  # a muted face that fits by chance: the network says no
        ([heard(-0.1, 9.0)], None),  # a lively face against the sound
        ([heard(0.2, 3.0), heard(0.1, 5.0)], 1),  # 0.5 against 0.6
        ([heard(0.5, 1.9), heard(0.1, 2.0)], 1),
        ([heard(0.05, None), heard(None, None)], 1),  # too short for the network, and for both
        ([heard(0.3, None), heard(None, None)], 0),
    ],
)
def test_synchrony_and_a_network_are_heard_together(monkeypatch, faces, index):
    evidence = SimpleNamespace(joint=Joint(weight=0.1, min_log_odds=2.0))
    monkeypatch.setattr(active_speaker, "load_evidence", lambda path: evidence)
    settings = SpeakerSettings(network="some.model")
    choice = decide(faces, VOICE, sound_of(LOUD), settings)
    assert choice.index == index
    assert index is not None or choice.reason == "off_screen_voice"


def test_a_network_wants_pictures_of_the_whole_face_and_the_strategy_that_hears_it(flaps):
    with pytest.raises(ValueError, match="pictures=True"):
        choose_speaker(
            [face_of(LOUD)], VOICE, sound_of(LOUD), SpeakerSettings(network="some.model")
        )
    with pytest.raises(ValueError, match="expected network=null"):
        SpeakerSettings(network="some.model", strategy="counts")


@pytest.mark.slow
def test_a_muted_face_that_fits_by_chance_is_rejected_with_a_network(shared_data):
    """A RAVDESS actor's lips under the voice of a GRID speaker: taken by synchrony alone."""
    finder = FaceFinder(pictures=True)
    actor = shared_data / "ravdess_video/01-01-01-01-01-01-01.mp4"
    face_clip = open_clip(Clip(id="x", video=str(actor), start=0.16))
    voice_path = shared_data / "grid_multi/clips/lbax4n.mpg"
    voice_clip = open_clip(Clip(id="x", video=str(voice_path), start=0.32))
    faces, sound = finder.find(face_clip), voice_clip.sound_T
    voice = voice_activity(sound)
    assert choose_speaker(faces, voice, sound, DEFAULT).index == 0
    network = str(shared_data / "weights/light_asd/pretrain_AVA_CVPR.model")
    settings = SpeakerSettings(network=network)
    assert choose_speaker(faces, voice, sound, settings).index is None
    own = face_clip.sound_T
    assert choose_speaker(faces, voice_activity(own), own, settings).index == 0


def test_is_deterministic(flaps):
    faces, sound = [face_of(LOUD), face_of(OTHER)], sound_of(LOUD)
    first, second = (choose_speaker(faces, VOICE, sound, DEFAULT) for _ in "ab")
    assert first == second


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


def choice_of(path, finder, **span):
    media = open_clip(Clip(id="x", video=str(path), **span))
    faces = finder.find(media)
    return faces, choose_speaker(faces, voice_activity(media.sound_T), media.sound_T, DEFAULT)


@pytest.mark.parametrize("turn", [(0.0, 3.0), (3.0, 6.0)])
def test_a_real_turn_and_a_real_voice_from_elsewhere(shared_data, finder, turn):
    folder = shared_data / "asd_composites"
    (video,) = (v for v in json.loads((folder / "labels.json").read_text()) if "off" in v["kind"])
    (segment,) = (s for s in video["segments"] if s["turn_start"] == turn[0])
    path = next(folder.rglob(video["file"]))
    faces, choice = choice_of(path, finder, start=turn[0], end=turn[1])
    assert len(faces) == 2
    if segment["active_panel"] is None:
        assert choice.index is None
    else:
        box = faces[choice.index].track.boxes_F4.mean(axis=0)
        assert int((box[0] + box[2]) / 2 // 360) == segment["active_panel"]


@pytest.mark.parametrize(
    "path",
    [
        "grid_s1/clips/bbaf2n.mp4",
        "cremad/clips/1001_DFA_ANG_XX.flv",
        pytest.param("ravdess_video/01-01-01-01-01-01-01.mp4", marks=pytest.mark.slow),
        pytest.param("talking_heads/clips/interview_a.mp4", marks=pytest.mark.slow),
    ],
)
def test_real_single_people_are_their_own_speakers(shared_data, finder, path):
    faces, choice = choice_of(shared_data / path, finder, end=3.0)
    assert len(faces) == 1 and choice.index == 0, choice


@pytest.mark.parametrize("name", ["pexels_crying_woman", "single_face"])
def test_real_faces_without_speech_are_nobody(shared_data, finder, name):
    _, choice = choice_of(shared_data / f"expression_videos/clips/{name}.mp4", finder, end=2.0)
    assert choice.index is None and choice.reason == "no_voice"
