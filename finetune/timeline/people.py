"""Who each utterance is, by voice and face: a voice is never overruled.

    named, notes = name_people(utterances, named_by, face_of)

A name of the table stays, and so does whose voice it is. What voice leaves unnamed (nobody speaks,
no sound, no encoder, too short to tell) is named by its face: as the person whose voice, or whose
name in the table, goes with that face, or by a letter of its own. Voices are told apart file by
file; two of different files are one person where each goes with the same face more than with any
other, and no voice of its file goes with that face more.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count

from finetune.timeline.cutting import letter
from finetune.timeline.page import short_clock
from finetune.timeline.utterance import Utterance

VOICES = ("voice", "neighbour")
SURE = ("table", "voice")


@dataclass(frozen=True)
class _Name:
    """Somebody, before letters are given: a voice of one file, or a name of the table."""

    video: str
    """Empty for a name of the table, which is the same in all files."""
    person: str


def name_people(
    utterances: list[Utterance], named_by: Mapping[str, str], face_of: Mapping[str, int]
) -> tuple[list[Utterance], dict[str, list[str]]]:
    """The utterances with `person` and `named_by`; and of each video, sentences that say where
    voice and face disagree.

    named_by: id to table, voice or neighbour, of those that have a name. face_of: id to the number
    of its face; where it is empty all names stay as they are.
    """
    utterances = [replace(u, named_by=named_by.get(u.id, "")) for u in utterances]
    if not face_of:
        return utterances, {}
    people = _People(_seen(utterances, face_of))
    for name in dict.fromkeys(_name_of(u) for u in utterances if u.named_by == "table"):
        people.add(name)
    for video in dict.fromkeys(u.video for u in utterances):
        theirs = [u for u in utterances if u.video == video]
        for name in dict.fromkeys(_name_of(u) for u in theirs if u.named_by in VOICES):
            people.add(name)
        for u in theirs:
            if u.id in face_of:
                # What is too short to tell joins a face that is known, and makes nobody new.
                people.see(face_of[u.id], is_new=not u.named_by)
    named = [_named(u, people, face_of.get(u.id)) for u in utterances]
    return named, _disagreements(named, face_of)


def _name_of(u: Utterance) -> _Name | None:
    if not u.named_by:
        return None
    return _Name("" if u.named_by == "table" else u.video, u.person)


def _seen(utterances: list[Utterance], face_of: Mapping[str, int]) -> dict[_Name, Counter[int]]:
    """Of each name the seconds with which it goes with each face, where it is sure."""
    seen: dict[_Name, Counter[int]] = defaultdict(Counter)
    for u in utterances:
        if u.named_by in SURE and u.id in face_of:
            seen[_name_of(u)][face_of[u.id]] += u.end - u.start
    return dict(seen)


def _named(u: Utterance, people: "_People", face: int | None) -> Utterance:
    if u.named_by not in SURE and face in people.of_face:
        return replace(u, person=people.of_face[face], named_by="face")
    name = _name_of(u)
    return u if name is None else replace(u, person=people.of_name[name])


class _People:
    """Who is who, filled in file by file: each name, and each face, has its person."""

    def __init__(self, seen: dict[_Name, Counter[int]]) -> None:
        """seen: name to the seconds that it goes with each face."""
        self.of_name: dict[_Name, str] = {}
        self.of_face: dict[int, str] = {}
        self._seen = seen
        self._own = _own_faces(seen)

    def add(self, name: _Name) -> None:
        """A name of the table stays; a voice is who its own face is, else keeps its letter unless
        another person has it."""
        face = self._own.get(name)
        person = name.person
        beside = {self.of_name[other] for other in self.of_name if other.video == name.video}
        if name.video and self.of_face.get(face) not in {None, *beside}:
            person = self.of_face[face]
        elif name.video and person in self._taken():
            person = self._next_letter()
        self.of_name[name] = person
        if face is not None:
            self.of_face.setdefault(face, person)

    def see(self, face: int, *, is_new: bool) -> None:
        """A face is who goes with it most, else, where `is_new`, somebody new."""
        if face in self.of_face:
            return
        names = [name for name in self.of_name if self._seen.get(name, {}).get(face)]
        if names:
            self.of_face[face] = self.of_name[max(names, key=lambda name: self._seen[name][face])]
        elif is_new:
            self.of_face[face] = self._next_letter()

    def _taken(self) -> set[str]:
        return {*self.of_name.values(), *self.of_face.values()}

    def _next_letter(self) -> str:
        taken = self._taken()
        return next(person for person in map(letter, count()) if person not in taken)


def _own_faces(seen: dict[_Name, Counter[int]]) -> dict[_Name, int]:
    """Name to its face, of those that go with one face most, and it, in that file, with them."""
    most: dict[tuple[str, int], tuple[float, _Name]] = {}
    for name, seconds_of in seen.items():
        for face, seconds in seconds_of.items():
            if seconds > most.get((name.video, face), (0.0, name))[0]:
                most[name.video, face] = (seconds, name)
    main = {name: max(seconds_of, key=seconds_of.__getitem__) for name, seconds_of in seen.items()}
    return {name: face for name, face in main.items() if most[name.video, face][1] == name}


def _disagreements(utterances: list[Utterance], face_of: Mapping[str, int]) -> dict[str, list[str]]:
    """Video to sentences: a voice with several faces, a face with several voices."""
    notes: dict[str, list[str]] = {}
    for video in dict.fromkeys(u.video for u in utterances):
        sure = [u for u in utterances if u.video == video and u.named_by == "voice"]
        sure = [u for u in sure if u.id in face_of]
        found = [*_voices_of_many_faces(sure, face_of), *_faces_of_many_voices(sure, face_of)]
        if found:
            notes[video] = found
    return notes


def _voices_of_many_faces(sure: list[Utterance], face_of: Mapping[str, int]) -> Iterator[str]:
    for person in dict.fromkeys(u.person for u in sure):
        theirs = [u for u in sure if u.person == person]
        (usual, _), *others = Counter(face_of[u.id] for u in theirs).most_common()
        odd = [u for u in theirs if face_of[u.id] != usual]
        if others:
            yield (
                f"the voice {person} goes with {1 + len(others)} faces, at {_times(odd)} "
                f"({len(odd)} of {len(theirs)} utterances) not with its usual one: it may be "
                "several people"
            )


def _faces_of_many_voices(sure: list[Utterance], face_of: Mapping[str, int]) -> Iterator[str]:
    for face in dict.fromkeys(face_of[u.id] for u in sure):
        firsts: dict[str, Utterance] = {}
        for u in sure:
            if face_of[u.id] == face:
                firsts.setdefault(u.person, u)
        if len(firsts) > 1:
            yield (
                f"the voices {', '.join(firsts)} go with one face, at "
                f"{_times(list(firsts.values()))}: they may be one person"
            )


def _times(utterances: list[Utterance]) -> str:
    shown = [short_clock(u.start) for u in utterances[:3]]
    return ", ".join(shown) + (" and later" if len(utterances) > 3 else "")
