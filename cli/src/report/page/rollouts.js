// ---- Rollouts: the packed data ----

/** Unpacks one data element: base64 of gzip of JSON. */
async function unpack(id) {
  const binary = atob(byId(id).textContent.trim());
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < binary.length; index++) bytes[index] = binary.charCodeAt(index);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Unpacks a data element once and keeps what it held. */
const unpacked = new Map();

function unpackOnce(id) {
  if (!unpacked.has(id)) unpacked.set(id, unpack(id));
  return unpacked.get(id);
}

/** The text of each token id of a run. */
async function readVocabulary(run) {
  const { ids, texts } = await unpackOnce(`rollouts-${run}-vocabulary`);
  return new Map(ids.map((id, index) => [id, texts[index]]));
}

// ---- Rollouts: what the table knows ----

const PAGE_SIZE = 50;
const COLUMN_NAMES = ["step", "problem", "sample", "reward", "correct", "finish", "state", "tokens", "entropy", "covariance", "advantage", "selected", "chunk", "offset"];

/** One list per column over all runs read so far; a row number is a position in these lists. */
const columns = Object.fromEntries(["run", ...COLUMN_NAMES].map((name) => [name, []]));
const problems = [];
const finishes = [];
const states = [];
const problemRank = [];
const readRuns = new Set();

/** What is on show: the rows that pass the filters, in order. */
const view = { rows: [], page: 0, sortedBy: "step", descending: false, opened: null, several: false };

const TABLE_COLUMNS = [
  { key: "run", title: "Run", severalOnly: true },
  { key: "step", title: "Step", numeric: true },
  { key: "problem", title: "Problem" },
  { key: "reward", title: "Reward", numeric: true },
  { key: "finish", title: "Finish" },
  { key: "tokens", title: "Tokens", numeric: true },
  { key: "entropy", title: "Entropy", numeric: true, hint: "Mean entropy of the tokens, in nats" },
  { key: "covariance", title: "Covariance", numeric: true, hint: "Mean covariance of log-probability and advantage" },
  { key: "advantage", title: "Advantage", numeric: true },
  { key: "selected", title: "Selected", numeric: true, hint: "Tokens selected by their covariance" },
  { key: "state", title: "State" },
];

/** Adds the rollouts of a run to the lists, the first time that the run is asked for. */
async function readRun(run) {
  if (readRuns.has(run)) return;
  readRuns.add(run);
  const index = await unpackOnce(`rollouts-${run}-index`);
  const firstProblem = problems.length;
  problems.push(...index.problems);
  const finishOf = index.finishes.map((name) => positionOf(finishes, name));
  const stateOf = index.states.map((name) => positionOf(states, name));
  const translate = {
    problem: (value) => value + firstProblem,
    finish: (value) => finishOf[value],
    state: (value) => stateOf[value],
  };
  columns.run = columns.run.concat(new Array(index.step.length).fill(run));
  for (const name of COLUMN_NAMES) {
    const values = translate[name] ? index[name].map(translate[name]) : index[name];
    columns[name] = columns[name].concat(values);
  }
  rankProblems();
}

function positionOf(names, name) {
  if (!names.includes(name)) names.push(name);
  return names.indexOf(name);
}

/** Problems are sorted by their ids, with numbers in them read as numbers. */
function rankProblems() {
  const collator = new Intl.Collator("en", { numeric: true });
  const order = problems.map((_, index) => index).sort((first, second) => collator.compare(problems[first].id, problems[second].id));
  order.forEach((problem, rank) => { problemRank[problem] = rank; });
}

// ---- Rollouts: filters ----

/** Gives a select its options; what was chosen before stays chosen if it is still among them. */
function fillSelect(select, options) {
  const before = select.options.length ? select.value : options[0][0];
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => value === before)) select.value = before;
}

function fillFilters() {
  const all = ["", "all"];
  const rewards = [...new Set(columns.reward)].filter((reward) => reward !== null).sort((first, second) => first - second);
  const exact = rewards.length <= 12 ? rewards.map((reward) => [`=${reward}`, formatNumber(reward)]) : [];
  fillSelect(byId("filter-reward"), [all, ["right", "right"], ["wrong", "wrong"], ...exact]);
  fillSelect(byId("filter-finish"), [all, ...finishes.map((name, index) => [String(index), readable(name)])]);
  fillSelect(byId("filter-state"), [all, ...states.map((name, index) => [String(index), readable(name)])]);
}

function readable(name) {
  return name.replaceAll("_", " ");
}

