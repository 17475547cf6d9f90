"""A pruned BERT spells everything, and says of what it kept what the larger one says."""

import csv

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from data_pipeline.recipes.prune_bert import PruneError, main, texts_of

LETTERS = [c for c in "abcdefghijklmnopqrstuvwxyz.'[]"]
WORDS = ["the", "a", "i", "am", "jacket", "forget", "seldom", "happy", "sad", "##get", "##ly"]
VOCABULARY = [
    *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS if letter.isalpha()),
    *WORDS,
]


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("larger")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(str(folder))
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(VOCABULARY), num_hidden_layers=3, **sizes)
    BertModel(config).save_pretrained(str(folder))
    return folder


@pytest.fixture
def table(tmp_path):
    rows = [
        {"video": "a.mp4", "text": "I forget a jacket.", "split": "train"},
        {"video": "b.mp4", "text": "", "split": "train"},
        {"video": "c.mp4", "text": "seldom", "split": "test"},
    ]
    with open(tmp_path / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "clips.csv"


def test_what_is_kept_says_the_same_and_the_rest_is_spelled(larger, table, tmp_path, capsys):
    output = tmp_path / "small"
    command = [str(larger), "--table", str(table), "--frequent", "0", "--layers", "3"]
    assert main([*command, "--output", str(output)]) == 0
    assert "pieces and 3 layers in" in capsys.readouterr().out
    before, after = (AutoTokenizer.from_pretrained(str(f)) for f in (larger, output))
    assert after.is_fast and len(after) < len(before)
    text = "I forget a jacket. I am [MASK]."
    assert after.tokenize(text) == before.tokenize(text)
    assert after.tokenize("happy") == ["happy"], "words of prompts stay whole"
    assert after.tokenize("seldom") == ["s", "##e", "##l", "##d", "##o", "##m"]
    assert "seldom" not in after.get_vocab(), "what is judged decides nothing"
    with torch.inference_mode():
        said = [
            AutoModel.from_pretrained(str(folder)).eval()(**tokenizer(text, return_tensors="pt"))[0]
            for folder, tokenizer in ((larger, before), (output, after))
        ]
    torch.testing.assert_close(said[1], said[0])


def test_fewer_layers_are_the_lowest(larger, table, tmp_path):
    output = tmp_path / "small"
    command = [str(larger), "--table", str(table), "--layers", "1", "--output", str(output)]
    assert main(command) == 0
    small, large = (AutoModel.from_pretrained(str(folder)) for folder in (output, larger))
    assert len(small.encoder.layer) == small.config.num_hidden_layers == 1
    weight = "attention.self.query.weight"
    mine, theirs = (m.encoder.layer[0].get_parameter(weight) for m in (small, large))
    torch.testing.assert_close(mine, theirs)


def test_more_layers_than_there_are_and_a_table_without_text_are_one_message(
    larger, table, tmp_path, capsys
):
    command = [str(larger), "--table", str(table), "--output", str(tmp_path / "small")]
    assert main([*command, "--layers", "4"]) == 2
    assert "of 3 layers; expected a bert of 4 or more" in capsys.readouterr().err
    table.write_text("video,text,split\na.mp4,hello,test\n")
    with pytest.raises(PruneError, match="no row with a text"):
        texts_of(table)
