// The events of one feed that the page holds, in order, each once, and what is read off them.

import { compareIds } from "./records.js";

/** A track that is not seen for so long is drawn with a gap; longer where frames come more rarely. */
const BREAK_MS = 1000;

export class Series {
  constructor(limit) {
    this.limit = limit;
    this.events = [];
    this.gaps = []; // {ms, missing}: what retention trimmed before it could be shown
    this.byId = new Map();
  }

  get newest() {
    return this.events.at(-1);
  }

  get oldest() {
    return this.events[0];
  }

  /** Add one event wherever it belongs; whether it was new. */
  add(event) {
    if (this.byId.has(event.id)) return false;
    this.byId.set(event.id, event);
    const { events } = this;
    if (!events.length || compareIds(events.at(-1).id, event.id) < 0) events.push(event);
    else events.splice(this.#placeOf((other) => compareIds(other.id, event.id) < 0), 0, event);
    if (events.length > this.limit) {
      // In lumps: taking one from the front of a long array each time is slow.
      for (const gone of events.splice(0, Math.ceil(this.limit / 20))) this.byId.delete(gone.id);
    }
    return true;
  }

  /** The server went back to `last`: what came after it never was. */
  rewind(last) {
    const from = this.#placeOf((event) => compareIds(event.id, last) <= 0);
    for (const gone of this.events.splice(from)) this.byId.delete(gone.id);
  }

  clear() {
    this.events = [];
    this.gaps = [];
    this.byId.clear();
  }

  between(from, to) {
    return this.events.slice(
      this.#placeOf((event) => event.ms < from), this.#placeOf((event) => event.ms <= to),
    );
  }

  /** The event nearest to a time, if one is within `within` milliseconds. */
  nearest(ms, within) {
    const place = this.#placeOf((event) => event.ms < ms);
    const near = [this.events[place - 1], this.events[place]].filter(Boolean)
      .sort((a, b) => Math.abs(a.ms - ms) - Math.abs(b.ms - ms))[0];
    return near && Math.abs(near.ms - ms) <= within ? near : null;
  }

  /** {p50, p95} of the seconds from ingest to event, over the last `ms`; null without events. */
  latencies(ms) {
    const last = this.newest;
    if (!last) return null;
    const values = this.between(last.ms - ms, last.ms).map((event) => event.latency)
      .filter((value) => value !== null).sort((a, b) => a - b);
    const at = (share) => values[Math.min(values.length - 1, Math.floor(share * values.length))];
    return values.length ? { p50: at(0.5), p95: at(0.95) } : null;
  }

  #placeOf(isBefore) {
    let [low, high] = [0, this.events.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isBefore(this.events[middle])) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/**
 * Events -> one lane for each track, the newest first:
 * [{track, last: face, spans: [{from, to, label, uncertain}]}]. A span is one label without a break.
 */
export function lanesOf(events) {
  const lanes = new Map();
  const interval = events.length > 1 ? (events.at(-1).ms - events[0].ms) / (events.length - 1) : 0;
  const pause = Math.max(BREAK_MS, 3 * interval);
  for (const event of events) {
    for (const face of event.faces) {
      let lane = lanes.get(face.track);
      if (!lane) lanes.set(face.track, (lane = { track: face.track, spans: [] }));
      const span = lane.spans.at(-1);
      const goes = span && event.ms - span.to <= pause;
      if (goes) span.to = event.ms;
      if (!goes || span.label !== face.label || span.uncertain !== face.uncertain) {
        lane.spans.push({
          from: event.ms, to: event.ms, label: face.label, uncertain: face.uncertain,
        });
      }
      lane.last = face;
    }
  }
  return [...lanes.values()].reverse();
}
