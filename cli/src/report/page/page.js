// ---- The page: header, sections, tables, theme ----

const report = JSON.parse(byId("report-data").textContent);

function fillHeader() {
  byId("report-title").textContent = report.title;
  byId("colophon").textContent = `Written by Anneal ${report.version}. Charts by uPlot (MIT licence). This file is complete in itself and loads nothing from elsewhere.`;
  byId("notes").append(...report.notes.map((note) => element("p", {}, note)));
  byId("notes").hidden = report.notes.length === 0;
  byId("runs").append(...report.runs.map(makeRunCard));
  byId("runs").classList.toggle("single", report.runs.length === 1);
}

function makeRunCard(run, index) {
  const card = element("section", { class: "run-card", "aria-label": `Run ${run.name}` });
  if (report.runs.length > 1) card.style.setProperty("--run-color", cssColor(index));
  card.append(element("h2", {}, run.name), makeDefinitions(run.summary, "summary"));
  if (run.settings.length) {
    card.append(element("details", {}, element("summary", {}, `All ${run.settings.length} settings`), makeDefinitions(run.settings, "settings")));
  }
  return card;
}

function makeDefinitions(pairs, className) {
  const entries = pairs.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, value)));
  return element("dl", { class: className }, ...entries);
}

/** With several runs, a checkbox each shows or hides a run in every chart. */
function makeRunToggles() {
  if (report.runs.length < 2) return;
  byId("run-toggles").hidden = false;
  report.runs.forEach((run, index) => {
    const box = element("input", { type: "checkbox", id: `run-toggle-${index}`, checked: "" });
    const key = element("span", { class: "run-key", "aria-hidden": "true" });
    const label = element("label", { title: `Show ${run.name} in the charts` }, box, key, element("span", { class: "run-name" }, run.name));
    label.style.setProperty("--run-color", cssColor(index));
    box.addEventListener("change", () => setRunHidden(index, !box.checked));
    byId("run-toggles").append(label);
  });
}

/** Sections stand in the order in which their names first appear among the charts and tables. */
function makeSections() {
  const groups = [...new Set([...report.charts, ...report.tables].map((part) => part.group))];
  const pending = [];
  let figureNumber = 0;
  groups.forEach((group, index) => {
    const headingId = `section-${index}`;
    const section = element("section", { "aria-labelledby": headingId }, element("h2", { id: headingId }, group));
    const grid = element("div", { class: "chart-grid" });
    for (const definition of report.charts.filter((chart) => chart.group === group)) {
      const figure = makeFigure(definition, ++figureNumber);
      grid.append(figure);
      pending.push([definition, figure]);
    }
    if (grid.children.length) section.append(grid);
    section.append(...report.tables.filter((table) => table.group === group).map(makeTable));
    byId("sections").append(section);
    addContentsLink(group, headingId);
  });
  byId("chart-help").hidden = pending.length === 0;
  // All figures are in place before the first is drawn, so that each is measured once at its final width.
  for (const [definition, figure] of pending) drawChart(definition, figure, report.runs);
}

function addContentsLink(name, id) {
  byId("contents").append(element("a", { href: `#${id}` }, name));
}

function makeTable(table) {
  const number = report.tables.indexOf(table) + 1;
  const classOf = (column) => (column.numeric ? { class: "numeric" } : {});
  const header = element("tr", {}, ...table.columns.map((column) => element("th", { scope: "col", ...classOf(column) }, column.name)));
  const rows = table.rows.map((row) => element("tr", {}, ...row.map((cell, index) => makeCell(cell, classOf(table.columns[index])))));
  if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: table.columns.length }, "Nothing measured")));
  const captionId = `table-caption-${table.id}`;
  const box = element("div", { class: "table-box", tabindex: "0", role: "region", "aria-labelledby": captionId },
    element("table", { "aria-describedby": captionId }, element("thead", {}, header), element("tbody", {}, ...rows)));
  watchOverflow(box);
  return element("div", { class: "report-table", id: `table-${table.id}` },
    element("h3", {}, table.title),
    element("div", { class: "table-frame" }, box),
    element("p", { class: "caption", id: captionId }, element("b", {}, `Table ${number}. `), table.caption));
}

/** What follows a line break in a cell is detail, such as an interval, in a line of its own. */
function makeCell(text, attributes) {
  const [figure, ...details] = (text ?? "–").split("\n");
  // A path may break after each of its folders.
  const parts = figure.split("/").flatMap((part, index) => (index ? ["/", element("wbr"), part] : [part]));
  return element("td", attributes, ...parts, ...details.map((detail) => element("span", { class: "detail" }, detail)));
}

/** Tells where more of a table lies to the right, so that the edge of the box may say so. */
function watchOverflow(box) {
  const tell = () => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.addEventListener("scroll", tell, { passive: true });
  new ResizeObserver(tell).observe(box);
}

// ---- Theme ----

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme-toggle").textContent = name === "dark" ? "Light theme" : "Dark theme";
  recolorCharts();
}

function rememberTheme(name) {
  try {
    localStorage.setItem("anneal-theme", name);
  } catch {
    // A page opened from a file may have no storage; the choice then lasts as long as the page.
  }
}

function followTheme() {
  const current = () => document.documentElement.dataset.theme;
  let themeBeforePrint = current();
  setTheme(current());
  byId("theme-toggle").addEventListener("click", () => {
    setTheme(current() === "dark" ? "light" : "dark");
    rememberTheme(current());
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
  addEventListener("beforeprint", () => { themeBeforePrint = current(); setTheme("light"); });
  addEventListener("afterprint", () => setTheme(themeBeforePrint));
}

// ---- Start ----

/** Waits until the charts are on the screen; a page in the background paints nothing, so a timer stands in. */
function afterPaint() {
  return new Promise((resolve) => {
    requestAnimationFrame(() => setTimeout(resolve));
    setTimeout(resolve, 300);
  });
}

async function start() {
  followTheme();
  fillHeader();
  makeRunToggles();
  makeSections();
  if (report.rollouts.length) {
    addContentsLink("Rollouts", "rollouts-heading");
    byId("rollouts").hidden = false;
  }
  await afterPaint();
  if (report.rollouts.length) await startRollouts(report.rollouts, report.runs);
  document.documentElement.dataset.ready = "true";
}

start();
