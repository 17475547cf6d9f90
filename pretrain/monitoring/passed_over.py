"""Clips that were drawn and cannot be used: counted by reason over a whole run, each reason told
once."""

from collections.abc import Mapping

from pretrain.config import DataSettings


class PassedOver:
    """Of all ranks; goes on from what a checkpoint holds."""

    def __init__(self, drawn: int = 0, dropped: Mapping[str, int] | None = None) -> None:
        self.drawn = drawn
        """Clips drawn, those passed over included."""
        self.dropped = dict(dropped or {})
        """Reason (pretrain.data.masking.DROP_REASONS) to number of clips."""
        self._told: set[str] = set()

    def add(self, used: int, dropped: Mapping[str, int]) -> None:
        """Of one step."""
        self.drawn += used + sum(dropped.values())
        for reason, count in dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def untold(self, data: DataSettings) -> list[str]:
        """A line for each reason that was not told before, with the setting that changes it."""
        new = sorted(self.dropped.keys() - self._told)
        self._told.update(new)
        return [
            f"{self.dropped[reason]} of {self.drawn} clips drawn so far were passed over, "
            f"{reason}: {_why(reason, data)}"
            for reason in new
        ]


def _why(reason: str, data: DataSettings) -> str:
    known = {
        "text_too_long": f"more word pieces than data.limits.text={data.limits.get('text')} "
        "(null: as many as the model has positions for)",
        "beyond_positions": "frames beyond the model's positions; set data.limits of that stream",
        "no_word_pieces": "none of their words can be masked",
        "no_objective": "no objective that is on can be asked of them",
    }
    return known.get(reason, "the objective of the step needs it")