/** One test for each filter that is in use; a row is shown if it passes them all. */
function makeTests() {
  const tests = [];
  const equals = (name, value) => tests.push((row) => columns[name][row] === value);
  const [run, step, reward, finish, state] = ["run", "step", "reward", "finish", "state"].map((name) => byId(`filter-${name}`).value);
  if (view.several && run !== "") equals("run", Number(run));
  if (step !== "") equals("step", Number(step));
  if (reward === "right" || reward === "wrong") equals("correct", reward === "right" ? 1 : 0);
  else if (reward !== "") equals("reward", Number(reward.slice(1)));
  if (finish !== "") equals("finish", Number(finish));
  if (state !== "") equals("state", Number(state));
  const query = byId("filter-problem").value.trim().toLowerCase();
  if (query !== "") {
    const wanted = findProblems(query);
    tests.push((row) => wanted[columns.problem[row]]);
  }
  return tests;
}

/** A whole id finds that problem alone, so that "gsm8k-12" does not find "gsm8k-120" too. */
function findProblems(query) {
  const exact = problems.map((problem) => problem.id.toLowerCase() === query);
  if (exact.includes(true)) return exact;
  return problems.map((problem) => `${problem.id}\n${problem.text}`.toLowerCase().includes(query));
}

function applyFilters() {
  const tests = makeTests();
  view.rows = [];
  for (let row = 0; row < columns.step.length; row++) {
    if (tests.every((test) => test(row))) view.rows.push(row);
  }
  sortRows();
  view.page = 0;
  showPage();
}

/** Rows without a value come last in either direction; equal rows keep the order of the run. */
function sortRows() {
  const values = columns[view.sortedBy];
  const keyOf = view.sortedBy === "problem" ? (row) => problemRank[values[row]] : (row) => values[row];
  const sign = view.descending ? -1 : 1;
  view.rows.sort((first, second) => {
    const [left, right] = [keyOf(first), keyOf(second)];
    if (left === right) return first - second;
    if (left === null) return 1;
    if (right === null) return -1;
    return sign * (left - right);
  });
}

// ---- Rollouts: the table ----

function makeColumnHeaders(runs) {
  view.columns = TABLE_COLUMNS.filter((column) => view.several || !column.severalOnly);
  view.runs = runs;
  byId("rollout-columns").append(...view.columns.map((column) => {
    const button = element("button", { type: "button", ...(column.hint ? { title: column.hint } : {}) }, column.title);
    button.addEventListener("click", () => {
      view.descending = view.sortedBy === column.key && !view.descending;
      view.sortedBy = column.key;
      markSortedColumn();
      sortRows();
      view.page = 0;
      showPage();
    });
    return element("th", { scope: "col", class: `column-${column.key}${column.numeric ? " numeric" : ""}` }, button);
  }));
  markSortedColumn();
}

function markSortedColumn() {
  view.columns.forEach((column, index) => {
    const direction = column.key !== view.sortedBy ? "none" : view.descending ? "descending" : "ascending";
    byId("rollout-columns").children[index].setAttribute("aria-sort", direction);
  });
}

function showPage() {
  const first = view.page * PAGE_SIZE;
  const rows = view.rows.slice(first, first + PAGE_SIZE);
  view.opened = null;
  byId("rollout-rows").replaceChildren(...rows.map(makeRow));
  if (!rows.length) byId("rollout-rows").append(element("tr", {}, element("td", { colspan: view.columns.length, class: "nothing" }, "No rollout passes these filters.")));
  const total = view.rows.length.toLocaleString("en-GB");
  const from = (first + 1).toLocaleString("en-GB");
  const to = (first + rows.length).toLocaleString("en-GB");
  byId("rollout-count").textContent = rows.length ? `${from}–${to} of ${total}` : "0 of 0";
  byId("page-previous").disabled = view.page === 0;
  byId("page-next").disabled = first + PAGE_SIZE >= view.rows.length;
}

function makeRow(row) {
  const cells = view.columns.map((column) => element("td", { class: `column-${column.key}${column.numeric ? " numeric" : ""}` }, cellText(row, column.key)));
  const made = element("tr", { class: "rollout", tabindex: "0", "aria-expanded": "false" }, ...cells);
  made.dataset.row = row;
  if (columns.correct[row]) made.classList.add("right");
  made.style.setProperty("--run-color", cssColor(columns.run[row]));
  return made;
}

