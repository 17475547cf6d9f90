"""Which clips are named when a loss or a gradient is no number any more."""

import pytest
import torch

from pretrain.divergence import MOST_NAMED, DivergedError, Watch
from pretrain.runtime import RuntimeSettings, start

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def watch() -> Watch:
    return Watch(start(RuntimeSettings(device="cpu")), lambda: "lower the rate")


def add(watch: Watch, step: int, norm: float, **losses: float) -> None:
    """Name of a clip, alone in its pass, to its loss."""
    for clip, loss in losses.items():
        watch.add_pass(torch.tensor(loss), [clip])
    watch.add_step(step, torch.tensor(norm))


def test_the_first_bad_step_counts_and_its_first_bad_pass_is_named(watch):
    add(watch, 6, 1.0, a=1.0, b=2.0)
    add(watch, 7, NAN, c=1.0, d=NAN, e=INF)
    add(watch, 8, NAN, f=NAN)
    told = "the loss is nan at step 7, in 2 of its 3 passes; the first of them has the clips d; "
    with pytest.raises(DivergedError, match=f"^{told}lower the rate$"):
        watch.check()


def test_a_step_whose_every_loss_is_bad_points_to_the_update_before_it(watch):
    add(watch, 8, NAN, a=NAN, b=NAN)
    with pytest.raises(DivergedError, match="2 of its 2 passes, so perhaps by the update before"):
        watch.check()


@pytest.mark.parametrize("norm", [NAN, INF])
def test_a_gradient_that_is_no_number_is_told_with_the_clips_of_its_step(watch, norm):
    add(watch, 3, norm, a=1.0, b=2.0)
    with pytest.raises(DivergedError, match=f"norm is {norm} at step 3.* its clips are a, b;"):
        watch.check()


def test_good_steps_are_forgotten_and_names_are_few(watch):
    add(watch, 1, 1.0, a=1.0)
    watch.check()
    watch.check()
    watch.add_pass(torch.tensor(NAN), [f"c{n}" for n in range(MOST_NAMED + 5)])
    watch.add_step(2, torch.tensor(1.0))
    with pytest.raises(DivergedError, match=r"step 2.* c19 and 5 more;") as error:
        watch.check()
    assert "c20" not in str(error.value)


def test_weights_are_asked_for_once(watch):
    model = torch.nn.Linear(3, 2)
    watch.check_weights(model, 4)
    with torch.no_grad():
        model.weight[0, 0] = INF
    with pytest.raises(DivergedError, match="a weight is no finite number at step 4; lower"):
        watch.check_weights(model, 4)


def test_watching_does_not_look_at_a_number(watch, monkeypatch):
    """Each of these would wait for a GPU."""

    def waits(*_):
        raise AssertionError("waited for the device")

    for name in ("item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, waits)
    add(watch, 1, NAN, a=NAN)
    with pytest.raises(AssertionError, match="waited"):
        watch.check()
