"""What becomes of pieces that hold nothing, and of files that are not there."""

from finetune.timeline.recognition import NO_FACE, joined, problem_of
from finetune.timeline.utterance import Utterance


def empty(start, end, abstains=NO_FACE, video="a.mp4"):
    return Utterance(
        id=f"{video}{start}",
        video=video,
        start=start,
        end=end,
        person=None,
        text=None,
        emotion=None,
        probabilities={},
        modalities=(),
        abstains=abstains,
    )


def test_neighbours_with_nothing_in_them_are_one():
    flat = empty(10, 15, "no class is likely")
    rows = [empty(0, 5), empty(5, 10), flat, empty(15, 20), empty(21, 25), empty(0, 5, video="b")]
    found = joined(rows)
    assert [(u.start, u.end) for u in found] == [(0, 10), (10, 15), (15, 20), (21, 25), (0, 5)]
    assert joined([]) == [] and found[0].id == rows[0].id


def test_two_hours_of_nothing_are_one_row():
    (found,) = joined([empty(5.0 * n, 5.0 * (n + 1)) for n in range(1440)])
    assert (found.start, found.end) == (0, 7200)


def test_a_file_that_no_row_could_read_is_a_problem():
    missing = empty(0, 2, "missing_file: no file a.mp4")
    assert problem_of([missing, missing]) == "missing_file: no file a.mp4"
    assert problem_of([missing, empty(2, 4)]) == "" and problem_of([]) == ""
