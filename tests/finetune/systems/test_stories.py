"""Stories go through the doors that MEmoBERT uses: judged for each target, saved, loaded, asked."""

import csv
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import toys

from data_pipeline.features.fbank import Fbank
from data_pipeline.features.fbank import Settings as FbankSettings
from data_pipeline.schema import ClipSample, FeatureSpec, SchemaError, Stream
from data_pipeline.shards import write_shard
from finetune.compare.__main__ import main as compare
from finetune.recognizer import RecognizerError, load_recognizer
from finetune.run import main
from finetune.runs.results import read_rows

pytest.importorskip("skops", reason="extra `stories` is not installed")

LEVELS = ("low", "medium", "high")
RATED = "labels: {low: [low], medium: [medium], high: [high]}"
TARGETS = ", ".join(f"{x}: {{label_column: {x}, {RATED}}}" for x in ("valence", "arousal"))
HEARD = FeatureSpec(
    name="toy", weights_sha256="", layer=0, pooling=1, rate_hz=2.0, width=6, preprocessing="toy"
)
SAID = dataclasses.replace(HEARD, rate_hz=1.0, width=5)
PASSPORT = {"heard": HEARD, "said": SAID}


def make_clips(*, num_speakers=6, stories=9, signal=2.0, seed=0):
    """Stories of two or three clips; arousal is heard, valence is said."""
    rng = np.random.default_rng(seed)
    clips = []
    for speaker in range(num_speakers):
        for story in range(stories):
            valence, arousal = story % 3, (story // 3 + speaker) % 3
            for number in range(2 + story % 2):
                heard = rng.normal(size=(rng.integers(2, 6), HEARD.width))
                said = rng.normal(size=(1, SAID.width))
                heard[:, arousal] += signal
                said[:, valence] += signal
                clips.append(
                    ClipSample(
                        id=f"toy-{speaker}-{story}-{number}",
                        text="so",
                        words=["so"],
                        streams={"heard": stream(heard, HEARD), "said": stream(said, SAID)},
                        meta={
                            "corpus": "toy",
                            "speaker": str(speaker),
                            "recording": f"r{speaker}.{story}",
                            "label": "any",
                            "start": 0.0,
                            "end": 1.0 + number,
                            "columns": {"valence": LEVELS[valence], "arousal": LEVELS[arousal]},
                        },
                    )
                )
    return clips


def stream(values_ND, spec):
    return Stream(values_ND=values_ND.astype(np.float16), seconds_N=spec.seconds(len(values_ND)))


def put(folder, clips, passport=None):
    folder.mkdir()
    write_shard(folder, 0, clips, [], passport or PASSPORT, {}, "toy")
    return folder


def run(shards, output, *settings, options="", **own):
    own = own or {"mine": f"options: {{models: [svm, logistic]{options}}}"}
    return main(
        [
            *(f"data.shards=[{shards}]", f"output={output}", "data.modalities=[heard, said]"),
            *("model.checkpoint=null", "folds=[0]", *toys.FAST, f"targets={{{TARGETS}}}"),
            f"settings=[{', '.join(own)}]",
            *(f"own_settings.{n}={{system: stories, {said}}}" for n, said in own.items()),
            *settings,
        ]
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return put(tmp_path_factory.mktemp("stories") / "shards", make_clips())


def predictions(folder):
    with open(folder / "predictions.csv") as file:
        return {line["clip"]: line for line in csv.DictReader(file)}


def test_both_targets_of_one_command_are_judged_each_by_its_own_labels(tmp_path, shards, capsys):
    models = "models: [svm, logistic, forest, boosting]"
    own = {"four": f"options: {{{models}}}"}
    assert run(shards, tmp_path / "out", "evaluate_cases=seven", **own) == 0
    truths = {}
    for target, shown_in in (("valence", "said"), ("arousal", "heard")):
        (row,) = read_rows(tmp_path / "out" / target)
        assert (row.system, row.head) == ("stories", "svm+logistic+forest+boosting")
        assert row.modalities == "heard+said" and row.num_classes == 3 and row.ua > 0.7
        assert row.num_test == 18 and row.step in (1, 2, 3, 4)  # stories of two speakers, not clips
        assert row.oracle_ua >= row.ua and row.selection_ua is not None
        (folder,) = (tmp_path / "out" / target).glob("runs/four/*")
        cases = {x["case"]: x for x in json.loads((folder / "cases.json").read_text())
                 if x["split"] == "test"}  # fmt: skip
        hidden = {"said": "heard", "heard": "said"}[shown_in]
        assert cases[shown_in]["ua"] > 0.6 > cases[hidden]["ua"]
        truths[target] = {clip: line["truth"] for clip, line in predictions(folder).items()}
    assert truths["valence"].keys() == truths["arousal"].keys()
    assert truths["valence"] != truths["arousal"]
    out = tmp_path / "out"
    assert compare([f"{out}/valence:four", f"{out}/arousal:four"]) == 2
    assert "not the same ones with the same labels" in capsys.readouterr().err
    assert (out / "valence/table.md").is_file() and not (out / "table.md").exists()
    assert run(shards, out, "evaluate_cases=seven", **own) == 0
    assert "1 have results already" in capsys.readouterr().out


def test_what_it_learned_is_loaded_again_elsewhere(tmp_path, shards):
    own = {
        name: f"options: {{models: [{name}]}}" for name in ("svm", "logistic", "forest", "boosting")
    }
    assert run(shards, tmp_path / "out", **own) == 0
    script = (
        "import sys, json\n"
        "from finetune.recognizer import load_recognizer\n"
        "for folder in sys.argv[2:]:\n"
        "    it = load_recognizer(folder)\n"
        "    found = it.predict_stories(list(it.read(sys.argv[1])))\n"
        "    print(json.dumps({name: row.tolist() for name, row in found.items()}))\n"
    )
    folders = [next(tmp_path.glob(f"out/valence/runs/{name}/*")) for name in own]
    told = subprocess.run(
        [sys.executable, "-c", script, str(shards), *(str(f / "recognizer") for f in folders)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for folder, name, line in zip(folders, own, told, strict=True):
        recognizer = load_recognizer(folder / "recognizer")
        assert recognizer.learned.model == name and recognizer.classes == LEVELS
        assert recognizer.modalities == ("heard", "said")
        samples = list(recognizer.read(shards))
        found = recognizer.predict_stories(samples)
        assert {key: row.tolist() for key, row in found.items()} == json.loads(line)
        judged = predictions(folder)
        assert len(judged) == 18
        by_id = {key.replace("/", "-").replace(".", "_"): row for key, row in found.items()}
        for clip, said in judged.items():
            (match,) = (row for key, row in by_id.items() if clip.startswith(f"{key}-"))
            expected = [float(said[f"p_{level}"]) for level in LEVELS]
            assert match.tolist() == pytest.approx(expected, abs=1e-6)
        alone = recognizer.predict(samples[:5])
        assert np.array_equal(alone[2], recognizer.predict(samples[2:3])[0])  # whoever is beside it
        assert np.allclose(alone.sum(1), 1)
        assert recognizer.predict([]).shape == (0, 3)


def test_dev_chooses_and_without_dev_the_inner_search(tmp_path, shards):
    assert run(shards, tmp_path / "last", "selection=last", "data.deal.dev=false") == 0
    (row,) = read_rows(tmp_path / "last/valence")
    assert (row.selection, row.selection_ua, row.oracle_ua) == ("last", None, None)
    assert run(shards, tmp_path / "both", "train_on=train+dev") == 0
    (row,) = read_rows(tmp_path / "both/valence")
    assert row.selection_ua is not None and (row.num_train, row.num_test) == (36, 18)


def test_nothing_of_dev_and_test_is_learned_from(tmp_path, shards):
    """Other labels and streams there leave what was learned as it is."""
    clips = make_clips()
    assert run(shards, tmp_path / "a", "data.deal.dev=false", "selection=last") == 0
    folder = next(tmp_path.glob("a/valence/runs/mine/*"))
    judged = {clip.rpartition("-")[0] for clip in predictions(folder)}
    assert len(judged) == 18

    def other(clip):
        story = f"toy-{clip.meta['recording'].replace('.', '_')}"
        if not any(name.startswith(f"{story}-") for name in judged):
            return clip
        flipped = [(n, -s.values_ND, PASSPORT[n]) for n, s in clip.streams.items()]
        return dataclasses.replace(clip, streams={n: stream(v, spec) for n, v, spec in flipped})

    changed = put(tmp_path / "changed", [other(clip) for clip in clips])
    assert run(changed, tmp_path / "b", "data.deal.dev=false", "selection=last") == 0
    learned = [
        load_recognizer(next(tmp_path.glob(f"{x}/valence/runs/mine/*/recognizer"))).learned
        for x in ("a", "b")
    ]
    rows = np.random.default_rng(1).normal(size=(9, 11))
    assert np.array_equal(*(one.scores(rows) for one in learned))
    assert learned[0].temperature == learned[1].temperature
    assert read_rows(tmp_path / "a/valence")[0].ua != read_rows(tmp_path / "b/valence")[0].ua


def without(clips, wanted, streams=()):
    return [
        dataclasses.replace(c, streams={n: s for n, s in c.streams.items() if n in streams})
        if wanted(c)
        else c
        for c in clips
    ]


def test_a_missing_stream_is_the_mean_and_none_at_all_teaches_nothing(tmp_path):
    clips = without(make_clips(), lambda c: c.meta["recording"].endswith(".1"), ("said",))
    clips = without(clips, lambda c: c.meta["recording"].endswith(".2"))
    shards = put(tmp_path / "shards", clips)
    assert run(shards, tmp_path / "out") == 0
    (row,) = read_rows(tmp_path / "out/valence")
    note = "2 of 18 training stories have none of heard, said: left out"
    assert any(note in told for told in row.notes)
    assert (row.num_train, row.num_test) == (16, 18)
    recognizer = load_recognizer(next(tmp_path.glob("out/valence/runs/mine/*/recognizer")))
    deaf = [c for c in clips if c.meta["recording"].endswith(".1")][:1]
    found = recognizer.predict(deaf)
    first = recognizer.learned.pipeline["normalise"]
    mean = first.mean_[: HEARD.width]
    filled = np.concatenate([mean, deaf[0].streams["said"].values_ND[0].astype(float)])
    expected = np.exp(recognizer.learned.scores(filled[None]))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "said", "message"),
    [
        (["data.modalities=[text, said]"], "options: {}", "stories reads streams alone"),
        (
            ["data.modalities=[said, yamnet]"],
            "options: {}",
            "names yamnet, and the shards hold",
        ),
        (["data.limits.said=3"], "options: {}", "data.limits.said: stories reads all"),
        ([], "head: prompt", "own_settings.mine.head: stories starts from no weights"),
        ([], "plan: {num_steps: 3}", "own_settings.mine.plan: stories starts from no weights"),
        ([], "options: {models: []}", "models []"),
        ([], "options: {models: [tree]}", "options.models"),
        ([], "options: {wieghting: uniform}", "options.wieghting"),
        ([], "options: {story: chapter}", "has no chapter; fill the column chapter"),
        ([], "options: {story: valence}", "both have clips of toy/"),
    ],
)
def test_what_it_cannot_be_told(tmp_path, shards, capsys, settings, said, message):
    assert run(shards, tmp_path / "out", *settings, mine=said) == 2
    assert message in capsys.readouterr().err


def test_a_story_with_two_labels_is_told(tmp_path, capsys):
    clips = make_clips()
    columns = {"valence": "high", "arousal": "low"}
    assert clips[0].meta["columns"]["valence"] == "low"
    clips[0] = dataclasses.replace(clips[0], meta={**clips[0].meta, "columns": columns})
    shards = put(tmp_path / "shards", clips)
    assert run(shards, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "the story toy/r0.0 has 2 labels: high 1, low 1, and a story has one" in told
    assert run(shards, tmp_path / "out", options=", story: clip") == 0  # each clip has but one


def test_one_speaker_and_unknown_durations_are_told(tmp_path, capsys):
    shards = put(tmp_path / "two", make_clips(num_speakers=2))
    words = ["data.deal={by: speaker, folds: 2, dev: false}", "selection=last"]
    assert run(shards, tmp_path / "out", *words) == 2
    assert "of 1 groups and classes of 3, 3, 3" in capsys.readouterr().err
    assert run(shards, tmp_path / "out", *words, options=", groups: story") == 0
    clips = [
        dataclasses.replace(c, meta={k: v for k, v in c.meta.items() if k not in ("start", "end")})
        for c in make_clips()
    ]
    shards = put(tmp_path / "timeless", clips)
    assert run(shards, tmp_path / "out") == 2
    assert "clips without start and end" in capsys.readouterr().err
    assert run(shards, tmp_path / "out", options=", weighting: uniform") == 0


def test_a_recognizer_refuses_what_it_was_not_made_for(tmp_path, shards, monkeypatch):
    assert run(shards, tmp_path / "out") == 0
    folder = next(tmp_path.glob("out/valence/runs/mine/*/recognizer"))
    recognizer = load_recognizer(folder)
    clip = make_clips(num_speakers=1)[0]
    broken = {"heard": stream(np.full((2, 6), np.nan), HEARD)}
    with pytest.raises(SchemaError, match="not finite"):
        recognizer.predict([dataclasses.replace(clip, streams=broken)])
    wide = {"heard": stream(np.zeros((2, 7)), HEARD)}
    with pytest.raises(SchemaError, match="another feature passport"):
        recognizer.predict([dataclasses.replace(clip, streams=wide)])
    monkeypatch.setattr("finetune.systems.stories.kept.version", lambda: "0.1")
    with pytest.raises(RecognizerError, match="here is 0.1"):
        load_recognizer(folder)


@pytest.mark.slow
def test_a_recognizer_hears_a_file(tmp_path, root):
    """finetune.predict on a clip that ships: its one utterance is a story of its own."""
    from finetune.predict import main as predict

    passport = Fbank(FbankSettings(mel_bins=6)).passport
    clips = [
        dataclasses.replace(c, streams={"fbank": stream(rows, passport["fbank"])})
        for c in make_clips()
        for rows in [np.asarray(c.streams["heard"].values_ND)]
    ]
    shards = put(tmp_path / "shards", clips, passport)
    assert run(shards, tmp_path / "out", "data.modalities=[fbank]") == 0
    recognizer = next(tmp_path.glob("out/arousal/runs/mine/*/recognizer"))
    clip = root / "data_pipeline/assets/samples/1002_DFA_ANG_XX.mp3"
    words = [str(clip), "--output", str(tmp_path / "seen"), f"recognizer={recognizer}"]
    words += ["streams={fbank: {mel_bins: 6}, face: false, speech: false}", "speaker=none"]
    words += ["transcriber=null", "workers=1", "min_confidence=0"]
    assert predict(words) == 0
    told = json.loads((tmp_path / "seen/timeline.json").read_text())
    (utterance,) = told["utterances"]
    assert utterance["emotion"] in LEVELS and utterance["modalities"] == ["fbank"]


@pytest.mark.slow
def test_the_config_trains_by_its_own_command(tmp_path, root):
    """On toy clips with the labels and streams of those that `make demo` leaves."""
    path = root / "configs/finetune/stories.yaml"
    lines = path.read_text().splitlines()
    assert lines[0] == f"# accelerate launch finetune/run.py --config {path.relative_to(root)}"
    rng = np.random.default_rng(0)
    labels = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
    clips = [
        ClipSample(
            id=f"c{speaker}{n}",
            text="so",
            words=["so"],
            streams={"speech": stream(rng.normal(size=(9, 6)), HEARD),
                     "sentence": stream(rng.normal(size=(1, 5)), SAID)},
            meta={"corpus": "toy", "speaker": speaker, "recording": speaker, "label": label},
        )
        for speaker in ("1001", "1002")
        for n, label in enumerate(labels)
    ]  # fmt: skip
    shards = put(tmp_path / "shards", clips, {"speech": HEARD, "sentence": SAID})
    changes = [f"data.shards=[{shards}]", f"output={tmp_path / 'out'}", "num_resamples=10"]
    assert main(["--config", str(path), *changes]) == 0
    for target in ("valence", "arousal"):
        assert len(read_rows(tmp_path / "out" / target)) == 2
