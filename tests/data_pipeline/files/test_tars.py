"""Members of a tar: the quick way gives what tarfile gives, or leaves the tar to it."""

import io
import tarfile

import pytest

from data_pipeline.files.tars import by_tarfile, plain_places, tar_members


def tar_of(members: dict[str, bytes], **info) -> bytes:
    """As write_shard and webdataset make one."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=info.pop("format", tarfile.USTAR_FORMAT)) as t:
        for name, payload in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            for key, value in info.items():
                setattr(member, key, value)
            t.addfile(member, io.BytesIO(payload))
    return file.getvalue()


def read(data: bytes, how=tar_members) -> list[tuple[str, bytes | None]]:
    return [(name, None if p is None else bytes(p)) for name, p in how(data)]


MEMBERS = {
    "a.json": b"{}",
    "a.face.npy": bytes(range(256)) * 5,
    "b.json": b"",
    "c" * 99: b"x" * 512,
}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_members_are_those_of_tarfile(kind):
    data = tar_of(MEMBERS, format=kind)
    assert plain_places(data) is not None
    assert read(data) == read(data, by_tarfile) == list(MEMBERS.items())


@pytest.mark.parametrize(
    "data",
    [
        tar_of({"d" * 150 + ".json": b"1"}, format=tarfile.GNU_FORMAT),
        tar_of({"d" * 150 + ".json": b"1"}, format=tarfile.PAX_FORMAT),
        tar_of({f"{'folder' * 15}/{'n' * 60}": b"1"}),
        tar_of({"ä.json": b"1"}, format=tarfile.PAX_FORMAT),
        tar_of({"link": b""}, type=tarfile.SYMTYPE, linkname="a.json"),
    ],
    ids=["long name, GNU", "long name, pax", "prefix", "no ASCII", "link"],
)
def test_what_is_not_plain_is_left_to_tarfile(data):
    assert plain_places(data) is None
    assert read(data) == read(data, by_tarfile)


@pytest.mark.parametrize("damage", ["cut in a member", "cut between", "size", "name", "nothing"])
def test_damage_is_what_it_is_to_tarfile(damage):
    data = bytearray(tar_of(MEMBERS))
    if damage == "cut in a member":
        del data[1600:]
    if damage == "cut between":
        del data[1024:]
    if damage == "size":
        data[124:128] = b"zzzz"
    if damage == "name":
        data[600:700] = b"\xff" * 100
    if damage == "nothing":
        data = bytearray()
    found = []
    for how in (tar_members, by_tarfile):
        try:
            found.append(read(bytes(data), how))
        except tarfile.TarError as error:
            found.append(str(error))
    assert found[0] == found[1]