function cellText(row, key) {
  const value = columns[key][row];
  switch (key) {
    case "run": return view.runs[value].name;
    case "problem": return problems[value].text.replace(/\s+/g, " ").slice(0, 160);
    case "finish": return readable(finishes[value]);
    case "state": return readable(states[value]);
    case "reward": return `${formatNumber(value)} ${columns.correct[row] ? "✓" : "✗"}`;
    case "entropy": case "covariance": case "advantage": return formatFigure(value);
    default: return formatNumber(value);
  }
}

/** Figures that stand under one another are written with the same number of decimals. */
function formatFigure(value) {
  return value === null || value === undefined ? "–" : value.toFixed(3).replace("-", "−");
}

function turnPage(by) {
  view.page += by;
  showPage();
}

// ---- Rollouts: one response ----

function rowElement(row) {
  return byId("rollout-rows").querySelector(`tr.rollout[data-row="${row}"]`);
}

function closeRollout() {
  if (view.opened === null) return;
  rowElement(view.opened)?.setAttribute("aria-expanded", "false");
  byId("rollout-rows").querySelector(".detail-row")?.remove();
  view.opened = null;
}

/** Opens a response under its row; a second press on the row closes it again. */
async function toggleRollout(row) {
  const again = view.opened === row;
  closeRollout();
  if (again) return;
  view.opened = row;
  const anchor = rowElement(row);
  anchor.setAttribute("aria-expanded", "true");
  const detail = element("section", { id: "rollout-detail", tabindex: "-1", "aria-label": "Response" }, element("p", { class: "lead" }, "Reading the response…"));
  anchor.after(element("tr", { class: "detail-row" }, element("td", { colspan: view.columns.length }, detail)));
  try {
    const response = await readResponse(row);
    const vocabulary = response.ids ? await readVocabulary(columns.run[row]) : null;
    if (view.opened === row) fillDetail(detail, row, response, vocabulary);
  } catch (error) {
    detail.replaceChildren(element("p", { class: "lead" }, `This response could not be read: ${error.message}`));
  }
}

/** A response as its chunk holds it. A page holds as many as fit; the run's folder has the others. */
async function readResponse(row) {
  if (columns.chunk[row] < 0) {
    const file = `rollouts/step-${String(columns.step[row]).padStart(6, "0")}.jsonl`;
    return { text: `Not in this page, which holds as many responses as fit: see ${file} in the run's folder.` };
  }
  const { rows } = await unpackOnce(`rollouts-${columns.run[row]}-chunk-${columns.chunk[row]}`);
  return rows[columns.offset[row]];
}

function fillDetail(detail, row, response, vocabulary) {
  const problem = problems[columns.problem[row]];
  const heading = `Problem ${problem.id}, step ${formatNumber(columns.step[row])}, sample ${formatNumber(columns.sample[row])}`;
  detail.setAttribute("aria-label", heading);
  detail.replaceChildren(
    element("div", { class: "detail-heading" }, element("h3", {}, heading), makeDetailButtons(row, problem)),
    makeDefinitions(detailFigures(row, response, problem), "summary"),
    element("h4", {}, "Problem"),
    element("p", { class: "problem-text" }, problem.text),
    element("h4", {}, "Response"),
    ...(vocabulary ? makeTokenView(response, vocabulary) : makePlainView(response)));
  detail.focus({ preventScroll: true });
}

function detailFigures(row, response, problem) {
  const reward = columns.reward[row] === null ? "none" : formatNumber(columns.reward[row]);
  return [
    ...(view.several ? [["Run", view.runs[columns.run[row]].name]] : []),
    ["Reward", `${reward}, ${columns.correct[row] ? "right" : "wrong"}`],
    ["Answer found", response.answer ?? "none"],
    ["Reason", response.reason || "none given"],
    ["Finish", readable(finishes[columns.finish[row]])],
    ["State", readable(states[columns.state[row]])],
    ["Tokens", formatNumber(columns.tokens[row])],
    ["Source", problem.source || "not named"],
  ];
}

function makeDetailButtons(row, problem) {
  const button = (title, action) => {
    const made = element("button", { type: "button" }, title);
    made.addEventListener("click", action);
    return made;
  };
  return element("div", { class: "detail-buttons" },
    button("All samples of this step", () => showGroup(row, problem)),
    button("Close", () => { closeRollout(); rowElement(row)?.focus(); }));
}

