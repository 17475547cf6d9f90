import sys
from types import ModuleType

import pytest
import torch.distributed as dist
from accelerate.state import PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_pipeline.config import ConfigError, load_config
from pretrain.config import PretrainConfig
from pretrain.monitoring.metrics import Metrics
from pretrain.monitoring.trackers import check_trackers, open_trackers


@pytest.mark.parametrize(("last_step", "expected"), [(0, [0, 1, 2]), (1, [0, 1, 2])])
def test_tensorboard_has_each_step_once_after_a_restart(tmp_path, last_step, expected):
    """From the start anew, and from step 1, which itself is kept."""

    def opened(after: int) -> Metrics:
        return Metrics(tmp_path, after, open_trackers(["tensorboard"], tmp_path, after, {}))

    with opened(0) as metrics:
        for step in (0, 1, 2):
            metrics.write(step, "validation", {"loss": 1.0})
    with opened(last_step) as metrics:
        for step in expected[last_step + 1 if last_step else 0 :]:
            metrics.write(step, "validation", {"loss": 2.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    drawn = events.Scalars("validation/loss")
    assert [point.step for point in drawn] == expected
    assert [point.value for point in drawn] == [
        1.0 if step <= last_step and last_step else 2.0 for step in expected
    ]


class Run:
    """What wandb.init gives."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch) -> list[tuple[dict, Run]]:
    """Every call of wandb.init, and its run."""
    found: list[tuple[dict, Run]] = []
    module = ModuleType("wandb")

    def init(**settings):
        found.append((settings, Run()))
        return found[-1][1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return found


def test_wandb_knows_a_run_again_and_a_start_anew_is_another(tmp_path, wandb, monkeypatch):
    for last_step in (0, 7, 0):
        with Metrics(tmp_path, last_step, open_trackers(["wandb"], tmp_path, last_step, {"a": 1})):
            pass
    (first, run), (again, _), (anew, _) = wandb
    assert run.finished
    assert first == again and first["id"] != anew["id"]
    assert (first["project"], first["name"]) == ("memobert", tmp_path.name)
    assert (first["resume"], first["dir"], first["config"]) == ("allow", str(tmp_path), {"a": 1})
    monkeypatch.setenv("WANDB_PROJECT", "voices")
    open_trackers(["wandb"], tmp_path, 0, {})
    assert wandb[-1][0]["project"] == "voices"


def test_wandb_gets_the_steps_numbers(tmp_path, wandb):
    with Metrics(tmp_path, 7, open_trackers(["wandb"], tmp_path, 7, {})) as metrics:
        metrics.write(8, "train", {"loss": 1.5})
    assert wandb[0][1].logged == [(8, {"train/loss": 1.5})]


def test_no_tracker_joins_ranks(tmp_path, wandb, monkeypatch):
    """As accelerate by itself would, under a launcher's environment, on a GPU."""
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    trackers = open_trackers(["tensorboard", "wandb"], tmp_path, 0, {})
    with Metrics(tmp_path, 0, trackers) as metrics:
        metrics.write(1, "train", {"loss": 1.5})
    assert not dist.is_initialized() and PartialState().device.type == "cpu"


def test_one_that_cannot_start_says_so(tmp_path, wandb, monkeypatch):
    def init(**settings):
        raise RuntimeError("api_key not configured")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    with pytest.raises(ConfigError, match=r"wandb cannot start: api_key not.*WANDB_MODE=offline"):
        open_trackers(["wandb"], tmp_path, 0, {})


def test_one_that_is_not_installed_is_told_with_the_line_to_install_it(monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    check_trackers([])
    check_trackers(["tensorboard"])
    with pytest.raises(ConfigError, match=r"wandb cannot be.*`python -m pip install wandb`"):
        check_trackers(["tensorboard", "wandb"])
    with pytest.raises(ConfigError, match="names one twice"):
        check_trackers(["tensorboard", "tensorboard"])


def test_the_former_switch_is_told_its_new_name():
    with pytest.raises(ConfigError, match=r"'run\.trackers'; write run\.trackers=\[tensorboard\]"):
        load_config(PretrainConfig, None, ["run.tensorboard=true"])
    assert load_config(PretrainConfig, None, ["run.trackers=[wandb]"]).run.trackers == ("wandb",)
