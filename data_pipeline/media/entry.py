"""Where in a video stream decoding may begin so that every picture from there on is right.

A container's key flag promises less. Of H.264 and HEVC it also marks pictures from which an image
only builds up (intra refresh), and the pictures around such a place come out with holes that no
decoder reports. So the packet itself is read: an IDR or other random access picture, or an H.264
recovery point that recovers at once, is an entry. Of codecs without such in-between forms the key
flag is the word of the format. Of any other codec nothing is known, and reading begins at the
beginning.

Pictures that are shown before the entry but stored after it (open GOP) refer to what came before;
whoever begins at an entry leaves them out.

H.264: ITU-T H.264 7.4.1, D.2.8. HEVC: ITU-T H.265 7.4.2.2.
"""

from collections.abc import Iterator

_BY_KEY_FLAG = {
    *("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "msmpeg4"),
    *("wmv1", "wmv2", "wmv3", "vc1", "flv", "flv1", "h263", "h263p", "vp3", "theora"),
    *("vp6", "vp6f", "vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1"),
}
"""FFmpeg's names of codecs and decoders. Their key picture clears all that came before it."""
_H264_IDR, _H264_SEI = 5, 6
_RECOVERY_POINT = 6
_HEVC_ENTRIES = range(16, 22)  # BLA, IDR and CRA; of CRA the decoder leaves out what leads


class Entries:
    """`entries(packet)`: may the decoding of this stream begin at `packet`?"""

    def __init__(self, stream) -> None:
        context = stream.codec_context
        self._codec = context.name
        self._every = context.codec.intra_only
        self._nal_length = _nal_length(self._codec, bytes(context.extradata or b""))

    def __call__(self, packet) -> bool:
        if not packet.size or packet.is_corrupt:
            return False
        if self._every:
            return True
        if self._codec == "h264":
            return packet.is_keyframe and self._h264(bytes(packet))
        if self._codec == "hevc":
            units = _units(bytes(packet), self._nal_length)
            return any(unit[0] >> 1 & 63 in _HEVC_ENTRIES for unit in units if unit)
        return packet.is_keyframe and self._codec in _BY_KEY_FLAG

    def _h264(self, data: bytes) -> bool:
        for unit in _units(data, self._nal_length):
            if not unit:
                continue
            kind = unit[0] & 31
            if kind == _H264_IDR or (kind == _H264_SEI and _recovers_at_once(unit[1:])):
                return True
        return False


def _nal_length(codec: str, extradata: bytes) -> int:
    """Bytes of each unit's length in MP4 and Matroska; 0: start codes, as in MPEG-TS."""
    if codec == "h264" and len(extradata) > 4 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21 and extradata[:3] not in (b"\0\0\0", b"\0\0\1"):
        return (extradata[21] & 3) + 1
    return 0


def _units(data: bytes, nal_length: int) -> Iterator[bytes]:
    """The first bytes of each NAL unit, enough to know it by."""
    at = 0
    while nal_length and at + nal_length < len(data):
        size = int.from_bytes(data[at : at + nal_length], "big")
        at += nal_length
        yield data[at : at + min(size, 64)]
        at += size
    while not nal_length:
        at = data.find(b"\0\0\1", at) + 3
        if at == 2:
            return
        end = data.find(b"\0\0\1", at, at + 64)
        yield data[at : at + 64 if end < 0 else end]


def _recovers_at_once(payload: bytes) -> bool:
    """An SEI unit whose recovery_frame_cnt, an Exp-Golomb number, is 0: its first bit is 1."""
    payload = payload.replace(b"\0\0\3", b"\0\0")
    at = 0
    while at + 2 < len(payload):
        kind = size = 0
        while payload[at] == 255 and at + 1 < len(payload):
            kind, at = kind + 255, at + 1
        kind, at = kind + payload[at], at + 1
        while at + 1 < len(payload) and payload[at] == 255:
            size, at = size + 255, at + 1
        if at + 1 >= len(payload):
            return False
        size, at = size + payload[at], at + 1
        if kind == _RECOVERY_POINT:
            return bool(payload[at] & 128)
        at += size
    return False
