// Response lengths: one map per run, with steps on x and lengths on y, and the share of truncated responses above it.

const STRIP = 44, MAP = 210, AXIS = 24, SHADES = 8;

function drawLengths() {
  const room = document.getElementById("length-maps");
  room.replaceChildren();
  const mapped = runs.map((_, i) => i).filter(i => on[i] && runs[i].lengths.columns.length);
  if (!mapped.length) {
    node("p", {class: "muted"}, room, "No training response is recorded yet (rollouts.jsonl, phase grpo).");
    return;
  }
  node("p", {class: "muted small"}, room, "Stronger colour: a larger share of the step's responses. Line: their median. Bars above: the share that was truncated.");
  const maps = node("div", {class: "maps"}, room);
  const highest = Math.max(...mapped.flatMap(i => runs[i].lengths.columns.flatMap(([, , cells]) => cells.map(([row]) => (row + 1) * runs[i].lengths.width))));
  const drawn = mapped.map(run => {
    const {lengths} = runs[run], figure = node("figure", {}, maps), caption = node("figcaption", {}, figure);
    if (runs.length > 1) swatch(run, node("strong", {}, caption)).after(runs[run].name);
    node("span", {}, caption, lengthNote(lengths));
    const readout = node("div", {class: "readout"}, caption);
    const svg = node("svg", {height: STRIP + MAP + AXIS, role: "img", "aria-label": `Lengths of ${runs[run].name}`}, figure);
    return [run, highest, svg, readout];
  });
  drawn.forEach(map => drawMap(...map));  // after all are laid out and have their width
}
function lengthNote({responses, stride, width}) {
  const cells = `a cell is ${stride > 1 ? `${stride} steps` : "1 step"} by ${width > 1 ? `${width} tokens` : "1 token"}`;
  return `Tokens of ${responses.toLocaleString("en")} responses; ${cells}.`;
}
function summarise({width}, [column, cut, cells]) {
  const total = cells.reduce((sum, [, count]) => sum + count, 0);
  let seen = 0;
  const [row] = cells.find(([, count]) => (seen += count) * 2 >= total);
  return {column, cells, total, cut: cut / total, median: row * width + Math.floor((width - 1) / 2)};
}
function drawMap(run, highest, svg, readout) {
  const {lengths, limit} = runs[run], {stride, width: size} = lengths, width = svg.clientWidth || 320;
  const columns = lengths.columns.map(column => summarise(lengths, column));
  const showsLimit = limit !== null && limit <= 2 * highest;
  const top = showsLimit ? Math.max(limit, highest) : highest, yTicks = ticks(0, top, 5).filter(tick => tick <= top), labels = yTicks.map(show);
  const left = 10 + 6.4 * Math.max(4, ...labels.map(label => label.length)), right = width - 10;
  const first = columns[0].column, last = columns[columns.length - 1].column + 1;
  const px = column => left + (column - first) / (last - first) * (right - left);
  const py = value => STRIP + MAP - value / top * MAP;
  svg.setAttribute("viewBox", `0 0 ${width} ${STRIP + MAP + AXIS}`);
  yTicks.forEach((tick, i) => {
    node("line", {class: "grid", x1: left, x2: right, y1: py(tick), y2: py(tick)}, svg);
    node("text", {x: left - 6, y: py(tick) + 4, "text-anchor": "end"}, svg, labels[i]);
  });
  const begin = first * stride + 1, end = last * stride;
  for (const tick of ticks(begin, Math.max(end, begin + 1), 6, true))
    if (tick >= begin && tick <= end) node("text", {x: px((tick - 1) / stride + 0.5 / stride), y: STRIP + MAP + 18, "text-anchor": "middle"}, svg, tick);
  const box = (column, from, to) => `M${px(column).toFixed(1)} ${from.toFixed(1)}H${px(column + 1).toFixed(1)}V${to.toFixed(1)}H${px(column).toFixed(1)}Z`;
  const fullest = Math.max(...columns.flatMap(({cells, total}) => cells.map(([, count]) => count / total)));
  const shades = Array.from({length: SHADES}, () => "");
  for (const {column, cells, total} of columns)
    for (const [row, count] of cells)
      shades[Math.ceil(Math.sqrt(count / total / fullest) * SHADES) - 1] += box(column, py((row + 1) * size), py(row * size));
  shades.forEach((d, i) => d && node("path", {class: `cell ${tone(run)}`, opacity: (i + 1) / SHADES, d}, svg));
  node("path", {class: "median", d: columns.map(({column, median}, i) => `${i ? "L" : "M"}${px(column + 0.5).toFixed(1)} ${py(median).toFixed(1)}`).join("")}, svg);
  if (showsLimit) {
    node("line", {class: "limit", x1: left, x2: right, y1: py(limit), y2: py(limit)}, svg);
    node("text", {x: right, y: 8, "text-anchor": "end"}, svg, `dashes: limit ${limit.toLocaleString("en")}`);
  }
  drawTruncated(columns, svg, {left, right, box});
  const read = column => {
    const {total, cut, median} = column, from = column.column * stride + 1;
    readout.replaceChildren();
    node("span", {}, readout, `step ${stride > 1 ? `${from} to ${from + stride - 1}` : from}: median `);
    node("b", {}, readout, show(median));
    node("span", {}, readout, `of ${total}, truncated `);
    node("b", {}, readout, `${(100 * cut).toFixed(1)} %`);
  };
  read(columns[columns.length - 1]);
  svg.addEventListener("pointermove", event => {
    const at = first + (event.clientX - svg.getBoundingClientRect().left - left) / (right - left) * (last - first) - 0.5;
    read(columns[nearest(columns.map(({column}) => column), at)]);
  });
}
function drawTruncated(columns, svg, {left, right, box}) {
  const most = Math.max(...columns.map(({cut}) => cut)), base = STRIP - 14;
  node("line", {class: "grid", x1: left, x2: right, y1: base, y2: base}, svg);
  node("text", {x: left - 6, y: base + 1, "text-anchor": "end"}, svg, most ? "cut" : "");
  node("text", {x: left, y: 8}, svg, most ? `truncated, up to ${(100 * most).toFixed(1)} %` : "none truncated");
  if (most) node("path", {class: "cut", d: columns.filter(({cut}) => cut).map(({column, cut}) => box(column, base - cut / most * (base - 12), base)).join("")}, svg);
}

drawLengths();
redraws.push(drawLengths);
