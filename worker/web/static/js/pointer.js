// What mouse, pen and finger do on the lanes: hover, click, drag to zoom, swipe to move.

import { h } from "./dom.js";

const CLICK_PX = 5;

/** area: the element; acts: {timeAt(x), hoverAt(ms|null), pin(ms), zoomTo(from, to), pan(share), zoomAbout(factor, ms)}. */
export function followPointer(area, acts) {
  const band = h("div", { class: "band", hidden: true });
  area.append(band);
  let start = null;
  const xOf = (event) => event.clientX - area.getBoundingClientRect().left;

  area.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    start = xOf(event);
    area.setPointerCapture(event.pointerId);
  });
  area.addEventListener("pointermove", (event) => {
    const x = xOf(event);
    acts.hoverAt(acts.timeAt(x));
    if (start === null || Math.abs(x - start) < CLICK_PX) return;
    if (event.pointerType === "touch") {
      acts.pan((start - x) / area.clientWidth);
      start = x;
      return;
    }
    band.hidden = false;
    band.style.left = `${Math.min(start, x)}px`;
    band.style.width = `${Math.abs(x - start)}px`;
  });
  area.addEventListener("pointerup", (event) => {
    if (start === null) return;
    const x = xOf(event);
    const [from, to] = [Math.min(start, x), Math.max(start, x)].map(acts.timeAt);
    if (Math.abs(x - start) < CLICK_PX) acts.pin(acts.timeAt(x));
    else if (event.pointerType !== "touch") acts.zoomTo(from, to);
    end();
  });
  area.addEventListener("pointercancel", end);
  area.addEventListener("pointerleave", () => start === null && acts.hoverAt(null));
  area.addEventListener("wheel", (event) => {
    // The page scrolls as ever: only a pinch, Ctrl and a sideways wheel are ours.
    if (event.ctrlKey || event.metaKey) acts.zoomAbout(event.deltaY > 0 ? 1.25 : 0.8, acts.timeAt(xOf(event)));
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) acts.pan(event.deltaX / area.clientWidth);
    else return;
    event.preventDefault();
  }, { passive: false });

  function end() {
    start = null;
    band.hidden = true;
  }
}
