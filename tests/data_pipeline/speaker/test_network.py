import numpy as np
import pytest
import torch

from data_pipeline.config import ConfigError
from data_pipeline.extraction.config import DataConfig
from data_pipeline.faces.finder import FaceFinder
from data_pipeline.files.weights import WeightsError
from data_pipeline.media.clip_media import open_clip
from data_pipeline.schema import Clip
from data_pipeline.settings import SpeakerSettings
from data_pipeline.speaker.asd_networks import LRASD, LightASD, load_speaker_network
from data_pipeline.speaker.network import SpeakerEvidence, cepstra, nearest
from data_pipeline.speaker.voice import VoiceActivity, voice_activity

FILES = ("light_asd/pretrain_AVA_CVPR.model", "lr_asd/pretrain_AVA.model")
ALL_FILES = (*FILES, "light_asd/finetuning_TalkSet.model", "lr_asd/finetuning_TalkSet.model")


def test_cepstra_are_those_of_python_speech_features():
    """mfcc(signal, 16000)[3] of version 0.6, of a quarter second of 440 Hz in 16 bits."""
    at = np.arange(4000) / 16_000
    sound = np.round(0.3 * np.sin(2 * np.pi * 440 * at) * 32768) / 32768
    found = cepstra(sound.astype(np.float32))
    golden = [19.478, 26.052, 9.419, -7.551, -21.886, -29.196, -25.872]
    golden += [-15.212, -0.186, 12.474, 19.987, 19.108, 12.276]
    assert found.shape == (24, 13)
    assert found[3] == pytest.approx(golden, abs=2e-3)
    assert np.isfinite(cepstra(np.zeros(5, np.float32))).all()


def test_nearest_frames():
    at = np.array([0.0, 0.04, 0.2])
    assert nearest(at, np.array([0.0, 0.03, 0.11, 0.13, 9.0])).tolist() == [0, 1, 1, 2, 2]
    assert nearest(at[:1], np.array([0.0, 1.0])).tolist() == [0, 0]


@pytest.mark.parametrize("network", [LightASD, LRASD])
def test_networks_give_one_number_a_frame(network):
    net = network().eval()
    with torch.inference_mode():
        face, sound = net.face(torch.zeros(1, 7, 112, 112)), net.sound(torch.zeros(1, 28, 13))
        assert face.shape == sound.shape == (1, 7, 128)
        assert net(face, sound).shape == (1, 7)


def test_other_weights_are_told(tmp_path):
    with pytest.raises(WeightsError, match="no file"):
        load_speaker_network(tmp_path / "gone.model")
    (tmp_path / "text.model").write_text("hello")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_speaker_network(tmp_path / "text.model")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.model")
    with pytest.raises(WeightsError, match="neither Light-ASD's nor LR-ASD's"):
        load_speaker_network(tmp_path / "other.model")


def test_the_network_that_is_heard_stands_in_the_settings_by_its_weights(tmp_path):
    """Another file's name with the same weights makes the same shards; other weights do not."""

    def settings(network: str | None) -> dict:
        speaker = SpeakerSettings(network=network)
        return DataConfig(clips="c.csv", output="out", active_speaker=speaker).settings()

    for name, weights in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(weights)
    a, b, c = (settings(str(tmp_path / name)) for name in "abc")
    assert a == b != c and a != settings(None)
    with pytest.raises(ConfigError, match="gone: there is no such file"):
        settings(str(tmp_path / "gone"))


@pytest.mark.parametrize("name", ALL_FILES)
def test_published_weights_load_strictly(shared_data, name):
    network = load_speaker_network(shared_data / "weights" / name)
    assert isinstance(network, LightASD if name.startswith("light") else LRASD)
    state = torch.load(shared_data / "weights" / name, map_location="cpu", weights_only=True)
    assert {k for k in state if k not in network.state_dict()} == {
        "lossV.FC.weight",
        "lossV.FC.bias",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_real_face_speaks_with_its_own_sound(shared_data, name):
    """And less so with another's, with silence, or with the picture standing still."""
    finder = FaceFinder(pictures=True)
    media, other = (
        open_clip(Clip(id="x", video=str(shared_data / f"grid_multi/clips/{clip}.mpg")))
        for clip in ("bbaf2n", "lwbsza")
    )
    (face,) = finder.find(media)
    evidence = SpeakerEvidence(shared_data / "weights" / name)
    voice, seconds = voice_activity(media.sound_T), face.track.seconds_F.astype(float)
    own = evidence.score(face.picture_FHW, seconds, media.sound_T, voice)
    assert own > 3
    theirs = evidence.score(face.picture_FHW, seconds, other.sound_T, voice_activity(other.sound_T))
    still = np.repeat(face.picture_FHW[:1], len(face.picture_FHW), axis=0)
    assert own > theirs + 1
    assert own > evidence.score(still, seconds, media.sound_T, voice) + 3
    assert own > evidence.score(face.picture_FHW, seconds, 0 * media.sound_T, voice) + 3
    nobody = VoiceActivity(spans=[])
    assert evidence.score(face.picture_FHW, seconds, media.sound_T, nobody) is None
