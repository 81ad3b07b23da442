// Figures as people read them, each on one line with its unit (\u00a0). Durations come in seconds, times in milliseconds since 1970.

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
});
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const COUNT = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => COUNT.format(value);
export const short = (value) => (value < 10_000 ? COUNT.format(value) : SHORT.format(value));
export const clock = (ms) => CLOCK.format(ms);

/** The time of day, and the day where it is not today. */
export function moment(ms) {
  const today = new Date().toDateString() === new Date(ms).toDateString();
  return today ? CLOCK.format(ms) : `${DAY.format(ms)} ${CLOCK.format(ms)}`;
}

export const percent = (share) =>
  share > 0 && share < 0.005 ? "<1\u00a0%" : `${Math.round(share * 100)}\u00a0%`;

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  return perSecond && perSecond < 10 ? perSecond.toFixed(1) : COUNT.format(perSecond);
}

export function latency(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  return seconds < 1 ? `${Math.round(seconds * 1000)}\u00a0ms` : duration(seconds);
}

/** 4.2 s, 12 s, 3 min, 2 h 5 min, 4 d */
export function duration(seconds) {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)}\u00a0s`;
  if (seconds < 100) return `${Math.round(seconds)}\u00a0s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}\u00a0min`;
  if (seconds < 172_800) {
    const minutes = Math.round(seconds / 60);
    return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60}\u00a0min` : `${minutes / 60}\u00a0h`;
  }
  return `${Math.round(seconds / 86_400)}\u00a0d`;
}

/** An age in whole seconds, so that it does not flicker. */
export const age = (seconds) =>
  seconds < 10 ? `${Math.max(0, Math.floor(seconds))}\u00a0s` : duration(seconds);

export const plural = (value, word, words = `${word}s`) =>
  `${count(value)} ${value === 1 ? word : words}`;
