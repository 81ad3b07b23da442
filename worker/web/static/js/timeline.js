// The timeline of one feed: a lane for each track, and the probabilities of the chosen one below.
// Dragging zooms (on a touch screen: moves), a click shows the frame of that moment.

import { history } from "./api.js";
import { Chart } from "./chart.js";
import { h, say } from "./dom.js";
import { duration, moment, plural } from "./format.js";
import { drawLanes } from "./lanes.js";
import { followPointer } from "./pointer.js";
import { Range } from "./range.js";
import { wordsOf } from "./records.js";
import { lanesOf } from "./series.js";

const ROW = 24;
const MOST_LANES = 200;
const PAGE = 500;
const SPANS = [["30 s", 30_000], ["2 min", 120_000], ["10 min", 600_000], ["1 h", 3_600_000]];

/** onChange(): another range, track or moment is shown. */
export function timeline(state, onChange) {
  const range = new Range(SPANS[1][1]);
  const view = { range, chosen: null, pinned: null };
  let [hover, older, loading, byHand] = [null, true, false, false];

  const spans = SPANS.map(([words, ms]) => h("button", {
    type: "button", class: "plain", onclick: () => move(() => { range.span = ms; }),
  }, words));
  const live = h("button", { type: "button", class: "plain live", onclick: () => goLive() }, "Live");
  const button = (words, label, act) =>
    h("button", { type: "button", class: "plain", "aria-label": label, title: label, onclick: () => move(act) }, words);
  const shown = h("p", { class: "shown" });
  const names = h("div", { class: "lane-names", role: "radiogroup", "aria-label": "Faces, by track" });
  const canvas = h("canvas", { class: "lanes", "aria-hidden": "true" });
  const marker = h("div", { class: "marker", hidden: true });
  const area = h("div", { class: "lane-area" }, canvas, marker);
  const scroller = h("div", { class: "lane-scroller" }, names, area);
  const plot = h("div", { class: "plot" });
  const readout = h("p", { class: "readout", role: "status" });
  const element = h("section", { class: "panel timeline", "aria-label": "Timeline" },
    h("div", { class: "tools" },
      h("h2", {}, "Timeline"), shown,
      h("div", { class: "buttons", role: "group", "aria-label": "Length shown" }, spans),
      h("div", { class: "buttons" },
        button("‹", "Back in time (←)", () => range.pan(-0.5)),
        button("›", "Forth in time (→)", () => range.pan(0.5)),
        button("−", "Zoom out (−)", () => range.zoom(2)),
        button("+", "Zoom in (+)", () => range.zoom(0.5)), live)),
    scroller, plot, readout);

  const chart = new Chart(plot, {
    range: () => [range.from, range.to],
    gutter: () => names.offsetWidth,
    onZoom: (from, to) => move(() => range.show(from, to)),
    onHover: (ms) => hoverAt(ms),
    onPick: (ms) => pin(ms),
  });

  function move(act) {
    act();
    load();
    draw();
    onChange();
  }

  function goLive() {
    view.pinned = null;
    move(() => range.goLive());
  }

  function pin(ms) {
    const found = ms === null ? null : state.series.nearest(ms, Math.max(1000, range.span / 10));
    if (!found) return;
    move(() => {
      range.hold();
      view.pinned = found;
    });
  }

  function choose(track) {
    view.chosen = track;
    byHand = true;
    draw();
    onChange();
  }

  function hoverAt(ms) {
    hover = ms;
    showMarker();
  }

  function showMarker() {
    const at = hover ?? view.pinned?.ms ?? null;
    const share = at === null ? -1 : (at - range.from) / range.span;
    marker.hidden = share < 0 || share > 1;
    marker.style.left = `${share * 100}%`;
    if (hover === null) chart.point(at);
    const event = at === null ? null : state.series.nearest(at, Math.max(1000, range.span / 50));
    say(readout, event ? `${moment(event.ms)}  ${event.faces.map(wordsOf).join("   ") || "no face"}` : "");
  }

  async function load() {
    if (loading || !older || (state.series.oldest?.ms ?? Infinity) <= range.from) return;
    loading = true;
    try {
      const { events, next } = await history(state.name, state.series.oldest?.id, PAGE);
      const before = state.series.events.length;
      for (const event of events) state.addEvent(event);
      older = Boolean(next) && state.series.events.length > before;
    } catch {
      older = false; // the banner says what is wrong; Live or another zoom asks again
      setTimeout(() => { older = true; }, 5000);
    }
    loading = false;
    draw();
    if (older) load();
  }

  function lanesShown(events) {
    const lanes = lanesOf(events).slice(0, MOST_LANES);
    const frame = view.pinned ?? events.at(-1);
    const there = byHand
      ? lanes.some((lane) => lane.track === view.chosen)
      : frame?.faces.some((face) => face.track === view.chosen);
    if (!there) {
      // The largest face of the frame that is shown, or whoever was there last.
      const faces = [...(frame?.faces ?? [])].sort((a, b) => areaOf(b.box) - areaOf(a.box));
      view.chosen = faces[0]?.track ?? lanes[0]?.track ?? null;
      byHand = false;
    }
    return lanes;
  }

  function draw() {
    const { from, to } = range;
    const events = state.series.between(from, to);
    const lanes = lanesShown(events);
    showNames(lanes);
    canvas.style.height = `${Math.max(1, lanes.length) * ROW}px`;
    drawLanes(canvas, lanes, from, to, { row: ROW, chosen: view.chosen, gaps: state.series.gaps, words: true, known: state.series.oldest?.ms });
    chart.draw(events, view.chosen, scroller.clientWidth);
    spans.forEach((one, index) => one.setAttribute("aria-pressed", range.span === SPANS[index][1]));
    live.setAttribute("aria-pressed", range.live && !view.pinned);
    say(shown, whatIsShown(lanes.length));
    showMarker();
  }

  function whatIsShown(tracks) {
    const { oldest, gaps } = state.series;
    const words = [`${moment(range.from)} – ${range.live ? "now" : moment(range.to)}`,
      plural(tracks, "face")];
    if (loading) words.push("loading what came before …");
    else if (oldest && !older && oldest.ms > range.from) words.push(`nothing older than ${moment(oldest.ms)} is kept`);
    const missing = gaps.reduce((sum, gap) => sum + (gap.missing ?? 1), 0);
    if (missing) words.push(`${plural(missing, "event")} trimmed before they could be shown`);
    return words.join(" · ");
  }

  function showNames(lanes) {
    while (names.children.length > lanes.length) names.lastElementChild.remove();
    lanes.forEach(({ track, last, spans: pieces }, index) => {
      const name = names.children[index] ?? names.appendChild(h("button", {
        type: "button", role: "radio", onclick: (event) => choose(Number(event.currentTarget.dataset.track)),
      }));
      name.dataset.track = track;
      say(name, `#${track}`);
      const checked = track === view.chosen;
      name.setAttribute("aria-checked", checked);
      name.tabIndex = checked ? 0 : -1;
      name.setAttribute("aria-label", `Track ${track}: ${last.label}${last.uncertain ? ", not sure" : ""}, seen for ${
        duration((pieces.at(-1).to - pieces[0].from) / 1000)}`);
    });
  }

  followPointer(area, {
    timeAt: (x) => range.from + (x / area.clientWidth) * range.span,
    hoverAt, pin,
    zoomTo: (from, to) => move(() => range.show(from, to)),
    pan: (share) => move(() => range.pan(share)),
    zoomAbout: (factor, ms) => move(() => range.zoom(factor, ms)),
  });

  function key(event) {
    const acts = {
      ArrowLeft: () => range.pan(-0.25), ArrowRight: () => range.pan(0.25),
      "+": () => range.zoom(0.5), "=": () => range.zoom(0.5), "-": () => range.zoom(2),
    };
    if (acts[event.key]) move(acts[event.key]);
    else if (event.key === "l" || event.key === "L") goLive();
    else if (event.key === "Escape" && (view.pinned || !range.live)) goLive();
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") step(event.key === "ArrowUp" ? -1 : 1);
    else return false;
    return true;
  }

  function step(by) {
    const tracks = [...names.children].map((name) => Number(name.dataset.track));
    const place = tracks.indexOf(view.chosen) + by;
    if (place < 0 || place >= tracks.length) return;
    choose(tracks[place]);
    if (names.contains(document.activeElement)) names.children[place].focus();
    names.children[place].scrollIntoView({ block: "nearest" });
  }

  return Object.assign(view, {
    element, draw, load, key, choose,
    restart() {
      older = true;
      load();
    },
    restyle: () => chart.restyle(),
    close: () => chart.close(),
  });
}

const areaOf = ({ left, top, right, bottom }) => (right - left) * (bottom - top);
