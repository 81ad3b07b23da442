"""Records <-> serialized messages. Where bytes from outside are first looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from worker.errors import EntryError
from worker.records import Encoding, Face, Frame, FrameEvent, ModelInfo
from worker.wire import event_pb2, frame_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODINGS = {
    frame_pb2.ENCODING_JPEG: Encoding.JPEG,
    frame_pb2.ENCODING_RGB24: Encoding.RGB24,
    frame_pb2.ENCODING_BGR24: Encoding.BGR24,
}
_ENCODING_CODES = {encoding: code for code, encoding in _ENCODINGS.items()}


def time_of_id(entry_id: str) -> datetime:
    """When the server accepted the stream entry ``milliseconds-counter`` (UTC).

    Raises:
        EntryError: ``bad-id``, a writer gave the entry an id of its own that is no time.
    """
    try:
        return _EPOCH + timedelta(milliseconds=int(entry_id.partition("-")[0]))
    except OverflowError:
        raise EntryError("bad-id", f"the id {entry_id} is not a time in milliseconds") from None


def encode_frame(frame: Frame) -> bytes:
    return frame_pb2.Frame(
        feed=frame.feed,
        session=frame.session,
        sequence=frame.sequence,
        captured_at=_timestamp(frame.captured_at),
        pts=frame.pts,
        time_base=frame_pb2.Rational(
            numerator=frame.time_base.numerator, denominator=frame.time_base.denominator
        ),
        width=frame.width,
        height=frame.height,
        encoding=_ENCODING_CODES[frame.encoding],
        data=frame.data,
    ).SerializeToString()


def decode_frame(body: bytes | None, feed: str, ingested_at: datetime) -> Frame:
    """The frame in a stream entry of ``feed``, which the server accepted at ``ingested_at``.

    Raises:
        EntryError: it is not a Frame (``not-a-frame``), of another feed (``wrong-feed``), has an
            encoding this version does not know (``unsupported``), or no data (``empty``).
    """
    if body is None:
        raise EntryError("not-a-frame", "the entry has no field `frame`")
    try:
        message = frame_pb2.Frame.FromString(body)
        # A writer without a clock of its own may leave captured_at out, or empty.
        at = message.captured_at
        captured_at = at.ToDatetime(tzinfo=UTC) if at.seconds or at.nanos else ingested_at
    except (DecodeError, ValueError, OverflowError) as error:
        raise EntryError("not-a-frame", f"field `frame` is not a mien.v1.Frame: {error}") from None
    if message.feed != feed:
        raise EntryError(
            "wrong-feed", f"a frame of feed {message.feed[:100]!r} lies in the stream of {feed!r}"
        )
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        raise EntryError("unsupported", f"encoding {message.encoding} is not known here")
    if not message.data:
        raise EntryError("empty", "the frame has no data")
    base = message.time_base
    return Frame(
        feed=feed,
        session=message.session,
        sequence=message.sequence,
        captured_at=captured_at,
        pts=message.pts,
        # A writer may leave the time base out: its pts are then taken as seconds.
        time_base=Fraction(base.numerator or 1, base.denominator or 1),
        width=message.width,
        height=message.height,
        encoding=encoding,
        data=message.data,
    )


def frame_header(body: bytes | None) -> bytes:
    """The serialized Frame without its pixels, for a dead letter; empty if it is not a Frame."""
    try:
        message = frame_pb2.Frame.FromString(body or b"")
    except DecodeError:
        return b""
    message.ClearField("data")
    return message.SerializeToString()


def encode_event(event: FrameEvent) -> bytes:
    """The serialized event, without published_at: the server appends it when it takes the event."""
    return _event_message(event).SerializeToString()


def decode_event(body: bytes, ordinal: int) -> FrameEvent:
    """The event in an entry of an event stream.

    Raises:
        ValueError: ``body`` is not a FrameEvent.
    """
    try:
        message = event_pb2.FrameEvent.FromString(body)
    except DecodeError as error:
        raise ValueError(f"not a mien.v1.FrameEvent: {error}") from None
    return FrameEvent(
        feed=message.feed,
        frame_id=message.frame_id,
        session=message.session,
        sequence=message.sequence,
        captured_at=message.captured_at.ToDatetime(tzinfo=UTC),
        ingested_at=message.ingested_at.ToDatetime(tzinfo=UTC),
        published_at=message.published_at.ToDatetime(tzinfo=UTC)
        if message.HasField("published_at")
        else None,
        pts_seconds=message.pts_seconds,
        width=message.width,
        height=message.height,
        faces=tuple(_face(face) for face in message.faces),
        detector=_model(message.detector),
        classifier=_model(message.classifier),
        ordinal=ordinal,
    )


def event_to_json(event: FrameEvent) -> str:
    """Canonical protobuf JSON of the event, on one line, with every plain field present."""
    return json_format.MessageToJson(
        _event_message(event), indent=None, always_print_fields_with_no_presence=True
    )


def _event_message(event: FrameEvent) -> event_pb2.FrameEvent:
    message = event_pb2.FrameEvent(
        feed=event.feed,
        frame_id=event.frame_id,
        session=event.session,
        sequence=event.sequence,
        captured_at=_timestamp(event.captured_at),
        ingested_at=_timestamp(event.ingested_at),
        pts_seconds=event.pts_seconds,
        width=event.width,
        height=event.height,
        faces=[_face_message(face) for face in event.faces],
        detector=_model_message(event.detector),
        classifier=_model_message(event.classifier),
    )
    if event.published_at is not None:
        message.published_at.CopyFrom(_timestamp(event.published_at))
    return message


def _face_message(face: Face) -> event_pb2.Face:
    left, top, right, bottom = face.box
    return event_pb2.Face(
        track_id=face.track_id,
        box=event_pb2.Box(left=left, top=top, right=right, bottom=bottom),
        score=face.score,
        landmarks=[event_pb2.Point(x=x, y=y) for x, y in face.landmarks],
        source=event_pb2.SOURCE_DETECTED if face.source == "detected" else event_pb2.SOURCE_TRACKED,
        classified=face.classified,
        raw=face.raw,
        smoothed=face.smoothed,
        label=face.label,
        uncertain=face.uncertain,
        quality=face.quality,
    )


def _face(message: event_pb2.Face) -> Face:
    box = message.box
    return Face(
        track_id=message.track_id,
        box=(box.left, box.top, box.right, box.bottom),
        score=message.score,
        landmarks=tuple((point.x, point.y) for point in message.landmarks),
        source="tracked" if message.source == event_pb2.SOURCE_TRACKED else "detected",
        classified=message.classified,
        raw=dict(message.raw),
        smoothed=dict(message.smoothed),
        label=message.label,
        uncertain=message.uncertain,
        quality=message.quality if message.HasField("quality") else None,
    )


def _model_message(model: ModelInfo) -> event_pb2.Model:
    return event_pb2.Model(name=model.name, version=model.version, digest=model.digest)


def _model(message: event_pb2.Model) -> ModelInfo:
    return ModelInfo(message.name, message.version, message.digest)


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
