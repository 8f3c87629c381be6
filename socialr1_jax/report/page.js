"use strict";
// The page's data and shared helpers. Text from the run reaches the page only through textContent.
// Objects of the data have no prototype, since a metric may be called "constructor".
const bare = (_, value) => value instanceof Object && !Array.isArray(value) ? Object.assign(Object.create(null), value) : value;
const {runs, meanings} = JSON.parse(document.getElementById("data").textContent, bare);
const on = runs.map(() => true);  // whether each run is shown
const redraws = [];  // called when a run is toggled or the page's width changes

function node(name, attributes, parent, text) {
  const svg = ["svg", "g", "line", "path", "circle", "rect", "text"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}
function show(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e6) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
  if (size >= 1e3) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}
function ticks(low, high, count, whole) {  // at steps of 1, 2 or 5 times a power of ten
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  let step = power * [1, 2, 5, 10].find(m => m * power >= rough * 0.999);
  if (whole) step = Math.max(1, step);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({length: last - first + 1}, (_, i) => Number(((first + i) * step).toPrecision(12)));
}
function nearest(xs, x) {
  return xs.reduce((best, candidate, i) => Math.abs(candidate - x) < Math.abs(xs[best] - x) ? i : best, 0);
}
function tone(run) {
  return `tone${run % 6}`;
}
function swatch(run, parent) {
  return node("span", {class: `swatch ${tone(run)}`}, parent);
}

document.querySelectorAll("[data-run]").forEach(box => box.addEventListener("change", () => {
  on[Number(box.dataset.run)] = box.checked;
  redraws.forEach(redraw => redraw());
}));
let width = document.body.clientWidth;
new ResizeObserver(() => {  // redraw only on a new width, since drawing changes heights
  if (document.body.clientWidth !== width) requestAnimationFrame(() => redraws.forEach(redraw => redraw()));
  width = document.body.clientWidth;
}).observe(document.body);
