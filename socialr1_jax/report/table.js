// A table of all runs' responses with filters; a row expands to the whole response.

const PHASES = new Map([["grpo", "training"], ["eval", "held out"]]);
const ORDERS = [["step", "step"], ["best", "highest reward"], ["worst", "lowest reward"], ["longest", "longest"], ["shortest", "shortest"]];
const ROWS_AT_ONCE = 25;
const sampled = runs.flatMap((run, i) => run.responses.map(response => ({...response, run: i})));
const textOf = new Map();  // response -> its text in lower case, filled on the first search

function searchable(response) {
  if (!textOf.has(response)) {
    const {id, question, story} = runs[response.run].questions[response.question];
    const text = response.blocks.map(([, pieces]) => pieces.map(([piece]) => piece).join("")).join("\n");
    textOf.set(response, [id, question, story, text, ...response.problems].join("\n").toLowerCase());
  }
  return textOf.get(response);
}
function lengthOf(response) {
  return response.tokens ?? 0;
}
function distinct(pick) {
  return [...new Set(sampled.map(pick))].sort();
}

function addFilters(form) {
  const any = (values, name = value => value) => [["", "any"], ...values.map(value => [value, name(value)])];
  const number = (id, label, parent) => node("input", {type: "number", step: "any", id, "aria-label": label, placeholder: label}, parent);
  if (runs.length > 1) chooser("Run", any(runs.map((_, i) => String(i)), i => runs[i].name), form, "f-run");
  chooser("Phase", any(distinct(response => response.phase), phase => PHASES.get(phase) ?? phase), form, "f-phase");
  chooser("Status", any(distinct(response => response.status)), form, "f-status");
  chooser("Answer", any(["right", "wrong"]), form, "f-right");
  const sources = distinct(response => response.source).filter(Boolean);
  if (sources.length) chooser("Source", any(sources), form, "f-source");
  chooser("Shown because", any(distinct(response => response.why)), form, "f-why");
  const term = node("span", {}, node("label", {class: "pair"}, form, "Term")), names = [...new Set(sampled.flatMap(response => Object.keys(response.terms)))];
  const select = (id, label, options) => options.forEach(([value, text]) => node("option", {value}, document.getElementById(id) || node("select", {id, "aria-label": label}, term), text));
  select("f-term", "Term", [["", "any"], ["reward", "total reward"], ["length", "length"], ...names.map(name => ["term " + name, words(name)])]);
  select("f-side", "Below or above", [["below", "below"], ["above", "above"]]);
  number("f-value", "value", term);
  const steps = node("span", {}, node("label", {class: "pair steps"}, form, "Steps"));
  number("f-from", "from", steps);
  number("f-to", "to", steps);
  node("input", {type: "search", id: "f-text", placeholder: "words of question or response", autocomplete: "off"}, node("label", {class: "pair"}, form, "Text"));
  chooser("Order", ORDERS, form, "f-order");
}
function chosen() {  // the responses that pass every filter, in the selected order
  const value = id => document.getElementById(id) ? document.getElementById(id).value : "";
  const [run, phase, status, right, source, why, term, limit, from, to, order] = ["f-run", "f-phase", "f-status", "f-right", "f-source", "f-why", "f-term", "f-value", "f-from", "f-to", "f-order"].map(value);
  const text = value("f-text").toLowerCase().trim(), below = value("f-side") === "below";
  const measured = response => term === "reward" ? response.reward : term === "length" ? lengthOf(response) : response.terms[term.slice(5)];
  const within = number => typeof number === "number" && (below ? number < Number(limit) : number > Number(limit));
  const passes = response => (!run || response.run === Number(run)) && (!phase || response.phase === phase) && (!status || response.status === status)
    && (!right || response.right === (right === "right")) && (!source || response.source === source) && (!why || response.why === why)
    && (from === "" || response.step >= Number(from)) && (to === "" || response.step <= Number(to))
    && (!term || limit === "" || within(measured(response))) && (!text || searchable(response).includes(text));
  const reward = response => response.reward ?? 0;
  const compare = {best: (a, b) => reward(b) - reward(a), worst: (a, b) => reward(a) - reward(b), longest: (a, b) => lengthOf(b) - lengthOf(a), shortest: (a, b) => lengthOf(a) - lengthOf(b)}[order];
  const found = sampled.filter(passes);
  return compare ? found.sort(compare) : found.sort((a, b) => a.step - b.step);
}

