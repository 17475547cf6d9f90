import dataclasses

import numpy as np
import toys

from pretrain.data.columns import from_columns, to_columns
from pretrain.data.example import Limits, make_example
from pretrain.data.masking import MaskingSettings, random_generator
from pretrain.objectives import OBJECTIVES


def test_examples_come_back_as_they_were(bert_tokenizer):
    """Of every objective, without text, without face, and with streams in another order."""
    clips = [toys.numbered(n, face=n % 3 > 0, text="" if n % 4 else None) for n in range(24)]
    examples = []
    for number, clip in enumerate(clips):
        can = [n for n, o in OBJECTIVES.items() if clip.has(o.stream) and clip.has(o.target)]
        settings = Limits(), can[number % len(can)], MaskingSettings()
        examples.append(make_example(clip, bert_tokenizer, *settings, random_generator(number)))
    frames = dict(reversed(examples[1].frames.items()))
    examples[1] = dataclasses.replace(examples[1], frames=frames)
    assert {e.objective for e in examples} == set(OBJECTIVES)
    for found, expected in zip(from_columns(to_columns(examples)), examples, strict=True):
        assert (found.id, found.objective) == (expected.id, expected.objective)
        assert list(found.frames) == list(expected.frames)
        pairs = [(found.ids_T, expected.ids_T), (found.target_at_M, expected.target_at_M)]
        pairs += [(found.target_values, expected.target_values)]
        assert (found.target_word_M is None) == (expected.target_word_M is None)
        if expected.target_word_M is not None:
            pairs += [(found.target_word_M, expected.target_word_M)]
        for name, one in found.frames.items():
            fields = (f.name for f in dataclasses.fields(one))
            pairs += [(getattr(one, f), getattr(expected.frames[name], f)) for f in fields]
        for a, b in pairs:
            assert a.dtype == b.dtype and np.array_equal(a, b)
