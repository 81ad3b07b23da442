// A frame's picture, if there is one, with its event drawn over it, in the picture's coordinates.

import { fitted } from "./dom.js";
import { percent } from "./format.js";
import { coloursAt, ordered } from "./palette.js";
import { sentenceOf } from "./records.js";

const CASING = "rgb(0 0 0 / 65%)";
const PANEL = "rgb(8 10 13 / 72%)";
const WHITE = "#fff";

/**
 * Draw into a canvas that has the frame's proportions.
 * bitmap: the picture, or null for an empty frame; chosen: the track to put forward.
 */
export function drawFrame(canvas, event, bitmap, { chosen = null, empty = "" } = {}) {
  const { context, width, height } = fitted(canvas);
  const colours = coloursAt(canvas);
  if (bitmap) context.drawImage(bitmap, 0, 0, width, height);
  else drawEmpty(context, width, height, empty);
  if (event) {
    const scale = width / event.width;
    const pen = { context, width, height, scale, colours, size: width < 420 ? 10.5 : 12, taken: [] };
    // The chosen one first: among many faces there is not room for the words of each.
    const faces = [...event.faces].sort((a, b) => (b.track === chosen) - (a.track === chosen));
    for (const face of faces.toReversed()) drawBox(pen, face, face.track === chosen);
    drawPlates(pen, faces);
    for (const face of faces) pen.taken.push({ of: face, ...sides(pen, face.box) });
    for (const face of faces) drawBars(pen, face);
  }
  const sentence = sentenceOf(event);
  if (canvas.getAttribute("aria-label") !== sentence) canvas.setAttribute("aria-label", sentence);
}

function drawEmpty(context, width, height, words) {
  context.strokeStyle = "rgb(255 255 255 / 7%)";
  context.lineWidth = 1;
  context.beginPath();
  for (const part of [1 / 3, 2 / 3]) {
    context.moveTo(width * part, 0);
    context.lineTo(width * part, height);
    context.moveTo(0, height * part);
    context.lineTo(width, height * part);
  }
  context.stroke();
  context.fillStyle = "rgb(255 255 255 / 45%)";
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  context.textBaseline = "alphabetic";
  context.fillText(words, width - 8, height - 8);
  context.textAlign = "left";
}

function sides(pen, { left, top, right, bottom }) {
  const [x, y] = [left * pen.scale, top * pen.scale];
  return { x, y, w: (right - left) * pen.scale, h: (bottom - top) * pen.scale };
}

/** Whether a part covers nothing but what belongs to the same face. */
function isFree({ taken }, { of, x, y, w, h }) {
  return taken.every((one) => one.of === of
    || one.x >= x + w || x >= one.x + one.w || one.y >= y + h || y >= one.y + one.h);
}

function drawBox(pen, face, chosen) {
  const { context } = pen;
  const { x, y, w, h } = sides(pen, face.box);
  const line = chosen ? 3 : 2;
  // Followed faces have corners, detected ones a full box; what is not sure is dashed.
  const trace = face.tracked ? traceCorners : traceBox;
  context.setLineDash(face.uncertain ? [5, 4] : []);
  for (const [style, extra] of [[CASING, 2], [pen.colours.of(face.label), 0]]) {
    context.strokeStyle = style;
    context.lineWidth = line + extra;
    context.beginPath();
    trace(context, x, y, w, h);
    context.stroke();
  }
  context.setLineDash([]);
  if (w < 48) return;
  context.fillStyle = pen.colours.of(face.label);
  for (const point of face.landmarks) {
    context.beginPath();
    context.arc((point.x || 0) * pen.scale, (point.y || 0) * pen.scale, 1.4, 0, 7);
    context.fill();
  }
}

const traceBox = (context, x, y, w, h) => context.roundRect(x, y, w, h, 2);

function traceCorners(context, x, y, w, h) {
  const length = Math.max(6, Math.min(w, h) * 0.25);
  for (const [cx, cy, dx, dy] of [
    [x, y, 1, 1], [x + w, y, -1, 1], [x + w, y + h, -1, -1], [x, y + h, 1, -1],
  ]) {
    context.moveTo(cx + dx * length, cy);
    context.lineTo(cx, cy);
    context.lineTo(cx, cy + dy * length);
  }
}

/** What is written of a face: its track, with its expression and the share where there is room. */
function plateOf(pen, face, words) {
  const { context, size } = pen;
  const { x, y, h: height } = sides(pen, face.box);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const [w, h] = [context.measureText(words).width + 20, size + 7];
  const above = y - h - 2;
  return {
    of: face, words, w, h,
    x: Math.max(0, Math.min(x - 1, pen.width - w)),
    y: above >= 0 ? above : Math.min(y + height + 2, pen.height - h),
  };
}

function drawPlates(pen, faces) {
  const { context } = pen;
  const doubt = (face) => (face.uncertain ? "?" : "");
  pen.taken = faces.map((face) => plateOf(pen, face, `#${face.track}${doubt(face)}`));
  faces.forEach((face, index) => {
    const label = `#${face.track} ${face.label}${doubt(face)}`;
    const longer = [`${label} ${percent(face.shares[face.label] || 0)}`, label]
      .map((words) => plateOf(pen, face, words)).find((plate) => isFree(pen, plate));
    if (longer) pen.taken[index] = longer;
  });
  context.textBaseline = "middle";
  for (const { of, words, x, y, w, h } of pen.taken) {
    context.fillStyle = PANEL;
    context.beginPath();
    context.roundRect(x, y, w, h, 3);
    context.fill();
    context.fillStyle = pen.colours.of(of.label);
    context.fillRect(x + 5, y + h / 2 - 4, 8, 8);
    context.fillStyle = WHITE;
    context.fillText(words, x + 17, y + h / 2 + 0.5);
  }
}

/** One bar for each label beside the box: with names where there is room, else the bars alone. */
function drawBars(pen, face) {
  const { context } = pen;
  const { x, y, w, h } = sides(pen, face.box);
  const labels = ordered(Object.keys(face.shares));
  if (!labels.length || h < 24) return;
  const named = pen.width >= 520;
  const row = named ? 13 : Math.max(3, Math.min(6, h / labels.length));
  const length = named ? 116 : Math.max(18, Math.min(40, w * 0.5));
  const top = Math.max(0, Math.min(y, pen.height - row * labels.length));
  const place = (at) => ({ of: face, x: at, y: top, w: length, h: row * labels.length });
  const room = (at) => at >= 0 && at + length <= pen.width && isFree(pen, place(at));
  const left = [x + w + 4, x - 4 - length].find(room);
  if (left === undefined) return;
  pen.taken.push(place(left));
  context.fillStyle = PANEL;
  context.fillRect(left, top, length, row * labels.length);
  context.font = "10px system-ui, sans-serif";
  context.textBaseline = "middle";
  labels.forEach((label, index) => {
    const at = top + index * row;
    const share = Math.min(1, Math.max(0, face.shares[label]));
    context.fillStyle = pen.colours.of(label);
    // Names stand beside the bars, never on them: no colour has to carry text.
    const from = named ? left + 54 : left;
    context.fillRect(from, at + (named ? 3 : 0.5), Math.max(1, share * (left + length - from - 3)),
      row - (named ? 6 : 1));
    if (!named) return;
    context.fillStyle = WHITE;
    context.fillText(label, left + 4, at + row / 2);
  });
}
