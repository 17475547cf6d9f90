"""The card beside a recognizer says what its run knows, and what is not stated."""

import dataclasses

import pytest
import toys
from huggingface_hub import ModelCard

from data_pipeline.shards import write_shard
from finetune.card import recognizer_card
from finetune.recognizer import load_recognizer, told_of
from finetune.run import main
from finetune.runs.results import read_rows, run_folder

from .conftest import PASSPORT, make_clips


@pytest.fixture(scope="module")
def cards(tmp_path_factory, checkpoint, bert):
    """Setting to (row, card, folder) on clips that say they are CREMA-D's and someone's."""
    top = tmp_path_factory.mktemp("cards")
    (top / "shards").mkdir()
    clips = [
        dataclasses.replace(c, meta=c.meta | {"corpus": "mine" if n < 8 else "cremad"})
        for n, c in enumerate(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    ]
    spec = dataclasses.replace(PASSPORT["speech"], name="facebook/wav2vec2-base")
    write_shard(top / "shards", 0, clips, [], PASSPORT | {"speech": spec}, {}, "toy")
    arguments = [
        *(f"data.shards=[{top / 'shards'}]", f"model.checkpoint={checkpoint}", "folds=[1]"),
        *("own_settings.mine={system: own.nearest_mean, options: {scale: 0.5}}", *toys.FAST),
        *("settings=[direct, bert_direct, pretrain_prompt, mine]", f"model.bert={bert}"),
        *("plans.bert_direct.num_steps=2", f"output={top / 'out'}"),
    ]
    assert main(arguments) == 0
    found = {}
    for row in read_rows(top / "out"):
        run = run_folder(top / "out", row.setting, row.fold, row.seed, row.recipe)
        text = (run / "recognizer" / "README.md").read_text(encoding="utf-8")
        found[row.setting] = (row, text, run / "recognizer")
    return found


def test_it_has_the_figures_with_intervals_and_the_oracles_for_people_and_the_hub(cards):
    for setting in ("direct", "pretrain_prompt"):
        row, text, folder = cards[setting]
        assert f"# Emotion recognizer: {setting}, fold 1, seed 1" in text
        assert (
            f"| UA | {row.ua:.1%} | {row.ua_low:.1%} to {row.ua_high:.1%} | {row.oracle_ua:.1%} |"
        ) in text
        assert "never an honest number" in text
        data = ModelCard(text).data
        assert data.library_name == "memobert" and data.license == "other"
        values = {result.metric_name: result.metric_value for result in data.eval_results}
        assert values == {
            "WA": round(row.wa, 4),
            "UA": round(row.ua, 4),
            "Macro-F1": round(row.macro_f1, 4),
        }
        assert load_recognizer(folder).classes == ("anger", "happy", "neutral", "sad")


def test_it_names_clips_folds_and_what_the_weights_started_from(cards, bert):
    row, text, _ = cards["pretrain_prompt"]
    for known in (
        *(row.data_sha256, row.fold_file_sha256, row.checkpoint_sha256, row.git_commit),
        "| corpus | cremad+mine |",
        "24 of 24 clips in use: anger 6, happy 6, neutral 6, sad 6",
        "| test | 8 | judged | mine/0 |",
        "| dev | 8 | chose the step | cremad/2 |",
        "A MEmoBERT checkpoint; its own card says how it was pretrained",
        "Test clips that pretraining read, without their labels: not known.",
        f"Step {row.step}, chosen on dev",
    ):
        assert known in text, known
    assert "It learns without steps." in cards["mine"][1]
    assert "| dev | 8 | not used | cremad/2 |" in cards["mine"][1]
    assert "No pretrained MEmoBERT: new weights." in cards["direct"][1]
    assert f"No pretrained MEmoBERT: the text side is that of {bert}." in cards["bert_direct"][1]


def test_it_says_under_which_terms_it_stands_or_that_they_are_not_stated(cards):
    _, text, _ = cards["pretrain_prompt"]
    terms = text.partition("## Licences and terms")[2].strip().splitlines()[2:]
    assert terms == [
        "- corpus cremad: ODbL 1.0, its contents DbCL 1.0: keep the attribution (Cao et al. 2014)",
        "- corpus mine: not stated; ask its owner",
        "- encoder toy_face: not stated; ask its owner",
        "- encoder toy_speech: not stated; ask its owner",
        "- text side of the checkpoint, bert-base-uncased: Apache-2.0",
        "- clips that the checkpoint was pretrained on: not stated in the checkpoint",
    ]
    _, mine, _ = cards["mine"]
    assert "- encoder facebook/wav2vec2-base: Apache-2.0" in mine
    assert "checkpoint was pretrained" not in mine and "| UA | 100.0% |" in mine


def test_one_without_a_run_says_what_it_knows(cards):
    text = recognizer_card(told_of(cards["direct"][2]))
    assert "## Figures" not in text and "| face | toy_face | 342 | 10 |" in text
    assert "- the clips that it learned from: not stated; ask its owner" in text
    assert ModelCard(text).data.eval_results is None