function addRow(response, parent) {
  const row = node("details", {class: "row"}, parent), summary = node("summary", {}, row), cell = (text, style = "") => node("span", {class: style}, summary, text);
  if (runs.length > 1) swatch(response.run, cell("")).after(runs[response.run].name);
  cell(`${PHASES.get(response.phase) ?? response.phase} ${response.step}`);
  cell(response.status, response.status === "ok" ? "" : "bad");
  cell(response.right ? "✓" : "✗").setAttribute("aria-label", response.right ? "right" : "wrong");
  cell(response.given || "none");
  cell(response.reward === null ? "–" : response.reward.toFixed(2));
  cell(response.tokens === null ? "" : `${response.tokens} tok`);
  const {question, id} = runs[response.run].questions[response.question];
  cell(response.problems.length ? `${question} · ${response.problems.join(", ")}` : question, "opening");
  row.addEventListener("toggle", () => {
    if (row.children.length > 1) return;
    const body = node("div", {}, row);
    node("div", {class: "why"}, body, [id, `sample ${response.sample}`, response.source, response.why].filter(Boolean).join(" · "));
    addQuestion(runs[response.run].questions[response.question], body);
    addResponse(response, body);
  });
}
function countsTable(parent) {  // per status: responses on this page and in the files
  const table = node("table", {class: "counts"}, node("div", {class: "wide"}, parent)), head = node("tr", {}, node("thead", {}, table)), body = node("tbody", {}, table);
  ["", "responses", ...new Set(runs.flatMap(run => Object.keys(run.statuses)))].forEach(name => node("th", {}, head, name));
  runs.forEach((run, i) => {
    const row = node("tr", {}, body), name = node("th", {}, row);
    if (runs.length > 1) swatch(i, name).after(run.name);
    else name.textContent = "shown of all";
    const cell = (here, all) => node("td", {}, row, `${here.toLocaleString("en")} of ${all.toLocaleString("en")}`);
    cell(run.responses.length, run.rows);
    [...head.children].slice(2).forEach(({textContent: status}) => cell(run.responses.filter(response => response.status === status).length, run.statuses[status] || 0));
  });
}

function drawTable() {
  const room = document.getElementById("table");
  if (!sampled.length) {
    node("p", {class: "muted"}, room, "No response is recorded yet (rollouts.jsonl).");
    return;
  }
  node("p", {class: "muted"}, room, "This is a selection: some spread evenly over the run, the best and the worst of steps, and more of each status other than ok; fewer if they are long. All responses are in rollouts.jsonl, one JSON object per line.");
  countsTable(room);
  const form = node("form", {class: "filters"}, room);
  addFilters(form);
  const count = node("p", {class: "count", id: "count", role: "status"}, room);
  const rows = node("div", {class: `rows${runs.length > 1 ? " several" : ""}`, id: "rows"}, room), more = node("button", {type: "button", id: "more"}, room, "Show more");
  let left = [];
  const addRows = () => {
    left.splice(0, ROWS_AT_ONCE).forEach(response => addRow(response, rows));
    more.hidden = !left.length;
  };
  const fill = () => {
    left = chosen();
    count.textContent = `${left.length.toLocaleString("en")} of ${sampled.length.toLocaleString("en")} responses on this page`;
    rows.replaceChildren();
    const head = node("div", {class: "head"}, rows);
    [...(runs.length > 1 ? ["Run"] : []), "Step", "Status", "", "Answer", "Reward", "Length", "Question and problems"].forEach(name => node("span", {}, head, name));
    addRows();
  };
  form.addEventListener("input", fill);
  form.addEventListener("submit", event => event.preventDefault());
  more.addEventListener("click", addRows);
  fill();
}

drawTable();
