"""Pictures of several settings, and of several shares of the labels."""

import dataclasses

import pytest
from matplotlib import pyplot as plt

from finetune.report import pictures
from finetune.report.pictures import plot_label_shares, plot_settings
from finetune.runs.results import ResultsRow

ROW = ResultsRow(
    **dict.fromkeys(("corpus", "protocol", "fold_file_sha256", "head", "modalities"), ""),
    **dict.fromkeys(("checkpoint_sha256", "data_sha256", "git_commit", "recipe"), ""),
    **dict.fromkeys(("wa_low", "wa_high", "ua_low", "ua_high"), None),
    **dict.fromkeys(("macro_f1_low", "macro_f1_high", "selection_ua"), None),
    **dict.fromkeys(("fold", "seed", "num_train", "num_dev", "num_test"), 1),
    **dict.fromkeys(("wa", "macro_f1"), 0.5),
    **{"step": 1, "num_processes": 1, "selection": "dev", "shared_speakers": False},
    setting="one",
    ua=0.5,
)


@pytest.fixture
def axes(monkeypatch) -> list[plt.Axes]:
    """The axes of what is drawn, kept."""
    drawn = []

    def keep(figure, path):
        drawn.extend(figure.axes)
        path.write_bytes(b"")
        return path

    monkeypatch.setattr(pictures, "save_picture", keep)
    return drawn


def rows(setting: str, share: float, *ua: float) -> list[ResultsRow]:
    return [dataclasses.replace(ROW, setting=setting, label_share=share, ua=u) for u in ua]


def test_every_run_is_a_dot_beside_the_mean(tmp_path, axes):
    found = plot_settings(tmp_path, {"A": rows("a", 1, 0.4, 0.6), "B": rows("b", 1, 0.9)}, 0.25)
    assert found == [tmp_path / "settings.png"]
    dots, mean, *_ = axes[0].lines
    assert list(dots.get_xdata()) == [0.4, 0.6] and mean.get_xdata() == [0.5]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["A", "B"]
    assert plot_settings(tmp_path, {"A": rows("a", 1, 0.4)}, None) == []


def test_few_labels_are_a_line_a_setting(tmp_path, axes):
    groups = {
        "A": rows("a", 1.0, 0.8),
        "A (10 %)": rows("a", 0.1, 0.3, 0.5),
        "B (10 %)": rows("b", 0.1, 0.2),
    }
    assert plot_label_shares(tmp_path, groups, None) == [tmp_path / "label_shares.png"]
    line = axes[0].containers[0].lines[0]
    assert list(line.get_xdata()) == [0.1, 1.0] and list(line.get_ydata()) == [0.4, 0.8]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["10 %", "100 %"]
    assert plot_label_shares(tmp_path, {"A": rows("a", 1.0, 0.8)}, None) == []
