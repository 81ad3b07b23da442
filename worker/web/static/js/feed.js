// One feed: its picture and faces, the timeline, the shares of the expressions, its books.

import { figuresPanel } from "./books.js";
import { every, h, say } from "./dom.js";
import { facesPanel } from "./faces.js";
import { moment } from "./format.js";
import { drawFrame } from "./overlay.js";
import { FeedState } from "./state.js";
import { sharesPanel } from "./shares.js";
import { timeline } from "./timeline.js";

const PICTURE_PAUSE_MS = 200;
const EVENTS_KEPT = 30_000;

/** The feed as a view, as wallView: {element, name, update(), follow(), restart(), redraw(), close(), key(event)}. */
export function feedView(app, name) {
  // A link may name a feed that is not there yet, or not known yet.
  if (!app.feeds.has(name)) app.feeds.set(name, new FeedState(name));
  const state = app.feeds.get(name);
  state.series.limit = EVENTS_KEPT;
  state.changed = true;
  let begun = false; // nothing is asked for a feed that is not there

  const condition = h("p", { class: "condition", role: "status" });
  const canvas = h("canvas", { class: "picture", role: "img", "aria-label": "No event yet." });
  const stage = h("div", { class: "stage" }, canvas);
  const caption = h("p", { class: "caption dim" });
  const time = timeline(state, () => {
    state.changed = true;
    shares.ask(time.range);
    draw();
  });
  const faces = facesPanel((track) => time.choose(track));
  const shares = sharesPanel(name);
  const figures = figuresPanel();
  const element = h("article", { class: "feed-view" },
    h("div", { class: "feed-head" },
      h("a", { class: "back", href: "#/" }, "← All feeds"), h("h1", {}, name), condition),
    h("div", { class: "look" }, h("figure", { class: "panel" }, stage, caption), faces.element),
    time.element,
    h("div", { class: "below" }, shares.element, figures.element));

  function draw() {
    const { event, bitmap } = time.pinned ? { event: time.pinned, bitmap: null } : state.shown;
    if (event) stage.style.aspectRatio = `${event.width} / ${event.height}`;
    const why = time.pinned ? "pictures of the past are not kept" : state.withoutPictures ? "pictures are off" : "";
    drawFrame(canvas, event, bitmap, { chosen: time.chosen, empty: event ? why : "" });
    faces.update(event, time.chosen);
    say(caption, event ? `${time.pinned ? "Frame of" : "Frame"} ${moment(event.ms)} · ${event.width} × ${
      event.height} · ${event.classifier.name} ${event.classifier.version}` : "");
    state.changed = false;
  }

  const stops = [
    every(120, () => state.changed && !time.pinned && draw()),
    every(250, () => time.range.live && time.draw()),
    every(4000, () => begun && state.figures && time.range.live && shares.ask(time.range)),
  ];

  function begin() {
    begun = true;
    time.load();
    shares.ask(time.range);
  }

  return {
    element,
    name,
    update() {
      const missing = app.looked && !app.problem && !state.figures;
      const { level, words } = missing
        ? { level: "warn", words: `there is no feed ${name} (yet)` }
        : state.condition(app.problem, app.running);
      element.dataset.level = level;
      say(condition, words);
      figures.update(state);
      if (!begun && state.figures) begin();
    },
    follow: () => ({ names: [name], pause: PICTURE_PAUSE_MS }),
    restart: () => time.restart(),
    redraw() {
      time.restyle();
      time.draw();
      draw();
    },
    close() {
      for (const stop of stops) stop();
      time.close();
      shares.close();
      state.series.limit = FeedState.WALL_EVENTS;
    },
    key: (event) => time.key(event),
  };
}
