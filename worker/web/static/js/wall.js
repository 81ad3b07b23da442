// The wall: a card for each feed, and the workers below. Only cards on the screen are followed live.

import { every, h, say } from "./dom.js";
import { count, latency, percent, rate, short } from "./format.js";
import { drawLanes } from "./lanes.js";
import { drawFrame } from "./overlay.js";
import { lanesOf } from "./series.js";
import { serverClock } from "./state.js";
import { workersPanel } from "./workers.js";

const STRIP_MS = 60_000;
const STRIP_LANES = 3;
const STRIP_ROW = 11;
const PICTURE_PAUSE_MS = 700;

/**
 * The wall as a view: {element, update(), follow(), restart(), redraw(), close(), key(event)}.
 * `app`: see app.js.
 */
export function wallView(app) {
  const grid = h("ul", { class: "wall", "aria-label": "Feeds" });
  const nothing = h("div", { class: "nothing" });
  const workers = workersPanel();
  const element = h("div", { class: "wall-view" }, nothing, grid, workers.element);
  const cards = new Map();
  const seen = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) seen.add(target.dataset.feed);
      else seen.delete(target.dataset.feed);
    }
    app.follow();
  }, { rootMargin: "120px" });

  function update() {
    const names = [...app.feeds.keys()].sort();
    const wanted = new Set(names.filter((name) => name.toLowerCase().includes(app.filter)));
    for (const [name, card] of cards) {
      if (wanted.has(name)) continue;
      observer.unobserve(card.element);
      card.element.remove();
      cards.delete(name);
      seen.delete(name);
    }
    let place = grid.firstElementChild;
    for (const name of names) {
      if (!wanted.has(name)) continue;
      let card = cards.get(name);
      if (!card) {
        cards.set(name, (card = cardOf(app.feeds.get(name))));
        grid.insertBefore(card.element, place);
        observer.observe(card.element);
      } else place = card.element.nextElementSibling;
      card.update(app);
    }
    showNothing(nothing, app, names.length, wanted.size);
    workers.update(app);
  }

  const stop = every(200, () => {
    for (const name of seen) cards.get(name)?.draw();
  });

  return {
    element,
    update,
    follow: () => ({ names: [...seen], pause: PICTURE_PAUSE_MS }),
    restart() {},
    redraw() {
      for (const card of cards.values()) card.state.changed = true;
    },
    close() {
      stop();
      observer.disconnect();
    },
    key: (event) => moveFocus(event, grid),
  };
}

function cardOf(state) {
  const canvas = h("canvas", { class: "picture", role: "img", "aria-label": "No event yet." });
  const stage = h("div", { class: "stage" }, canvas);
  const strip = h("canvas", { class: "strip", "aria-hidden": "true" });
  const condition = h("p", { class: "condition" });
  const policy = h("span", { class: "tag" });
  const figures = Object.fromEntries(
    ["in/s", "out/s", "p50", "p95", "dropped", "dead"].map((name) => [name, h("dd")]));
  const titles = {
    "in/s": "frames accepted a second", "out/s": "events published a second",
    p50: "from ingest to event, median of the last minute",
    p95: "from ingest to event, 95th percentile of the last minute",
    dropped: "dropped or skipped, of all frames", dead: "dead letters: could not be analysed",
  };
  const element = h("li", { class: "card", "data-feed": state.name },
    stage,
    h("div", { class: "card-head" },
      h("h2", {}, h("a", { href: `#/feed/${encodeURIComponent(state.name)}` }, state.name)),
      policy, condition),
    strip,
    h("dl", { class: "figures" }, Object.entries(figures).map(([name, value]) =>
      h("div", { title: titles[name] }, h("dt", {}, name), value))));

  let drawnAt = 0;
  return {
    element,
    state,
    update(app) {
      const { level, words } = state.condition(app.problem, app.running);
      element.dataset.level = level;
      say(condition, words);
      const told = state.figures;
      if (!told) return;
      say(policy, told.settings?.policy ?? "");
      say(figures["in/s"], rate(told.offered_per_s));
      say(figures["out/s"], rate(told.published_per_s));
      const late = state.series.latencies(STRIP_MS);
      say(figures.p50, latency(late?.p50));
      say(figures.p95, latency(late?.p95));
      const lost = told.dropped + told.skipped;
      say(figures.dropped, lost ? `${short(lost)} · ${percent(lost / told.offered)}` : "0");
      say(figures.dead, count(told.dead));
      element.classList.toggle("has-dead", told.dead > 0);
    },
    draw() {
      // The strip moves on with time even when nothing new comes.
      const now = performance.now();
      if (!state.changed && now - drawnAt < 1000) return;
      drawnAt = now;
      state.changed = false;
      const { event, bitmap } = state.shown;
      if (event) stage.style.aspectRatio = `${event.width} / ${event.height}`;
      drawFrame(canvas, event, bitmap, { empty: event && state.withoutPictures ? "pictures are off" : "" });
      const to = serverClock.now();
      const lanes = lanesOf(state.series.between(to - STRIP_MS, to)).slice(0, STRIP_LANES);
      drawLanes(strip, lanes, to - STRIP_MS, to, { row: STRIP_ROW, known: state.series.oldest?.ms });
    },
  };
}

function showNothing(element, app, all, wanted) {
  element.hidden = wanted > 0;
  if (wanted > 0) return;
  if (all > 0) element.replaceChildren(h("p", {}, `No feed's name contains “${app.filter}”.`));
  else if (app.looked) {
    element.replaceChildren(
      h("h2", {}, "No feed yet"),
      h("p", {}, "A feed appears here as soon as somebody pushes to it:"),
      h("pre", {}, h("code", {}, "mien push holiday.mp4 --feed holiday")));
  } else element.replaceChildren(h("p", { class: "dim" }, app.problem ? "" : "Looking …"));
}

/** Arrow keys move between the cards as they lie on the screen. */
function moveFocus(event, grid) {
  const links = [...grid.querySelectorAll("h2 a")];
  const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
  if (!step || !links.length) return false;
  const current = links.indexOf(document.activeElement);
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const next = current < 0 ? 0 : current + step[0] + step[1] * columns;
  links[Math.max(0, Math.min(links.length - 1, next))].focus();
  return true;
}
