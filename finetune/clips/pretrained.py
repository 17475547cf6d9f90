"""Whether a checkpoint was pretrained on the clips that it is judged on."""

from collections.abc import Sequence

from finetune.clips.labelled import LabelledClip, LabelledSet
from pretrain.checkpoint.folder import Checkpoint
from pretrain.data.seen import FILE, Found, SeenClips

WITHOUT_LABELS = "without their labels"


def clips_seen(checkpoint: Checkpoint | None, clips: LabelledSet) -> Found | None:
    """Which of `clips` pretraining read; None where the checkpoint does not tell.

    Raises CheckpointError for a list of clips that cannot be read.
    """
    if checkpoint is None:
        return Found(same=frozenset(), named_alike=frozenset())
    seen = SeenClips.load(checkpoint.folder)
    return (
        None if seen is None else seen.among((clip.sample.id, clip.digest) for clip in clips.clips)
    )


def seen_notes(found: Found | None, checkpoint: Checkpoint | None, clips: LabelledSet) -> list[str]:
    """What a reader of any fold's result must know."""
    if found is None:
        assert checkpoint is not None, "it was asked, and did not tell"
        shards = checkpoint.provenance.get("shards_sha256", {})
        if not set().union(*shards.values()).isdisjoint(clips.shards_sha256):
            return [f"the checkpoint was pretrained on shards of these clips, {WITHOUT_LABELS}"]
        return [
            f"the checkpoint keeps no list of its clips ({FILE}, since older code made it), so "
            "whether it was pretrained on these is not known"
        ]
    notes = []
    if found.same:
        notes.append(
            f"the checkpoint was pretrained on {len(found.same)} of these {len(clips.clips)} "
            f"clips, {WITHOUT_LABELS}"
        )
    if found.named_alike:
        notes.append(
            f"{len(found.named_alike)} clips have the id of a clip that the checkpoint was "
            "pretrained on, and other features: the same ones extracted otherwise, or others of "
            "the same name"
        )
    return notes


def num_seen(found: Found | None, test: Sequence[LabelledClip]) -> int | None:
    """Clips of one fold's test that pretraining read; None where the checkpoint does not tell."""
    return None if found is None else len({clip.sample.id for clip in test} & found.same)
