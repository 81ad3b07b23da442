// Events as the page keeps them, from their canonical protobuf JSON (64-bit numbers are strings
// there, times RFC 3339). See proto/mien/v1/event.proto.

/** {feed, id, ms, latency, width, height, faces, detector, classifier}; ms: server's clock. */
export function eventOf(json) {
  const ms = millisecondsOf(json.frameId);
  return {
    feed: json.feed,
    id: json.frameId,
    ms,
    latency: json.publishedAt ? Math.max(0, (Date.parse(json.publishedAt) - ms) / 1000) : null,
    width: json.width,
    height: json.height,
    faces: (json.faces || []).map(faceOf),
    detector: json.detector,
    classifier: json.classifier,
  };
}

function faceOf(json) {
  const smoothed = json.smoothed && Object.keys(json.smoothed).length > 0;
  const { left = 0, top = 0, right = 0, bottom = 0 } = json.box || {};
  return {
    track: Number(json.trackId),
    box: { left, top, right, bottom },
    landmarks: json.landmarks || [],
    tracked: json.source === "SOURCE_TRACKED",
    classified: json.classified,
    shares: smoothed ? json.smoothed : json.raw || {},
    label: json.label,
    uncertain: Boolean(json.uncertain),
    quality: json.quality ?? null,
    score: json.score,
  };
}

export const millisecondsOf = (id) => Number(id.split("-")[0]);

/** Order of two stream ids, "milliseconds-counter". */
export function compareIds(a, b) {
  const [aMs, aCounter = 0] = a.split("-");
  const [bMs, bCounter = 0] = b.split("-");
  return aMs - bMs || aCounter - bCounter;
}

/** "#3 happy 94 %", with a question mark where the model abstains. */
export function wordsOf(face) {
  const share = Math.round((face.shares[face.label] || 0) * 100);
  return `#${face.track} ${face.label}${face.uncertain ? "?" : ""} ${share} %`;
}

/** One sentence on a picture, for those who do not see it. */
export function sentenceOf(event) {
  if (!event) return "No event yet.";
  if (!event.faces.length) return "No face.";
  const seen = event.faces.map((face) => `track ${face.track} ${face.label}${
    face.uncertain ? ", not sure" : ""}, ${Math.round((face.shares[face.label] || 0) * 100)} percent`);
  return `${event.faces.length} ${event.faces.length === 1 ? "face" : "faces"}: ${seen.join("; ")}.`;
}
