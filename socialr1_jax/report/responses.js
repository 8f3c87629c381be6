// A response with its stages and marks, a question with its options, and questions before and after training.

const STAGES = [["encode", "what is seen and heard"], ["interpret", "what it means to each mind"], ["goal", "what is wanted"], ["respond", "the answer weighed"]];
// the value at which a term's bar is full; content is unbounded (a reward model's 2.5 gives 6.1)
const FULL = new Map([["content", 6]]);
const words = name => name.replaceAll("_", " ");

function stageLegend(parent) {
  const list = node("ul", {class: "legend"}, parent);
  STAGES.forEach(([stage, meaning], i) => node("span", {class: `stage ${stage}`}, node("li", {}, list), `${i + 1} ${stage}`).after(" " + meaning));
  node("mark", {"data-numbers": "1"}, node("li", {}, list), "marked").after(" where the rules found the problem with this number");
}
function addQuestion(question, parent) {
  node("p", {class: "question"}, parent, question.question);
  const list = node("ul", {class: "options"}, parent);
  const options = question.options.map((text, i) => [String.fromCharCode(65 + i), text]);
  for (const [letter, text] of options.length ? options : [["", question.gold]]) {
    const isGold = letter === question.gold || !letter, item = node("li", isGold ? {class: "gold"} : {}, list), label = node("span", {}, item);
    if (letter) node("b", {}, label, letter + " ");
    label.append(text);
    if (isGold) node("small", {}, item, " gold");
  }
  const story = node("details", {class: "story"}, parent);
  node("summary", {}, story, "Story");
  node("p", {}, story, question.story);
}
function addResponse(response, parent) {
  const verdict = node("div", {class: "verdict"}, parent);
  node("span", {class: `mark ${response.right ? "right" : "wrong"}`}, verdict, response.right ? "✓ right" : "✗ wrong");
  const say = (label, value) => node("b", {}, node("span", {}, verdict, label + " "), value);
  say("answered", response.given ? response.given.slice(0, 60) : "none");
  say("reward", response.reward === null ? "unscorable" : response.reward.toFixed(2));
  if (response.advantage !== null) say("advantage", (response.advantage > 0 ? "+" : "") + response.advantage.toFixed(2));
  if (response.tokens !== null) say("tokens", response.tokens);
  const located = new Set(response.blocks.flatMap(([, pieces]) => pieces.flatMap(([, numbers]) => numbers)));
  if (response.problems.length || response.status !== "ok") {
    const chips = node("ul", {class: "chips"}, parent);
    if (response.status !== "ok") node("li", {}, chips, response.status === "truncated" ? "truncated: cut at the length limit" : response.status);
    response.problems.forEach((problem, i) => node("li", located.has(i + 1) ? {class: "located"} : {}, chips, located.has(i + 1) ? `${i + 1} ${problem}` : problem));
  }
  const text = node("div", {class: "text", tabindex: 0}, parent);
  for (const [stage, pieces] of response.blocks) {
    const block = node("span", {class: stage ? `stage ${stage}` : "rest"}, text);
    pieces.forEach(([piece, numbers], i) => {
      const goesOn = pieces[i + 1] ? pieces[i + 1][1] : [];  // a number is shown where its mark ends
      if (!numbers.length) block.append(piece);
      else node("mark", {"data-numbers": numbers.filter(number => !goesOn.includes(number)).join(","), title: numbers.map(number => response.problems[number - 1]).join("; ")}, block, piece);
    });
  }
  if (!response.blocks.length) node("span", {class: "rest"}, text, "(an empty response)");
  if (response.left_out) node("span", {class: "rest"}, text, `… ${response.left_out.toLocaleString("en")} more characters are in rollouts.jsonl`);
  const list = node("ul", {class: "terms"}, parent);
  for (const [name, value] of Object.entries(response.terms)) {
    const item = node("li", {}, list);
    node("span", {}, item, words(name));
    node("i", {}, node("span", {class: "bar"}, item)).style.width = `${100 * Math.min(1, Math.max(0, (value ?? 0) / (FULL.get(name) ?? 1)))}%`;
    node("b", {}, item, value === null ? "–" : value.toFixed(2));
  }
}

function drawExamples(run) {
  const {examples, questions} = runs[run], room = document.getElementById("pairs-of-run");
  room.replaceChildren();
  if (!examples.all) {
    node("p", {class: "muted"}, room, "No held-out question has an answer from before and from after training yet (rollouts.jsonl, the evaluations).");
    return;
  }
  const are = count => `${count} ${count === 1 ? "is" : "are"}`;
  node("p", {class: "muted"}, room, `The same held-out questions, answered by the model before GRPO and after it. Of ${examples.all} ${examples.all === 1 ? "question" : "questions"}, ${are(examples.better)} answered right more often after training, ${examples.worse} less often. Shown: the first three, then the largest gains and losses; of each question the first sample.`);
  stageLegend(room);
  for (const {why, sides} of examples.questions) {
    const article = node("article", {}, room), question = questions[sides[1].response.question];
    node("div", {class: "why"}, article, `${question.id} · ${why}`);
    addQuestion(question, article);
    const pair = node("div", {class: "sides"}, article);
    for (const {label, right, of, response} of sides) {
      const side = node("div", {}, pair);
      node("span", {}, node("h4", {}, side, label + " "), `${right} of ${of} ${of === 1 ? "sample" : "samples"} right`);
      addResponse(response, side);
    }
  }
}

function chooser(label, options, parent, id) {  // options: [[value, text], ...]
  const select = node("select", {id}, node("label", {}, parent, label));
  for (const [value, text] of options) node("option", {value}, select, text);
  return select;
}

{
  const room = document.getElementById("pairs");
  if (runs.length > 1) {
    const select = chooser("Run", runs.map((run, i) => [i, run.name]), node("div", {class: "filters"}, room), "pairs-run");
    select.addEventListener("change", () => drawExamples(Number(select.value)));
  }
  node("div", {id: "pairs-of-run"}, room);
  drawExamples(0);
}
