import csv

import pytest

from data_pipeline.shards import read_manifest
from pretrain.scaling import draw_counts, main, write_manifests


def test_the_folder_is_of_manifests_as_an_extraction_writes_them(tmp_path):
    counts_S = draw_counts(2500, 13)
    assert counts_S.sum() == 2500 and len(counts_S) == 13 and counts_S.min() > 0
    write_manifests(tmp_path, counts_S)
    manifests = [read_manifest(tmp_path / f"{number:06d}.json") for number in range(13)]
    assert [len(manifest.samples) for manifest in manifests] == counts_S.tolist()
    assert len({clip for manifest in manifests for clip in manifest.samples}) == 2500
    assert len({digest for manifest in manifests for digest in manifest.digests}) == 2500
    assert manifests[3].to_json() == (tmp_path / "000003.json").read_text()


def test_the_command_prints_tables_and_leaves_numbers(tmp_path, capsys):
    path = tmp_path / "deep" / "scaling.csv"
    small = ["--clips", "4000", "--shards", "100", "--repeats", "1", "--csv", str(path)]
    assert main(small) == 0
    told = capsys.readouterr().out
    assert "| s, rank 0 to its index |" in told and "| shards a step |" in told
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    values = {(row["setting"], row["measure"]): float(row["value"]) for row in rows}
    assert values["index", "MB, to each other rank"] < 100 * 300e-6  # 200 clips are held out
    assert values["8 ranks, 32 lanes", "clips used"] == 500
    assert {row["part"] for row in rows} == {"start-up", "shuffle", "work"}
    assert not any(row["setting"].startswith("512 ranks") for row in rows)  # of 100 shards

    assert main([*small, "--in-memory"]) == 0
    assert "every id" not in capsys.readouterr().out


@pytest.mark.parametrize("sizes", [("10", "0"), ("10", "8"), ("3000000", "1000001")])
def test_sizes_that_make_no_folder_are_told(capsys, sizes):
    assert main(["--clips", sizes[0], "--shards", sizes[1]]) == 2
    assert "expected at least one shard and one repeat" in capsys.readouterr().err
