// Which piece of time the timeline shows: live, ending now, or standing still in the past.

import { serverClock } from "./state.js";

const [SHORTEST_MS, LONGEST_MS] = [2000, 24 * 3600_000];

export class Range {
  constructor(span) {
    this.span = span;
    this.end = null; // null: live
  }

  get live() {
    return this.end === null;
  }

  get to() {
    return this.end ?? serverClock.now();
  }

  get from() {
    return this.to - this.span;
  }

  goLive() {
    this.end = null;
  }

  hold() {
    this.end = this.to;
  }

  show(from, to) {
    this.span = Math.min(LONGEST_MS, Math.max(SHORTEST_MS, to - from));
    this.#endAt((from + to) / 2 + this.span / 2);
  }

  /** Back (negative) or forth by a share of what is shown. */
  pan(share) {
    this.#endAt(this.to + share * this.span);
  }

  /** By a factor, about a time; live stays live unless a time is given. */
  zoom(factor, about = null) {
    const span = Math.min(LONGEST_MS, Math.max(SHORTEST_MS, this.span * factor));
    if (about !== null || !this.live) {
      const centre = about ?? this.to - this.span / 2;
      this.#endAt(centre + ((this.to - centre) / this.span) * span);
    }
    this.span = span;
  }

  #endAt(ms) {
    this.end = ms >= serverClock.now() ? null : ms;
  }
}