/** Advantages compare the samples of one problem in one step, so these can be seen together. */
function showGroup(row, problem) {
  byId("rollout-filters").reset();
  if (view.several) byId("filter-run").value = String(columns.run[row]);
  byId("filter-step").value = columns.step[row];
  byId("filter-problem").value = problem.id;
  applyFilters();
  byId("rollout-filters").scrollIntoView({ block: "start" });
  byId("filter-step").focus({ preventScroll: true });
}

function makePlainView(response) {
  return [
    element("p", { class: "lead" }, "Token figures were not kept for this response."),
    element("div", { class: "response", tabindex: "0", role: "region", "aria-label": "Response text" }, response.text),
  ];
}

// ---- Rollouts: tokens ----

const COLORINGS = [
  { key: "entropy", title: "Entropy", unit: " nats" },
  { key: "covariance", title: "Covariance", unit: "", diverging: true },
  { key: "advantage", title: "Advantage", unit: "", diverging: true },
  { key: "none", title: "None" },
];

/** The colouring stays as chosen while one response after another is read. */
let chosenColoring = COLORINGS[0];

function makeTokenView(response, vocabulary) {
  const selected = new Set(response.selected ?? []);
  const spans = response.ids.map((id, position) => makeToken(vocabulary.get(id) ?? "\ufffd", position, selected.has(position)));
  const box = element("div", { class: "response", role: "group", "aria-label": "Response, token by token. The arrow keys move from token to token." }, ...spans);
  const figures = element("p", { id: "token-figures", role: "status" }, "Point at a token, or move with the arrow keys, to read its figures.");
  const scale = element("p", { class: "scale" });
  const tokens = { response, spans, selected, scale, figures };
  if (spans.length) spans[0].tabIndex = 0;
  box.addEventListener("pointerover", (event) => showToken(tokens, event.target));
  box.addEventListener("click", (event) => event.target.classList.contains("token") && focusToken(tokens, event.target));
  box.addEventListener("focusin", (event) => showToken(tokens, event.target));
  box.addEventListener("keydown", (event) => moveToToken(tokens, event));
  colorTokens(tokens);
  return [element("div", { class: "token-tools" }, makeColoringChoice(tokens), scale), figures, box];
}

function makeToken(text, position, isSelected) {
  const span = element("span", { class: "token", tabindex: "-1" }, text);
  span.dataset.position = position;
  if (isSelected) span.classList.add("selected");
  // A bare line break would be an invisible token: the style sheet puts a faint sign before it.
  if (/^[^\S\n]*\n/.test(text)) span.classList.add("line-break");
  return span;
}

function makeColoringChoice(tokens) {
  const labels = COLORINGS.map((coloring) => {
    const radio = element("input", { type: "radio", name: "coloring", id: `color-${coloring.key}`, value: coloring.key });
    radio.checked = coloring === chosenColoring;
    radio.addEventListener("change", () => {
      chosenColoring = coloring;
      colorTokens(tokens);
    });
    return element("label", {}, radio, coloring.title);
  });
  return element("fieldset", { class: "choice" }, element("legend", {}, "Colour tokens by"), ...labels);
}

/** Figures are kept in thousandths; one advantage may stand for all tokens of a response. */
function tokenValue(response, key, position) {
  const values = response[key] ?? [];
  const value = key === "advantage" && values.length === 1 ? values[0] : values[position];
  return value === undefined || value === null ? null : value / 1000;
}

/** The end of the scale: the 99th percentile, so that one extreme token does not pale all others. */
function scaleEnd(values, coloring) {
  const sizes = values.filter((value) => value !== null).map(Math.abs).sort((first, second) => first - second);
  const percentile = sizes[Math.min(sizes.length - 1, Math.floor(sizes.length * 0.99))] ?? 0;
  return coloring.diverging ? percentile || (sizes.at(-1) ?? 0) || 1 : Math.max(0.5, percentile);
}

function colorTokens({ response, spans, scale, selected }) {
  const coloring = chosenColoring;
  const values = coloring.key === "none" ? [] : spans.map((_, position) => tokenValue(response, coloring.key, position));
  const end = scaleEnd(values, coloring);
  spans.forEach((span, position) => {
    const value = values[position] ?? 0;
    span.classList.toggle("negative", value < 0);
    span.style.setProperty("--strength", `${Math.round(Math.min(1, Math.abs(value) / end) * 100)}%`);
  });
  showScale(scale, coloring, end, selected.size);
}

