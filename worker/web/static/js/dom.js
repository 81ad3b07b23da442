// Small helpers around the DOM. Text is always set as text, never as markup.

/** An element: h("p", {class: "dim", onclick: f, "aria-label": "…"}, "text", child, null). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Set text only where it changed, so that screen readers and selections are left in peace. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Run `draw` every `ms`, while the page is seen; returns the function that ends it. */
export function every(ms, draw) {
  const timer = setInterval(() => document.hidden || draw(), ms);
  return () => clearInterval(timer);
}

/** A canvas's context in CSS pixels, its backing store fitted to its size on the screen. */
export function fitted(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const [w, h_] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h_) [canvas.width, canvas.height] = [w, h_];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}
