// Curves over steps: one chart per metric, one colour per run. Known metrics have a title and a place; others follow.

// [group, phase, key, title, note, axis: "share" 0..1 | "zero" from 0 | "auto"]
const KNOWN = [
  ["Held-out questions", "eval", "accuracy", "Accuracy", "share of right answers", "auto"],
  ["Held-out questions", "eval", "pair_accuracy", "Pair accuracy", "all twins of a group right", "auto"],
  ["Held-out questions", "eval", "reward", "Reward", "weights of step 0", "auto"],
  ["Held-out questions", "eval", "format_rate", "Format rate", "share of responses", "auto"],
  ["Held-out questions", "eval", "response_tokens", "Response length", "tokens", "auto"],
  ["Training", "grpo", "reward/total", "Total reward", "mean of the step", "auto"],
  ["Training", "grpo", "accuracy", "Accuracy", "share of right answers", "auto"],
  ["Training", "grpo", "format_rate", "Format rate", "share of responses", "auto"],
  ["Training", "grpo", "response_tokens", "Response length", "tokens", "auto"],
  ["Training", "grpo", "truncated", "Truncated", "cut at the length limit, share", "zero"],
  ["Training", "grpo", "entropy", "Entropy", "nats a token", "zero"],
  ["Training", "grpo", "kl", "KL to the reference", "nats a token", "zero"],
  ["Training", "grpo", "zero_variance_groups", "Groups without variance", "no gradient", "zero"],
  ["Reward terms and weights", "grpo", "reward/outcome", "Outcome", "answer equals gold", "share"],
  ["Reward terms and weights", "grpo", "reward/structure", "Structure", "four stages in order", "share"],
  ["Reward terms and weights", "grpo", "reward/content", "Content", "reward model", "zero"],
  ["Reward terms and weights", "grpo", "reward/format", "Format", "all four tags once, in order", "share"],
  ["Reward terms and weights", "grpo", "weight/structure", "Weight of structure", "curriculum", "zero"],
  ["Reward terms and weights", "grpo", "weight/content", "Weight of content", "curriculum", "zero"],
  ["Reward terms and weights", "grpo", "reward/length_window", "Length window", "characters of thoughts", "share"],
  ["Reward terms and weights", "grpo", "reward/repetition", "Repetition", "1 = nothing repeated", "share"],
  ["Reward terms and weights", "grpo", "truth/mean", "Truth of the thoughts", "generated stories: share of statements", "share"],
  ["Reward terms and weights", "grpo", "truth/structure_gap", "Structure without truth", "its rise less that of the truth, deviations", "auto"],
  ["Reward terms and weights", "grpo", "truth/content_gap", "Content without truth", "its rise less that of the truth, deviations", "auto"],
  ["Reward terms and weights", "grpo", "reward/unscorable", "Unscorable", "share of responses", "zero"],
  ["Policy update", "grpo", "loss", "Loss", "with the KL term", "auto"],
  ["Policy update", "grpo", "grad_norm", "Gradient norm", "before the clip", "zero"],
  ["Policy update", "grpo", "clip_fraction", "Clipped", "share of tokens", "zero"],
  ["Policy update", "grpo", "ratio_max", "Largest ratio", "new to old policy", "auto"],
  ["Policy update", "grpo", "learning_rate", "Learning rate", "", "zero"],
  ["Time", "grpo", "seconds", "Seconds a step", "", "zero"],
  ["Time", "grpo", "tokens_per_second", "Tokens a second", "", "zero"],
  ["Other metrics", "eval", "truncated", "Truncated", "held-out questions, share", "zero"],
  ["Cold start", "sft", "loss", "SFT loss", "reference traces", "zero"],
  ["Cold start", "sft", "learning_rate", "SFT learning rate", "", "zero"],
];
// the group of a metric that is not listed above: [pattern of "phase/key", group]; the first match counts
const PLACES = [
  [/^eval\/(.*\/)?(accuracy|pair_accuracy|(mean|maj|pass|best)@\d+)$/, "Held-out questions"],
  [/^eval\/(.*\/)?accuracy\//, "Held-out accuracy by type"],
  [/^grpo\/source\//, "By source"],
  [/^grpo\/(reward|weight|truth)\//, "Reward terms and weights"],
  [/^grpo\/(ratio|mismatch|skipped|nonfinite|kl|clip)/, "Policy update"],
  [/^grpo\/(seconds|update_tflops)/, "Time"],
  [/^sft\//, "Cold start"],
];
// dashed lines in a chart: [pattern of its key, replacement for the match, name, class]
const LEVELS = [
  [/(^|\/)accuracy$/, "$1chance", "guessing", "level chance"],
  [/(^|\/)accuracy$/, "$1best_rule_accuracy", "best rule", "level"],
  [/(^|\/)pair_accuracy$/, "$1best_rule_pair_accuracy", "best rule", "level"],
  [/(^|\/)accuracy\//, "$1best_rule_accuracy/", "best rule", "level"],
];
const GROUPS = ["Held-out questions", "Held-out accuracy by type", "Training", "Reward terms and weights", "By source", "Policy update", "Time", "Cold start", "Other metrics"];
const OPEN = GROUPS.slice(0, 4);
const SPREAD = /_(stderr|low|high)$/;  // drawn as an interval of the metric with this prefix
const TOP = 8, BOTTOM = 24, HEIGHT = 160;

let smoothing = 0.6;
const charts = [];

function hasMetric(phase, key) {
  return runs.some(run => run.metrics[phase] && run.metrics[phase][key]);
}
function levelsOf(phase, key) {  // [key, name, class] of the dashed lines in a chart
  const fitting = phase === "eval" ? LEVELS.filter(([pattern]) => pattern.test(key)) : [];
  return fitting.map(([pattern, end, ...look]) => [key.replace(pattern, end), ...look]).filter(([level]) => level !== key && hasMetric(phase, level));
}
function allCharts() {  // in the order of GROUPS, known metrics first, but the scores of all question files together
  const lines = new Set(runs.flatMap(run => Object.keys(run.metrics.eval || {})).flatMap(key => levelsOf("eval", key).map(([level]) => `eval ${level}`)));
  const found = KNOWN.filter(([, phase, key]) => hasMetric(phase, key));
  let scores = found.filter(([, phase, key]) => phase === "eval" && ["accuracy", "pair_accuracy", "reward"].includes(key)).length;
  const known = new Set(KNOWN.map(([, phase, key]) => `${phase} ${key}`));
  const names = new Set(runs.flatMap(run => Object.keys(run.metrics).flatMap(phase =>
    Object.keys(run.metrics[phase]).filter(key => key !== "step").map(key => JSON.stringify([phase, key])))));
  for (const [phase, key] of [...names].sort().map(name => JSON.parse(name))) {
    const spread = SPREAD.test(key) && hasMetric(phase, key.replace(SPREAD, ""));
    if (known.has(`${phase} ${key}`) || lines.has(`${phase} ${key}`) || spread) continue;
    const place = PLACES.find(([pattern]) => pattern.test(`${phase}/${key}`));
    const made = [place ? place[1] : "Other metrics", phase, key, key, place || phase === "grpo" ? "" : `phase ${phase}`, "auto"];
    found.splice(made[0] === GROUPS[0] ? scores++ : found.length, 0, made);
  }
  return GROUPS.flatMap(group => found.filter(([its]) => its === group));
}
function smooth(values) {  // exponential moving average with bias correction
  let mean = 0, weight = 0;
  return values.map(value => { mean = smoothing * mean + (1 - smoothing) * value; weight = smoothing * weight + 1 - smoothing; return mean / weight; });
}
function series({phase, key}, run) {
  const columns = runs[run].metrics[phase];
  if (!columns || !columns[key]) return null;
  const keep = columns.step.map((_, i) => i).filter(i => columns[key][i] !== null);
  const pick = name => keep.map(i => columns[name] ? columns[name][i] : null);
  const y = pick(key), error = pick(key + "_stderr"), lows = pick(key + "_low"), highs = pick(key + "_high");
  const low = y.map((value, i) => lows[i] ?? value - 1.96 * (error[i] ?? 0));
  const high = y.map((value, i) => highs[i] ?? value + 1.96 * (error[i] ?? 0));
  const levels = levelsOf(phase, key).map(([level, name, look]) => [pick(level).findLast(value => value !== null), name, look]);
  return {run, x: keep.map(i => columns.step[i]), y, low, high, levels: levels.filter(([value]) => value !== undefined)};
}

function addChart([group, phase, key, title, note, axis]) {
  let room = document.getElementById("group " + group);
  if (!room) {
    const details = node("details", {class: "group"}, document.getElementById("charts"));
    details.open = OPEN.includes(group);
    node("small", {}, node("summary", {}, details, group));
    room = node("div", {class: "charts", id: "group " + group}, details);
    details.addEventListener("toggle", () => charts.filter(chart => chart.details === details).forEach(draw));
  }
  const figure = node("figure", {}, room), caption = node("figcaption", {}, figure);
  const meaning = (meanings[phase] || {})[key] || "";
  if (meaning) caption.setAttribute("title", `${key}: ${meaning}`);
  node("strong", {}, caption, title);
  node("span", {}, caption, note);
  const readout = node("div", {class: "readout"}, caption);
  const svg = node("svg", {height: HEIGHT, role: "img", tabindex: 0}, figure);
  const clock = phase === "eval" ? "grpo" : phase;  // charts of one clock share their steps
  const names = runs.flatMap(run => Object.keys(run.metrics[phase] || {})).filter(name => SPREAD.test(name) && name.replace(SPREAD, "") === key);
  const levels = levelsOf(phase, key).map(([level]) => level);
  const chart = {phase, key, title, axis, clock, figure, readout, svg, details: room.parentElement, cursor: null, lines: []};
  chart.words = [title, note, phase, key, ...names, ...levels].join(" ").toLowerCase();
  charts.push(chart);
  svg.addEventListener("pointermove", event => point(clock, chart.invert(event.clientX - svg.getBoundingClientRect().left)));
  svg.addEventListener("pointerleave", () => point(clock, null));
  svg.addEventListener("blur", () => point(clock, null));
  svg.addEventListener("keydown", event => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key], xs = longest([chart]);
    if (!move || !xs.length) return;
    event.preventDefault();
    const at = chart.cursor === null ? xs.length - 1 : nearest(xs, chart.cursor) + move;
    point(clock, xs[Math.min(xs.length - 1, Math.max(0, at))]);
  });
}
function isVisible(chart) {
  return chart.details.open && !chart.figure.hidden && !chart.details.hidden;
}
function spanOf(clock) {  // first and last step of all charts of a clock
  const steps = runs.flatMap((run, i) => on[i] ? Object.keys(run.metrics).filter(phase => phase === clock || (clock === "grpo" && phase === "eval")).map(phase => run.metrics[phase].step) : []);
  const first = Math.min(...steps.map(xs => xs[0]));
  return [first, Math.max(...steps.map(xs => xs[xs.length - 1]), first + 1)];
}

function draw(chart) {
  if (!isVisible(chart)) return;
  const {svg, axis} = chart, width = svg.clientWidth || 320;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  chart.lines = runs.map((_, run) => on[run] ? series(chart, run) : null).filter(line => line && line.x.length);
  chart.overlay = node("g", {}, svg);
  mark(chart, null);
  if (!chart.lines.length) return;
  const levels = chart.lines.flatMap(line => line.levels.map(([value]) => value));
  let low = Math.min(...chart.lines.flatMap(line => line.low), ...levels), high = Math.max(...chart.lines.flatMap(line => line.high), ...levels);
  if (axis !== "auto") low = Math.min(0, low);
  if (axis === "share") [low, high] = [0, Math.max(1, high)];
  if (low === high) [low, high] = low === 0 ? [0, 1] : [low - Math.abs(low) * 0.1, high + Math.abs(high) * 0.1];
  const yTicks = ticks(low, high, 4), labels = yTicks.map(show), [bottom, top] = [yTicks[0], yTicks[yTicks.length - 1]];
  const left = 10 + 6.4 * Math.max(...labels.map(label => label.length)), right = width - 10;
  const [first, end] = spanOf(chart.clock);
  const px = chart.px = x => left + (x - first) / (end - first) * (right - left);
  const py = chart.py = y => HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - BOTTOM - TOP);
  chart.invert = pixel => first + (pixel - left) / (right - left) * (end - first);
  yTicks.forEach((tick, i) => {
    node("line", {class: "grid", x1: left, x2: right, y1: py(tick), y2: py(tick)}, svg);
    node("text", {x: left - 6, y: py(tick) + 4, "text-anchor": "end"}, svg, labels[i]);
  });
  for (const tick of ticks(first, end, width < 400 ? 5 : 8, true))
    if (tick >= first && tick <= end) node("text", {x: px(tick), y: HEIGHT - 6, "text-anchor": "middle"}, svg, tick);
  const path = (xs, ys) => xs.map((x, i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(ys[i]).toFixed(1)}`).join("");
  for (const line of chart.lines) {
    line.levels.forEach(([value, name, look]) => {
      node("line", {class: `${look} ${tone(line.run)}`, x1: left, x2: right, y1: py(value), y2: py(value)}, svg);
      if (line === chart.lines[0]) node("text", {x: right, y: py(value) - 4, "text-anchor": "end"}, svg, `${name} ${show(value)}`);
    });
    const points = chart.phase === "eval" || line.x.length === 1, colour = tone(line.run);
    if (!points && smoothing > 0) node("path", {class: `curve raw ${colour}`, d: path(line.x, line.y)}, svg);
    node("path", {class: `curve ${colour}`, d: path(line.x, points ? line.y : smooth(line.y))}, svg);
    if (points) line.x.forEach((x, i) => {
      if (line.high[i] > line.low[i]) node("line", {class: `whisker ${colour}`, x1: px(x), x2: px(x), y1: py(Math.min(line.high[i], top)), y2: py(Math.max(line.low[i], bottom))}, svg);
      node("circle", {class: `dot ${colour}`, cx: px(x), cy: py(line.y[i]), r: 3.5}, svg);
    });
  }
  svg.append(chart.overlay);
  svg.setAttribute("aria-label", `${chart.title}: ${chart.lines.map(line => `${runs[line.run].name} ${show(line.y[0])} at step ${line.x[0]}, ${show(line.y[line.y.length - 1])} at step ${line.x[line.x.length - 1]}`).join("; ")}`);
}
function mark(chart, at) {  // crosshair and values at a step; null: the last step, without a crosshair
  chart.cursor = at;
  chart.overlay.replaceChildren();
  chart.readout.replaceChildren();
  if (at !== null) node("line", {class: "cursor", x1: chart.px(at), x2: chart.px(at), y1: TOP, y2: HEIGHT - BOTTOM}, chart.overlay);
  for (const line of chart.lines) {
    const i = at === null ? line.x.length - 1 : nearest(line.x, at), item = node("span", {}, chart.readout);
    if (runs.length > 1) swatch(line.run, item);
    node("b", {}, item, show(line.y[i]));
    item.append(` at ${line.x[i]}`);
    if (at !== null) node("circle", {class: `dot ${tone(line.run)}`, cx: chart.px(line.x[i]), cy: chart.py(line.y[i]), r: 3}, chart.overlay);
  }
}
function longest(group) {
  return group.flatMap(chart => chart.lines.map(line => line.x)).reduce((best, xs) => xs.length > best.length ? xs : best, []);
}
function point(clock, x) {
  const group = charts.filter(chart => chart.clock === clock && isVisible(chart) && chart.lines.length), xs = longest(group);
  const at = x === null || !xs.length ? null : xs[nearest(xs, x)];
  group.forEach(chart => mark(chart, at));
}
function find(text) {  // show the charts whose title or key contains every word; a search opens all groups
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const chart of charts) chart.figure.hidden = !words.every(word => chart.words.includes(word));
  for (const details of document.querySelectorAll(".group")) {
    const group = details.querySelector("summary").firstChild.textContent;
    const its = charts.filter(chart => chart.details === details), left = its.filter(chart => !chart.figure.hidden);
    details.hidden = !left.length;
    details.open = words.length ? true : OPEN.includes(group);
    details.querySelector("summary small").textContent = left.length < its.length ? `${left.length} of ${its.length}` : `${its.length}`;
  }
  const left = charts.filter(chart => !chart.figure.hidden).length;
  document.getElementById("found").textContent = words.length ? `${left} of ${charts.length} charts` : "";
  charts.forEach(draw);
}

allCharts().forEach(addChart);
find("");
redraws.push(() => charts.forEach(draw));
document.getElementById("smooth").addEventListener("input", event => {
  smoothing = Number(event.target.value);
  document.getElementById("smooth-value").textContent = smoothing.toFixed(2);
  charts.forEach(draw);
});
document.getElementById("find").addEventListener("input", event => find(event.target.value));
if (!charts.length) node("p", {class: "muted"}, document.getElementById("charts"), "No step is recorded yet (metrics.jsonl).");
document.documentElement.dataset.charts = charts.length;
