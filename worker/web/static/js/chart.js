// The probabilities of one track over time, drawn by uPlot (vendor/).

import { clock, percent } from "./format.js";
import { coloursAt, ordered } from "./palette.js";

const HEIGHT = 170;
const MOST_POINTS = 1200;

/**
 * range(): [from, to] in ms; gutter(): width left of the time axis, as of the lanes above.
 * onZoom(from, to), onHover(ms or null) and onPick(ms) tell what the pointer does.
 */
export class Chart {
  #plot = null;
  #labels = [];

  constructor(parent, { range, gutter, onZoom, onHover, onPick }) {
    Object.assign(this, { parent, range, gutter, onZoom, onHover, onPick });
  }

  /** Draw the track's shares in `events`; `pause` ms without it break the lines. */
  draw(events, track, width) {
    const points = pointsOf(events, track);
    const labels = ordered(new Set(points.flatMap(({ face }) => Object.keys(face.shares))));
    if (labels.length && labels.join() !== this.#labels.join()) this.#labels = labels;
    if (!this.#labels.length || width < 80) return;
    const key = `${this.#labels.join()} ${this.gutter()}`;
    if (!this.#plot || key !== this.key) this.#make(width, key);
    if (this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT });
    this.#plot.setData(columnsOf(points, this.#labels));
  }

  /** Put the line of the cursor at a time; null takes it away. */
  point(ms) {
    if (!this.#plot) return;
    const left = ms === null ? -10 : this.#plot.valToPos(ms / 1000, "x");
    this.#plot.setCursor({ left, top: ms === null ? -10 : 1 }, false);
  }

  restyle() {
    this.key = "";
  }

  close() {
    this.#plot?.destroy();
    this.#plot = null;
  }

  #make(width, key) {
    this.close();
    this.key = key;
    const colours = coloursAt(this.parent);
    const axis = {
      stroke: colours.dim, grid: { stroke: colours.line, width: 1 },
      ticks: { stroke: colours.line, width: 1, size: 4 }, font: "11px system-ui, sans-serif",
    };
    this.#plot = new uPlot({
      width,
      height: HEIGHT,
      padding: [8, 0, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false, dist: 5 },
        points: { size: 6 },
        bind: { dblclick: () => null },
      },
      scales: {
        x: { time: true, range: () => this.range().map((ms) => ms / 1000) },
        y: { range: [0, 1.02] },
      },
      axes: [
        { ...axis, size: 26, space: 90, values: (plot, splits) => splits.map((s) => timeWords(plot, s)) },
        { ...axis, size: this.gutter(), splits: [0, 0.25, 0.5, 0.75, 1],
          values: (_, splits) => splits.map(percent) },
      ],
      series: [{}, ...this.#labels.map((label) => ({
        label, stroke: colours.of(label), width: 1.75, points: { show: false },
      }))],
      hooks: {
        setCursor: [(plot) => plot.cursor.event && this.onHover(this.#time(plot.cursor.left))],
        setSelect: [(plot) => {
          const { left, width: chosen } = plot.select;
          if (chosen > 4) this.onZoom(this.#time(left), this.#time(left + chosen));
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
      },
    }, null, this.parent);
    this.#plot.over.addEventListener("mouseleave", () => this.onHover(null));
    this.#plot.over.addEventListener("click", (event) => {
      this.onPick(this.#time(event.offsetX));
    });
  }

  #time(left) {
    return left < 0 ? null : this.#plot.posToVal(left, "x") * 1000;
  }
}

function pointsOf(events, track) {
  const points = [];
  for (const event of events) {
    const face = event.faces.find((one) => one.track === track);
    if (face) points.push({ ms: event.ms, face });
  }
  const stride = Math.ceil(points.length / MOST_POINTS);
  return stride > 1 ? points.filter((_, index) => index % stride === 0) : points;
}

/** A time under the axis; none where it would be cut off. */
function timeWords(plot, seconds) {
  const at = plot.valToPos(seconds, "x");
  return at < 24 || at > plot.over.clientWidth - 26 ? "" : clock(Math.round(seconds * 1000));
}

/** uPlot's form: one array of seconds, then one of shares for each label; null breaks a line. */
function columnsOf(points, labels) {
  const columns = [[], ...labels.map(() => [])];
  const span = points.length > 1 ? (points.at(-1).ms - points[0].ms) / (points.length - 1) : 0;
  const pause = Math.max(1000, 3 * span);
  points.forEach(({ ms, face }, index) => {
    if (index && ms - points[index - 1].ms > pause) {
      columns.forEach((column, place) => column.push(place ? null : (ms - 1) / 1000));
    }
    columns[0].push(ms / 1000);
    labels.forEach((label, place) => columns[place + 1].push(face.shares[label] ?? null));
  });
  return columns;
}
