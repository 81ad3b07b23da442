// The share of each expression over the time that the timeline shows: of all faces, and per track.

import { summary } from "./api.js";
import { h, say } from "./dom.js";
import { duration, percent, plural } from "./format.js";
import { ordered, variableOf } from "./palette.js";

const SETTLE_MS = 300; // while the range is dragged
const MOST_TRACKS = 12;

export function sharesPanel(name) {
  const total = h("p", { class: "dim" });
  const body = h("div", { class: "shares" });
  const element = h("section", { class: "panel shares-panel", "aria-label": "Shares of the expressions" },
    h("h2", {}, "Expressions in this range"), total, body);
  let [timer, asked] = [0, null];

  async function load(from, to) {
    asked?.abort();
    asked = new AbortController();
    try {
      show(await summary(name, from, to, asked.signal));
    } catch (error) {
      if (error.name !== "AbortError") say(total, error.message);
    }
  }

  function show({ events, faces, uncertain, expressions, tracks, next }) {
    say(total, faces ? [
      `${plural(faces, "face")} in ${plural(events, "frame")}`, plural(tracks.length, "track"),
      uncertain ? `${percent(uncertain / faces)} not sure` : "",
      next ? "the first frames of the range only" : "",
    ].filter(Boolean).join(" · ") : "No face in this range.");
    const longest = [...tracks].sort((a, b) => b.faces - a.faces);
    const rest = longest.length - MOST_TRACKS;
    body.replaceChildren(
      ...(faces ? [shareTable(expressions)] : []),
      ...longest.slice(0, MOST_TRACKS).map(trackRow),
      ...(rest > 0 ? [h("p", { class: "dim" }, `and ${plural(rest, "shorter track")}`)] : []));
  }

  return {
    element,
    ask(range) {
      clearTimeout(timer);
      timer = setTimeout(() => load(range.from, range.to), SETTLE_MS);
    },
    close() {
      clearTimeout(timer);
      asked?.abort();
    },
  };
}

function stack(expressions) {
  const bar = h("div", { class: "stack", "aria-hidden": "true" });
  for (const label of ordered(Object.keys(expressions))) {
    const { share } = expressions[label];
    const piece = h("span", { title: `${label} ${percent(share)}` });
    piece.style.flexGrow = share;
    piece.style.backgroundColor = variableOf(label);
    bar.append(piece);
  }
  return bar;
}

function shareTable(expressions) {
  const rows = ordered(Object.keys(expressions)).map((label) => {
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.backgroundColor = variableOf(label);
    return h("tr", {}, h("th", { scope: "row" }, swatch, label),
      h("td", {}, percent(expressions[label].share)), h("td", {}, duration(expressions[label].seconds)));
  });
  return h("div", { class: "all-tracks" }, stack(expressions), h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "expression"), h("th", { scope: "col" }, "share"),
      h("th", { scope: "col" }, "time"))), h("tbody", {}, rows)));
}

function trackRow({ track_id: track, seconds, expressions }) {
  const [[top, { share }]] = Object.entries(expressions).sort((a, b) => b[1].share - a[1].share);
  return h("div", { class: "track-share" }, h("span", { class: "track-name" }, `#${track}`), stack(expressions),
    h("span", { class: "dim" }, `${top} ${percent(share)} · ${duration(seconds)}`));
}
