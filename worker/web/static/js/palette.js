// Which colour stands for which expression. The colours themselves are in base.css (--expr-0 …),
// one set for dark and one for light surfaces: at least 3:1 against them, and apart from each other
// for people with any of the three colour blindnesses (tests/worker/web/test_palette.py).

const ORDER = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt"];
const others = [];
let cache = new WeakMap();

/** Place of a label among the colours; a model's own labels share them in the order of appearance. */
export function indexOf(label) {
  const known = ORDER.indexOf(label);
  if (known >= 0) return known;
  if (!others.includes(label)) others.push(label);
  return others.indexOf(label) % ORDER.length;
}

export const variableOf = (label) => `var(--expr-${indexOf(label)})`;

/** Labels in the order in which they are always shown. */
export const ordered = (labels) =>
  [...labels].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));

const rank = (label) => (ORDER.includes(label) ? ORDER.indexOf(label) : ORDER.length);

/** The colours in force at an element, for a canvas: {of(label), ink, dim, line, surface, accent}. */
export function coloursAt(element) {
  let found = cache.get(element);
  if (!found) {
    const style = getComputedStyle(element);
    const value = (name) => style.getPropertyValue(name).trim();
    const expressions = ORDER.map((_, index) => value(`--expr-${index}`));
    found = {
      of: (label) => expressions[indexOf(label)],
      ink: value("--ink"), dim: value("--dim"), line: value("--line"),
      surface: value("--surface"), accent: value("--accent"),
    };
    cache.set(element, found);
  }
  return found;
}

/** Call `draw` when the reader's system changes between dark and light. */
export function onSchemeChange(draw) {
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => {
    cache = new WeakMap();
    draw();
  });
}
