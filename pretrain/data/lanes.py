"""The clips that some lanes give to each step: read, cut, masked.

A lane reads its run of the epoch's order (pretrain.data.order) from front to back, whatever other
lanes do. So lanes may be read in this process, or dealt to several (pretrain.data.workers), and
the clips and masks are the same.

A shard is read from front to back and kept decoded while a lane is in it, at most one shard a lane.
That is what network disks like, and 32 lanes of 256 clips are about 2 GB.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from data_pipeline.errors import UserError
from data_pipeline.schema import ClipSample
from pretrain.data.clip_index import ClipIndex
from pretrain.data.collate import Example
from pretrain.data.example import Limits, available_objectives, make_example
from pretrain.data.masking import ClipDropped, MaskingSettings, draw_objective, random_generator
from pretrain.data.order import ClipOrder
from pretrain.objectives import OBJECTIVES, streams_of


class LoaderError(UserError):
    """Shards, lanes, ranks and workers that do not go together."""


@dataclass(frozen=True, kw_only=True)
class LaneStep:
    """What some lanes give to one step."""

    examples: list[Example]
    """Lane after lane, the same number of each."""
    places: dict[int, tuple[int, int]]
    """Lane to its epoch and its position in the run, afterwards."""
    dropped: dict[str, int]
    """Reason to number of clips that were passed over."""


class LaneReader:
    """Reads `lanes`, step after step; the other arguments are the Loader's."""

    def __init__(
        self,
        clips: ClipIndex,
        lanes: Sequence[int],
        *,
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        masking: MaskingSettings,
        clips_per_lane: int,
        num_lanes: int,
        weights: dict[str, float],
        mixing: str,
        seed: int,
    ) -> None:
        self.clips = clips
        self.lanes = lanes
        self.tokenizer = tokenizer
        self.limits = limits
        self.masking = masking
        self.clips_per_lane = clips_per_lane
        self.run_length = clips.num_clips // num_lanes
        self.weights = weights
        self.mixing = mixing
        self.seed = seed
        self.streams = streams_of(limits.frames, weights)
        self.order = ClipOrder(clips.counts_S, seed, keep=2 * len(lanes))  # left and entered
        self.step = 0
        self.places = dict.fromkeys(lanes, (0, 0))
        self.decoded: dict[int, list[ClipSample]] = {}
        """Shard to its clips, of the shards that a lane is in."""
        self._lane_in: dict[int, int] = {}  # lane to the shard that it is in

    def start_at(self, step: int, places_L2: np.ndarray) -> None:
        """Read from there on; before the first step."""
        self.step = step
        self.places = {lane: tuple(map(int, places_L2[lane])) for lane in self.lanes}

    def read_step(self, check_open: Callable[[], None] = lambda: None) -> LaneStep:
        """What the lanes give to the next step; `check_open` is called often, and may raise to end
        the reading.

        Raises LoaderError where a lane has no usable clip, and ShardError.
        """
        dropped: dict[str, int] = {}
        objective = None
        if self.mixing == "step":
            objective = draw_objective(self.weights, set(self.weights), self.seed, self.step)
        examples = [
            self._draw(lane, objective, dropped, check_open)
            for lane in self.lanes
            for _ in range(self.clips_per_lane)
        ]
        self.step += 1
        return LaneStep(examples=examples, places=dict(self.places), dropped=dropped)

    def _draw(
        self,
        lane: int,
        step_objective: str | None,
        dropped: dict[str, int],
        check_open: Callable[[], None],
    ) -> Example:
        """The next usable clip of `lane`, as an example of its objective."""
        for _ in range(2 * self.run_length + 1):
            check_open()
            epoch, position = self.places[lane]
            if position == self.run_length:
                epoch, position = epoch + 1, 0
            self.places[lane] = epoch, position + 1
            place = self.order.place(epoch, lane * self.run_length + position)
            sample = self._sample(lane, *place, check_open)
            key = (self.seed, epoch, sample.id)
            try:
                objective = step_objective or draw_objective(
                    self.weights, available_objectives(sample, self.limits), *key
                )
                return make_example(
                    sample,
                    self.tokenizer,
                    self.limits,
                    objective,
                    self.masking,
                    random_generator(*key),
                )
            except ClipDropped as drop:
                dropped[drop.reason] = dropped.get(drop.reason, 0) + 1
        raise self._nothing_to_use(lane, step_objective, dropped)

    def _nothing_to_use(
        self, lane: int, step_objective: str | None, dropped: dict[str, int]
    ) -> LoaderError:
        way_out = "look at what the shards hold and at data.limits.text"
        lacking = OBJECTIVES[step_objective].stream if step_objective else None
        if dropped.keys() == {f"no_{lacking}"}:
            off = ", ".join(f"{n}: 0" for n in self.weights if OBJECTIVES[n].stream == lacking)
            way_out = f"to train without {lacking}: 'objectives.weights={{{off}}}'"
        return LoaderError(
            f"lane {lane}: {2 * self.run_length + 1} clips in a row cannot be used for "
            f"{step_objective or 'any objective'} (passed over in this step: {dropped}); "
            f"{way_out}, or use objectives.mixing=clip"
        )

    def _sample(
        self, lane: int, shard: int, clip: int, check_open: Callable[[], None]
    ) -> ClipSample:
        """`clip` of `shard`, which stays decoded until the last lane that is in it moves on."""
        left, self._lane_in[lane] = self._lane_in.get(lane, shard), shard
        if left not in self._lane_in.values():
            self.decoded.pop(left, None)
        if shard not in self.decoded:
            samples = []
            for sample in self.clips.samples(shard, self.streams):
                check_open()
                samples.append(sample)
            self.decoded[shard] = samples
        return self.decoded[shard][clip]
