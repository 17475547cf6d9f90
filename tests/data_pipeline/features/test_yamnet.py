"""YAMNet: windows by its own rule, and its layers computed a second time, by numpy and torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_pipeline.config import ConfigError, check_settings
from data_pipeline.features.extractors import Evidence, extract
from data_pipeline.features.yamnet import HOP, WIDTH, WINDOW, Settings, load, windows
from data_pipeline.files.weights import WeightsError
from data_pipeline.schema import ClipSample

pytest.importorskip("ai_edge_litert", reason="extra `stories` is not installed")


@pytest.fixture(scope="module")
def weights(shared_data):
    return shared_data / "weights/yamnet/yamnet.tflite"


@pytest.fixture(scope="module")
def yamnet(weights):
    return load(Settings(weights=str(weights)), "cpu")


def chirp(seconds: float) -> np.ndarray:
    times_T = np.arange(round(16_000 * seconds)) / 16_000
    noise_T = np.random.default_rng(0).normal(size=len(times_T))
    return (0.3 * np.sin(2 * np.pi * (200 + 900 * times_T) * times_T) + 0.02 * noise_T).astype("f4")


@pytest.mark.parametrize(
    ("samples", "count"),
    [(0, 0), (1, 1), (WINDOW, 1), (WINDOW + 1, 2), (WINDOW + HOP, 2), (WINDOW + HOP + 1, 3)],
)
def test_all_of_a_sound_is_in_a_window_and_the_last_ends_in_zeros(samples, count):
    sound_T = np.arange(1, samples + 1, dtype=np.float32)
    found_NW = windows(sound_T)
    assert found_NW.shape == (count, WINDOW) and found_NW.dtype == np.float32
    for n, window_W in enumerate(found_NW):
        there_W = sound_T[n * HOP : n * HOP + WINDOW]
        assert np.array_equal(window_W[: len(there_W)], there_W)
        assert not window_W[len(there_W) :].any()
    if count:
        assert samples <= (count - 1) * HOP + WINDOW < samples + HOP or count == 1


def test_its_rows_keep_to_the_passport(yamnet):
    sound_T = chirp(2.0)
    stream = extract_one(yamnet, sound_T)
    assert len(stream) == 4  # 32000 samples: 1 + ceil(16400 / 7680)
    assert stream.seconds_N == pytest.approx([0, 0.48, 0.96, 1.44])
    ClipSample(id="a", streams={"yamnet": stream}).check(yamnet.passport)
    assert len(yamnet.passport["yamnet"].weights_sha256) == 64
    again = extract_one(yamnet, sound_T[HOP : HOP + WINDOW])
    assert np.array_equal(again.values_ND[0], stream.values_ND[1])  # of its window alone
    padded = np.zeros(WINDOW, np.float32)
    padded[:4800] = sound_T[:4800]
    short, long = extract_one(yamnet, sound_T[:4800]), extract_one(yamnet, padded)
    assert len(short) == 1 and np.array_equal(short.values_ND, long.values_ND)
    assert extract("yamnet", yamnet, Evidence()) == {}
    assert yamnet(Evidence(sound_T=np.zeros(0, np.float32))) == {}
    assert np.isfinite(extract_one(yamnet, np.zeros(16_000, np.float32)).values_ND).all()


def extract_one(yamnet, sound_T):
    return extract("yamnet", yamnet, Evidence(sound_T=sound_T))["yamnet"]


def log_mel(window_W: np.ndarray) -> np.ndarray:
    """[96, 64] by YAMNet's description: periodic Hann of 25 ms every 10 ms, magnitudes of a DFT of
    512, 64 triangles of HTK's mel from 125 to 7500 Hz, log of the sum and 0.001."""
    frames = np.lib.stride_tricks.sliding_window_view(window_W, 400)[::160]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    magnitude = np.abs(np.fft.rfft(frames * hann, 512))
    mel = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    rise = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    weight = np.maximum(0, np.minimum(rise, fall))
    weight[0] = 0
    return np.log(magnitude @ weight + 0.001)


def by_torch(interpreter, mel: np.ndarray) -> np.ndarray:
    """[1024]: the file's weights in torch's convolutions: "same" padding, ReLU after each, mean."""
    details = {d["index"]: d for d in interpreter.get_tensor_details()}

    def tensor(index):
        found = interpreter.get_tensor(index).astype(np.float32)
        scales = details[index]["quantization_parameters"]["scales"]
        raw = details[index]["dtype"] == np.int8
        return torch.from_numpy(found * scales[0] if raw else found)

    x_1CTF = torch.from_numpy(mel.astype(np.float32))[None, None]
    for op in interpreter._get_ops_details():
        if op["op_name"] not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            continue
        _, kernel, bias = op["inputs"]
        deep = op["op_name"] == "DEPTHWISE_CONV_2D"
        weight = tensor(kernel).permute(3, 0, 1, 2) if deep else tensor(kernel).permute(0, 3, 1, 2)
        size, time = weight.shape[-1], x_1CTF.shape[2]
        stride = time // details[op["outputs"][0]]["shape"][1]
        pad = max(0, size - stride)  # as sizes are multiples of the stride
        x_1CTF = F.pad(x_1CTF, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
        groups = weight.shape[0] if deep else 1
        x_1CTF = F.relu(F.conv2d(x_1CTF, weight, tensor(bias), stride=stride, groups=groups))
    return x_1CTF.mean((2, 3))[0].numpy()


def inside(yamnet, window_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log-mel [96, 64] that the model made of a window, and its row."""
    row_D = extract_one(yamnet, window_W).values_ND[0].astype(np.float32)
    _, mel = yamnet.interpreter.get_output_details()
    return yamnet.interpreter.get_tensor(mel["index"]), row_D


def test_its_log_mel_computed_a_second_time_is_the_same(yamnet):
    """Of noise, which is loud in all bands: the file's DFT is of 8 bits, and what is 40 dB below
    the loudest is lost in it."""
    noise_T = 0.1 * np.random.default_rng(0).normal(size=WINDOW).astype(np.float32)
    found, _ = inside(yamnet, noise_T)
    mine = log_mel(noise_T)
    assert found.shape == mine.shape == (96, 64)
    assert np.median(np.abs(found - mine)) < 0.01
    assert np.corrcoef(found.ravel(), mine.ravel())[0, 1] > 0.999


def test_its_layers_computed_a_second_time_come_to_the_same_row(yamnet):
    """As near as TensorFlow Lite lets them: it rounds what meets a matrix of 8 bits to 8 too."""
    mel, found_D = inside(yamnet, windows(chirp(1.5))[0])
    mine_D = by_torch(yamnet.interpreter, mel)
    assert mine_D.shape == found_D.shape == (WIDTH,)
    assert (found_D > 0).mean() > 0.05
    assert np.corrcoef(mine_D, found_D)[0, 1] > 0.99


def test_what_is_no_yamnet_is_told(tmp_path, weights):
    def message(path):
        with pytest.raises(WeightsError) as caught:
            load(Settings(weights=str(path)), "cpu")
        return str(caught.value)

    assert "no such file; expected yamnet.tflite" in message(tmp_path / "absent.tflite")
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(weights.read_bytes()[:1000])
    assert "no whole TensorFlow Lite file" in message(cut)
    cut.write_bytes(b"")
    assert "no whole TensorFlow Lite file" in message(cut)
    with pytest.raises(ConfigError, match="streams.yamnet.weights"):
        check_settings(Settings, {}, "streams", "yamnet")