function showScale(scale, coloring, end, selectedCount) {
  scale.replaceChildren();
  if (coloring.key !== "none") {
    const written = Number(end.toPrecision(3));
    const low = coloring.diverging ? `≤ ${formatNumber(-written)}` : "0";
    const ramp = element("span", { class: coloring.diverging ? "ramp diverging" : "ramp", "aria-hidden": "true" });
    scale.append(element("span", { class: "scale-part" }, low, ramp, `≥ ${formatNumber(written)}${coloring.unit}`));
  }
  const count = selectedCount === 1 ? "1 token" : `${formatNumber(selectedCount)} tokens`;
  scale.append(element("span", { class: "scale-part" }, element("span", { class: "token selected", "aria-hidden": "true" }, "marked"), `selected by covariance: ${count}`));
}

function showToken(tokens, span) {
  if (!span.classList.contains("token")) return;
  const position = Number(span.dataset.position);
  const figure = (key) => formatFigure(tokenValue(tokens.response, key, position));
  const chosen = tokens.selected.has(position) ? ["selected"] : [];
  const parts = [`id ${tokens.response.ids[position]}`, `entropy ${figure("entropy")}`, `covariance ${figure("covariance")}`, `advantage ${figure("advantage")}`, ...chosen];
  tokens.figures.replaceChildren(element("code", {}, JSON.stringify(span.textContent)), ...parts.map((part) => element("span", {}, part)));
}

/** Only one token is a stop of the Tab key: the arrow keys move among the others. */
function focusToken(tokens, span) {
  for (const other of tokens.spans) if (other.tabIndex === 0) other.tabIndex = -1;
  span.tabIndex = 0;
  span.focus();
}

function moveToToken(tokens, event) {
  const last = tokens.spans.length - 1;
  const current = Number(event.target.dataset.position);
  const target = { ArrowRight: current + 1, ArrowLeft: current - 1, ArrowDown: current + 10, ArrowUp: current - 10, Home: 0, End: last }[event.key];
  if (target === undefined || Number.isNaN(target)) return;
  event.preventDefault();
  focusToken(tokens, tokens.spans[Math.min(last, Math.max(0, target))]);
}

// ---- Rollouts: start ----

function listenToTable() {
  const body = byId("rollout-rows");
  const rowOf = (event) => event.target.closest("tr.rollout");
  body.addEventListener("click", (event) => {
    if (rowOf(event)) toggleRollout(Number(rowOf(event).dataset.row));
  });
  body.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && view.opened !== null) {
      const opened = rowElement(view.opened);
      closeRollout();
      opened?.focus();
    }
    if (!rowOf(event) || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    toggleRollout(Number(rowOf(event).dataset.row));
  });
}

function listenToFilters() {
  const form = byId("rollout-filters");
  form.addEventListener("input", async (event) => {
    if (event.target.id === "filter-run") await readChosenRuns();
    applyFilters();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  // The fields are empty only after the event of the reset has passed.
  form.addEventListener("reset", () => setTimeout(async () => { await readChosenRuns(); applyFilters(); }));
  byId("page-previous").addEventListener("click", () => turnPage(-1));
  byId("page-next").addEventListener("click", () => turnPage(1));
}

async function readChosenRuns() {
  const chosen = byId("filter-run").value;
  const wanted = view.entries.map((entry) => entry.run).filter((run) => !view.several || chosen === "" || run === Number(chosen));
  for (const run of wanted) await readRun(run);
  fillFilters();
}

function summarize(entries) {
  const sum = (name) => entries.reduce((total, entry) => total + entry[name], 0);
  const [responses, withTokens] = [sum("responses"), sum("with_tokens")];
  const kept = withTokens === responses ? "each with figures for its tokens" : `${formatNumber(withTokens)} of them with figures for their tokens`;
  return `${formatNumber(responses)} responses, ${kept}. Choose a row to read the response.`;
}

async function startRollouts(entries, runs) {
  byId("rollouts-summary").textContent = summarize(entries);
  if (typeof DecompressionStream === "undefined") {
    byId("rollout-count").textContent = "This browser cannot unpack the rollouts (it lacks DecompressionStream); a newer one can.";
    return;
  }
  view.entries = entries;
  view.several = entries.length > 1;
  if (view.several) {
    byId("filter-run-label").hidden = false;
    fillSelect(byId("filter-run"), [...entries.map((entry) => [String(entry.run), runs[entry.run].name]), ["", "all runs"]]);
  }
  try {
    await readChosenRuns();
  } catch (error) {
    byId("rollout-count").textContent = `The rollouts could not be read: ${error.message}`;
    return;
  }
  makeColumnHeaders(runs);
  listenToTable();
  listenToFilters();
  applyFilters();
}
