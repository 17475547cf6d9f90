"""Shards of what is said in MELD alone, of its three tables, for those who have no videos of it.

Each utterance is a clip with its words and the stream `sentence`, ids, speakers and recordings as
data_pipeline.corpora meld has them, so that the fold file `meld-official` fits. Columns beside:
`sentiment`, MELD's own; and `story`, what one speaker says in a dialogue with one emotion and
sentiment. Four minutes of one core; shards that are there are left alone.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.corpora._open_data import read_rows
from data_pipeline.corpora.meld import FOLDERS, mend
from data_pipeline.schema import EXTRACTION_VERSION, ClipSample
from data_pipeline.table.words import normalize_text, split_words

CLIPS_PER_SHARD = 1000
EXPECTED = "train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv"


def utterances(folder: Path) -> Iterator[ClipSample]:
    """Those that have words, without streams."""
    for split in FOLDERS:
        for row in read_rows(folder / f"{split}_sent_emo.csv", EXPECTED):
            text = normalize_text(mend(row["Utterance"]))
            if not text:
                continue
            dialogue, speaker = f"{split}_dia{row['Dialogue_ID']}", mend(row["Speaker"]).strip()
            emotion, sentiment = row["Emotion"], row["Sentiment"]
            yield ClipSample(
                id=f"{dialogue}_utt{row['Utterance_ID']}",
                text=text,
                words=split_words(text),
                meta={
                    "corpus": "meld",
                    "recording": dialogue,
                    "speaker": speaker,
                    "label": emotion,
                    "columns": {
                        "sentiment": sentiment,
                        "story": f"{dialogue}-{speaker}-{emotion}-{sentiment}",
                    },
                },
            )


def write_shards(folder: Path, output: Path) -> int:
    """All utterances with their sentences; how many they are."""
    from data_pipeline.extraction.clip_extractor import library_versions  # loads torch
    from data_pipeline.features.extractors import Evidence, load_extractors
    from data_pipeline.shards import read_manifest, write_shard

    extractor = load_extractors({"sentence": {}}, "cpu")["sentence"]
    samples = list(utterances(folder))
    output.mkdir(parents=True, exist_ok=True)
    for index, start in enumerate(range(0, len(samples), CLIPS_PER_SHARD)):
        part = samples[start : start + CLIPS_PER_SHARD]
        said = "".join(f"{sample.id}\t{sample.text}\n" for sample in part)
        task = hashlib.sha256(f"{EXTRACTION_VERSION} {said}".encode()).hexdigest()
        manifest = output / f"{index:06d}.json"
        if manifest.is_file() and read_manifest(manifest).task == task:
            continue
        for sample in part:
            sample.streams.update(extractor(Evidence(text=sample.text)))
        write_shard(output, index, part, [], extractor.passport, library_versions(), task)
    return len(samples)
