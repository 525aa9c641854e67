// ---- Small helpers shared by every part of the page ----

/** Makes an element. Text always goes in as a text node: what models write is never read as markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

/** Tells a screen reader what a keyboard action has changed. */
function announce(message) {
  byId("announcer").textContent = message;
}

const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function powerOfTen(exponent) {
  return "10" + [...String(exponent)].map((character) => SUPERSCRIPTS[character]).join("");
}

/** Writes a number for people: three or four significant digits, grouped thousands, powers of ten where needed. */
function formatNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    const trimmed = String(Number(mantissa)).replace("-", "−");
    return trimmed === "1" ? powerOfTen(Number(exponent)) : `${trimmed}×${powerOfTen(Number(exponent))}`;
  }
  const rounded = Number.isInteger(value) || size >= 1e4 ? Math.round(value) : Number(value.toPrecision(size < 1 ? 3 : 4));
  return rounded.toLocaleString("en-GB", { maximumFractionDigits: 6 }).replace("-", "−");
}

function formatOnAxis(value, axis) {
  if (value === null || value === undefined) return "–";
  return axis.percent ? formatNumber(Number((value * 100).toPrecision(3))) + "%" : formatNumber(value);
}

// ---- Colours ----

const PALETTE_SIZE = 8;
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

/** The colours of the current theme, read from the style sheet because a canvas does not follow it by itself. */
const theme = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  Object.assign(theme, { paper: read("--paper"), ink: read("--ink"), muted: read("--muted"), grid: read("--grid"), rule: read("--control") });
  theme.palette = Array.from({ length: PALETTE_SIZE }, (_, index) => read(`--series-${index}`));
  theme.font = `12px ${read("--sans")}`;
}

function cssColor(colorIndex) {
  return colorIndex === null ? "var(--muted)" : `var(--series-${colorIndex % PALETTE_SIZE})`;
}

function canvasColor(trace) {
  return trace.color === null ? theme.muted : theme.palette[trace.color % PALETTE_SIZE];
}

// ---- From the report's series to what uPlot draws ----

/** Several runs are told apart by colour, and the lines of one run by dashes; a single run colours its series. */
function makeTraces(definition, runs) {
  // Faint lines and dots need no dashes to be told from the other series of their run.
  const isLine = (series) => (series.kind === "line" || series.kind === "curve") && series.style !== "faint";
  const lineNames = [...new Set(definition.series.filter(isLine).map((series) => series.name))];
  const traces = definition.series.map((series) => ({ series, kind: series.kind, visible: true, run: series.run ?? null }));
  const drawn = traces.filter((trace) => trace.kind !== "band");
  for (const trace of traces) {
    const partner = trace.kind === "band" ? partnerOfBand(trace, traces) : trace;
    const nameIndex = Math.max(0, lineNames.indexOf(partner.series.name));
    const severalRuns = runs.length > 1 && trace.run !== null;
    trace.color = trace.run === null ? null : severalRuns ? trace.run : Math.max(0, drawn.indexOf(partner));
    trace.dash = dashOf(trace.series, severalRuns ? nameIndex + Math.floor(trace.run / PALETTE_SIZE) : 0);
    trace.runName = severalRuns ? runs[trace.run].name : null;
    trace.spokenName = severalRuns ? `${trace.runName}, ${trace.series.name}` : trace.series.name;
  }
  return traces;
}

/** A band takes the colour of the line it belongs to: the one of its own name, or else its neighbour of the same run. */
function partnerOfBand(band, traces) {
  const candidates = traces.filter((trace) => trace.kind !== "band" && trace.run === band.run);
  const position = traces.indexOf(band);
  const distance = (trace) => Math.abs(traces.indexOf(trace) - position);
  return candidates.find((trace) => trace.series.name === band.series.name)
    ?? candidates.sort((first, second) => distance(first) - distance(second))[0] ?? band;
}

function dashOf(series, index) {
  if (series.style === "dashed") return DASHES[1 + (index % (DASHES.length - 1))];
  return DASHES[index % DASHES.length];
}

/**
 * uPlot wants one list of x for all series. A row is made for each x, and a further one where a series
 * repeats an x, as the points of a scatter do. `undefined` marks rows that a series says nothing about,
 * which lines pass over; `null` marks a measurement that is missing, where a line breaks.
 */
function alignTraces(traces, definition) {
  const rowsOfX = new Map();
  const xOfRow = [];
  for (const trace of traces) {
    const repeats = new Map();
    trace.rows = trace.series.x.map((x) => {
      if (!isDrawable(x, definition.x)) return null;
      const repeat = repeats.get(x) ?? 0;
      repeats.set(x, repeat + 1);
      if (!rowsOfX.has(x)) rowsOfX.set(x, []);
      const rows = rowsOfX.get(x);
      if (rows[repeat] === undefined) rows[repeat] = xOfRow.push(x) - 1;
      return rows[repeat];
    });
  }
  const order = xOfRow.map((_, row) => row).sort((first, second) => xOfRow[first] - xOfRow[second]);
  const placeOfRow = [];
  order.forEach((row, place) => { placeOfRow[row] = place; });
  const data = [order.map((row) => xOfRow[row])];
  for (const trace of traces) fillColumns(trace, data, placeOfRow, definition);
  return data;
}

function isDrawable(value, axis) {
  return typeof value === "number" && (!axis.log || value > 0);
}

function fillColumns(trace, data, placeOfRow, definition) {
  const { series, kind } = trace;
  const sources = kind === "band" ? [series.low ?? [], series.high ?? []] : [series.y ?? []];
  trace.columns = sources.map((source) => {
    const values = trace.rows.map((_, index) => (isDrawable(source[index], definition.y) ? source[index] : null));
    trace.count = values.filter((value) => value !== null).length;
    // Something measured only now and then, such as a validation score, is joined across what was not measured.
    const sparse = kind !== "band" && (series.joined || trace.count < values.length / 2);
    trace.marked = kind === "line" && (sparse || trace.count <= 25);
    const column = new Array(data[0].length).fill(undefined);
    trace.rows.forEach((row, index) => {
      if (row !== null && !(sparse && values[index] === null)) column[placeOfRow[row]] = values[index];
    });
    return data.push(column) - 1;
  });
  trace.isolated = kind === "line" ? isolatedRows(data[trace.columns[0]]) : [];
}

/** Values between two gaps: no line reaches them, so they are drawn as dots. */
function isolatedRows(column) {
  const told = [];
  column.forEach((value, row) => { if (value !== undefined) told.push(row); });
  const missing = (index) => told[index] === undefined || column[told[index]] === null;
  return told.filter((row, index) => column[row] !== null && missing(index - 1) && missing(index + 1));
}

// ---- Settings for uPlot ----

const NO_PATH = () => null;

function seriesSettings(trace) {
  const faint = trace.series.style === "faint";
  const stroke = () => canvasColor(trace);
  if (trace.kind === "band") {
    return trace.columns.map(() => ({ paths: uPlot.paths.linear(), stroke: "transparent", width: 0, points: { show: false } }));
  }
  if (trace.kind === "points") {
    return [{ paths: NO_PATH, stroke, alpha: faint ? 0.3 : 0.6, points: { show: true, size: 6, width: 0, fill: stroke } }];
  }
  return [{
    stroke,
    width: faint ? 1.25 : 2,
    pxAlign: 0,
    alpha: faint ? 0.5 : 1,
    dash: trace.dash,
    spanGaps: false,
    paths: uPlot.paths.linear(),
    points: { show: trace.marked, filter: () => (trace.marked ? null : trace.isolated), size: 6, width: 1.5, fill: () => theme.paper, stroke },
  }];
}

/** Bands that lie over one another are paler, so that the lines stay in front. */
function bandSettings(trace, _index, bands) {
  return { series: [trace.columns[1], trace.columns[0]], fill: () => canvasColor(trace) + (bands.length > 1 ? "1c" : "2b") };
}

const WHOLE_STEPS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].flatMap((power) => [power, 2 * power, 5 * power]);

function axisSettings(axis, scale) {
  const grid = { stroke: () => theme.grid, width: 1, filter: (plot, splits) => (axis.log ? wholePowers(splits) : splits) };
  const shared = { scale, grid, ticks: { show: false }, stroke: () => theme.muted, font: theme.font };
  const values = (plot, splits, _axis, _space, increment) => splits.map((split) => formatTick(split, axis, increment));
  // A count has no value between two whole numbers.
  const whole = axis.whole ? { incrs: WHOLE_STEPS } : {};
  return scale === "x"
    ? { ...shared, ...whole, values, grid: { ...grid, show: axis.log }, border: { show: true, stroke: () => theme.rule, width: 1 }, size: 26, space: 56 }
    : { ...shared, values, size: (plot, labels) => 16 + 7.2 * Math.max(2, ...(labels ?? []).map((label) => label.length)), space: 36 };
}

/** A log scale has a line for each power of ten; less than two of them would leave it bare. */
function wholePowers(splits) {
  const isPower = (split) => split !== null && Math.abs(Math.log10(split) - Math.round(Math.log10(split))) < 1e-9;
  return splits.filter(isPower).length < 2 ? splits : splits.map((split) => (isPower(split) ? split : null));
}

/** Ticks of one axis share their number of decimals. */
function formatTick(value, axis, increment) {
  if (value === null) return "";
  const unit = axis.percent ? 100 : 1;
  if (axis.log || Math.abs(value) >= 1e6 || increment * unit < 1e-4) return formatOnAxis(value, axis);
  const decimals = (String(Number((increment * unit).toPrecision(3))).split(".")[1] ?? "").length;
  const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  const written = (value * unit).toLocaleString("en-GB", digits).replace(/^-(?=[0.,]*$)/, "").replace("-", "−");
  return axis.percent ? written + "%" : written;
}

function rangeOfX(definition, scatter) {
  if (definition.x.log) return undefined;
  return (plot, low, high) => {
    if (low === null) return [0, 1];
    const margin = low === high ? 1 : scatter ? (high - low) * 0.03 : 0;
    return [low - margin, high + margin];
  };
}

function scaleSettings(definition, traces) {
  const scatter = traces.some((trace) => trace.kind === "points");
  const x = { time: false, distr: definition.x.log ? 3 : 1 };
  const range = rangeOfX(definition, scatter);
  if (range) x.range = range;
  const y = definition.y.log ? { distr: 3 } : { range: (plot, low, high) => rangeOfY(low, high, definition.y.percent) };
  return { x, y };
}

/** Shares stay between nothing and all; a series of zeros lies on the floor of a small range. */
function rangeOfY(low, high, percent) {
  if (low === null) return [0, 1];
  if (low === 0 && high === 0) return [0, percent ? 0.01 : 1];
  const [bottom, top] = uPlot.rangeNum(low, high, 0.1, true);
  return percent && low >= 0 && high <= 1 ? [Math.max(0, bottom), Math.min(1, top)] : [bottom, top];
}

// ---- One chart ----

/** All charts of the page, so that the theme, the run toggles and the zoom can reach them. */
const charts = [];

const NORMAL_HEIGHT = 250;
const ENLARGED_HEIGHT = 440;

/** Makes the figure of a chart; `drawChart` fills it once it stands in the page and its width is known. */
function makeFigure(definition, number) {
  const heading = element("h3", {}, definition.title);
  const enlarge = element("button", { type: "button", class: "quiet", "aria-pressed": "false", "aria-label": `Enlarge ${definition.title}` }, "Enlarge");
  const showAll = element("button", { type: "button", class: "quiet show-all", hidden: "" }, "Show all");
  const plotBox = element("div", { class: "plot" });
  const caption = element("figcaption", {}, element("b", {}, `Figure ${number}. `), definition.caption);
  const figure = element("figure", { class: "chart", id: `chart-${definition.id}` },
    element("div", { class: "chart-heading" }, heading, showAll, enlarge),
    element("p", { class: "axis-label" }, definition.y.label + (definition.y.log ? " (log scale)" : "")),
    plotBox,
    element("p", { class: "axis-label below" }, definition.x.label + (definition.x.log ? " (log scale)" : "")),
    element("div", { class: "legend" }),
    caption);
  enlarge.addEventListener("click", () => {
    const enlarged = figure.classList.toggle("enlarged");
    enlarge.setAttribute("aria-pressed", String(enlarged));
    enlarge.textContent = enlarged ? "Reduce" : "Enlarge";
  });
  return figure;
}

function drawChart(definition, figure, runs) {
  const chart = { definition, figure, traces: makeTraces(definition, runs), plotBox: figure.querySelector(".plot") };
  const data = alignTraces(chart.traces, definition);
  if (!chart.traces.some((trace) => trace.count > 0)) return drawNothing(figure);
  chart.group = `${definition.x.label}|${definition.x.log}`;
  chart.plot = new uPlot(chartSettings(chart), data, chart.plotBox);
  charts.push(chart);
  figure.querySelector(".show-all").addEventListener("click", () => zoom(chart.group, null));
  makeLegend(chart);
  makeKeyboard(chart);
  keepWidth(chart);
}

function drawNothing(figure) {
  figure.querySelector(".plot").replaceChildren(element("p", { class: "nothing" }, "Nothing measured"));
  figure.querySelectorAll(".chart-heading button").forEach((button) => button.remove());
  figure.classList.add("empty");
  figure.dataset.drawn = "true";
}

function chartSettings(chart) {
  const { definition, traces, figure } = chart;
  return {
    width: Math.max(200, chart.plotBox.clientWidth),
    height: NORMAL_HEIGHT,
    padding: [12, 10, 0, 0],
    legend: { show: false },
    scales: scaleSettings(definition, traces),
    axes: [axisSettings(definition.x, "x"), axisSettings(definition.y, "y")],
    series: [{}, ...traces.flatMap(seriesSettings)],
    bands: traces.filter((trace) => trace.kind === "band").map(bandSettings),
    cursor: {
      y: false,
      drag: { x: true, y: false, setScale: false },
      points: { size: 8, width: 2, stroke: (plot, column) => pointColor(chart, column), fill: () => theme.paper },
      dataIdx: (plot, column, row) => (column === 0 ? row : nearestRow(chart, plot, column, row)),
      sync: { key: chart.group, scales: ["x", null], filters: { pub: (type) => type === "mousemove", sub: () => true } },
      bind: { dblclick: () => () => zoom(chart.group, null) },
    },
    hooks: {
      draw: [() => { figure.dataset.drawn = "true"; }],
      setCursor: [() => showValues(chart)],
      setSelect: [(plot) => zoomToSelection(chart, plot)],
    },
  };
}

function traceOfColumn(chart, column) {
  return chart.traces.find((trace) => trace.columns.includes(column));
}

function pointColor(chart, column) {
  const trace = traceOfColumn(chart, column);
  return trace.kind === "band" ? "transparent" : canvasColor(trace);
}

/** The row whose value a series shows for the cursor: the nearest dot of a scatter, else the nearest value along x. */
function nearestRow(chart, plot, column, row) {
  const trace = traceOfColumn(chart, column);
  return trace.kind === "points" ? nearestDot(plot, column) : nearestValue(plot, column, row, trace);
}

function nearestDot(plot, column) {
  let best = null;
  let bestDistance = 40;
  plot.data[column].forEach((value, row) => {
    if (value === null || value === undefined) return;
    const across = plot.valToPos(plot.data[0][row], "x") - plot.cursor.left;
    const down = plot.valToPos(value, "y") - plot.cursor.top;
    const distance = Math.hypot(across, down);
    if (distance < bestDistance) [best, bestDistance] = [row, distance];
  });
  return best;
}

/** Looks to both sides, but no further than half the series' usual step: a run that ended shows no value. */
function nearestValue(plot, column, row, trace) {
  const positionOf = (index) => plot.valToPos(plot.data[0][index], "x");
  const values = plot.data[column];
  if (trace.reach === undefined) trace.reach = usualStep(plot.data[0], values) / 2;
  for (let away = 0; away < values.length; away++) {
    const found = [row - away, row + away].filter((index) => values[index] !== null && values[index] !== undefined);
    found.sort((first, second) => Math.abs(positionOf(first) - plot.cursor.left) - Math.abs(positionOf(second) - plot.cursor.left));
    if (found.length) {
      const near = Math.abs(plot.data[0][found[0]] - plot.data[0][row]) <= trace.reach * 1.01;
      return near ? found[0] : null;
    }
  }
  return null;
}

function usualStep(xs, values) {
  const measured = xs.filter((_, row) => values[row] !== null && values[row] !== undefined);
  const steps = measured.slice(1).map((x, index) => x - measured[index]).sort((first, second) => first - second);
  return steps.length ? steps[Math.floor(steps.length / 2)] : 0;
}

// ---- Zoom, shared by the charts of one horizontal axis ----

function zoomToSelection(chart, plot) {
  const { left, width } = plot.select;
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  if (width < 5) return;
  zoom(chart.group, { min: plot.posToVal(left, "x"), max: plot.posToVal(left + width, "x") });
}

function zoom(group, span) {
  for (const chart of charts) {
    if (chart.group !== group) continue;
    const { min, max } = chart.plot.scales.x;
    chart.wholeSpan ??= { min, max };
    chart.plot.setScale("x", span ?? chart.wholeSpan);
    chart.figure.querySelector(".show-all").hidden = span === null;
  }
}

// ---- Legend ----

function makeLegend(chart) {
  chart.position = element("span", { class: "legend-position" });
  const names = new Set(chart.traces.map((trace) => trace.series.name));
  const byRun = chart.traces.some((trace) => trace.runName) && names.size > 1;
  const entries = element("div", { class: byRun ? "legend-entries by-run" : "legend-entries" });
  chart.figure.querySelector(".legend").append(chart.position, entries);
  const rows = new Map();
  for (const trace of chart.traces) {
    const row = byRun ? legendRow(rows, entries, trace.runName ?? "") : entries;
    row.append(makeLegendEntry(chart, trace, byRun ? trace.series.name : trace.runName ?? trace.series.name));
  }
  showValues(chart);
}

/** Where runs have several series each, every run has a row of its own in the legend. */
function legendRow(rows, entries, runName) {
  if (!rows.has(runName)) {
    rows.set(runName, element("div", { class: "legend-row" }, element("span", { class: "legend-run" }, runName)));
    entries.append(rows.get(runName));
  }
  return rows.get(runName);
}

function makeLegendEntry(chart, trace, label) {
  trace.value = element("span", { class: "legend-value" });
  trace.button = element("button", { type: "button", class: "legend-entry", "aria-pressed": "true", title: `Show or hide ${trace.spokenName}` },
    makeSwatch(trace), element("span", { class: "legend-name" }, label), trace.value);
  trace.button.addEventListener("click", () => {
    trace.visible = !trace.visible;
    showTrace(chart, trace);
  });
  return trace.button;
}

/** A sample of the line as it is drawn: dashes, dot or band. */
function makeSwatch(trace) {
  const namespace = "http://www.w3.org/2000/svg";
  const swatch = document.createElementNS(namespace, "svg");
  const shapeName = { band: "rect", points: "circle" }[trace.kind] ?? "line";
  const shape = document.createElementNS(namespace, shapeName);
  const sizes = { rect: { width: 24, height: 10, y: 1, opacity: 0.3 }, circle: { cx: 12, cy: 6, r: 4 }, line: { x1: 0, x2: 24, y1: 6, y2: 6 } }[shapeName];
  for (const [name, value] of Object.entries(sizes)) shape.setAttribute(name, value);
  shape.setAttribute(shapeName === "line" ? "stroke" : "fill", "currentColor");
  shape.setAttribute("stroke-width", shapeName !== "line" ? "0" : trace.series.style === "faint" ? "1.25" : "2.5");
  shape.setAttribute("stroke-dasharray", trace.dash.join(" "));
  swatch.setAttribute("class", "swatch");
  swatch.setAttribute("viewBox", "0 0 24 12");
  swatch.setAttribute("aria-hidden", "true");
  swatch.style.color = cssColor(trace.color);
  swatch.append(shape);
  return swatch;
}

function showTrace(chart, trace) {
  const show = trace.visible && !hiddenRuns.has(trace.run);
  trace.button.setAttribute("aria-pressed", String(show));
  trace.button.disabled = hiddenRuns.has(trace.run);
  for (const column of trace.columns) chart.plot.setSeries(column, { show });
}

/** The legend shows the values under the cursor; with no cursor, the last values of the lines. */
function showValues(chart) {
  if (!chart.position) return;
  const { plot, definition, traces } = chart;
  const row = plot.cursor.left >= 0 ? plot.cursor.idx : null;
  const scatter = traces.some((trace) => trace.kind === "points");
  const resting = traces.some((trace) => trace.kind === "line") ? "last value" : "";
  chart.position.textContent = row === null ? resting : scatter ? "" : `${definition.x.label} ${formatNumber(plot.data[0][row])}`;
  for (const trace of traces) trace.value.textContent = row === null ? lastValue(chart, trace) : valueAtCursor(chart, trace);
}

function lastValue({ plot, definition }, trace) {
  if (trace.kind !== "line") return "";
  const last = plot.data[trace.columns[0]].findLast((value) => value !== null && value !== undefined);
  return formatOnAxis(last, definition.y);
}

function valueAtCursor({ plot, definition }, trace) {
  const values = trace.columns.map((column) => plot.data[column][plot.cursor.idxs[column]]);
  const written = values.map((value) => formatOnAxis(value, definition.y));
  if (trace.kind === "band") return values.includes(undefined) || values.includes(null) ? "–" : written.join(" to ");
  if (trace.kind !== "points") return written[0];
  if (values[0] === undefined) return "";
  const x = plot.data[0][plot.cursor.idxs[trace.columns[0]]];
  return `${formatOnAxis(x, definition.x)}, ${written[0]}`;
}

// ---- Keyboard ----

function makeKeyboard(chart) {
  const { plotBox, definition } = chart;
  plotBox.tabIndex = 0;
  plotBox.setAttribute("role", "group");
  plotBox.setAttribute("aria-roledescription", "chart");
  plotBox.setAttribute("aria-label", `${definition.title}. The arrow keys read the values, Escape shows everything.`);
  plotBox.addEventListener("keydown", (event) => {
    if (event.key === "Escape") zoom(chart.group, null);
    const target = rowForKey(chart, event.key);
    if (target === null) return;
    event.preventDefault();
    moveCursor(chart, target);
  });
  plotBox.addEventListener("blur", () => chart.plot.setCursor({ left: -10, top: -10 }, true, true));
}

function rowForKey({ plot, traces }, key) {
  const direction = { ArrowRight: 1, ArrowLeft: -1, Home: 1, End: -1 }[key];
  if (!direction) return null;
  const { min, max } = plot.scales.x;
  const columns = traces.filter((trace) => trace.kind !== "band").flatMap((trace) => trace.columns).filter((column) => plot.series[column].show);
  const xs = plot.data[0];
  const readable = xs.map((_, row) => row).filter((row) => xs[row] >= min && xs[row] <= max && columns.some((column) => typeof plot.data[column][row] === "number"));
  if (!readable.length) return null;
  if (key === "Home" || (key === "ArrowRight" && plot.cursor.left < 0)) return readable[0];
  if (key === "End" || plot.cursor.left < 0) return readable[readable.length - 1];
  const current = plot.cursor.keyboardRow ?? plot.cursor.idx;
  const next = direction > 0 ? readable.find((row) => row > current) : readable.findLast((row) => row < current);
  return next ?? current;
}

function moveCursor(chart, row) {
  const { plot, traces } = chart;
  const value = plot.data.slice(1).map((column) => column[row]).find((found) => typeof found === "number");
  plot.setCursor({ left: plot.valToPos(plot.data[0][row], "x"), top: plot.valToPos(value, "y") }, true, true);
  plot.cursor.keyboardRow = row;
  const read = traces.filter((trace) => trace.value.textContent).map((trace) => `${trace.spokenName} ${trace.value.textContent}`);
  announce([chart.position.textContent, ...read].join("; "));
}

// ---- Keeping all charts in step with the page ----

function keepWidth(chart) {
  new ResizeObserver(() => {
    const width = chart.plotBox.clientWidth;
    const height = chart.figure.classList.contains("enlarged") ? ENLARGED_HEIGHT : NORMAL_HEIGHT;
    if (width > 0 && (width !== chart.plot.width || height !== chart.plot.height)) chart.plot.setSize({ width, height });
  }).observe(chart.figure);
}

const hiddenRuns = new Set();

function setRunHidden(run, hidden) {
  if (hidden) hiddenRuns.add(run);
  else hiddenRuns.delete(run);
  for (const chart of charts) {
    chart.plot.batch(() => {
      for (const trace of chart.traces) if (trace.run === run) showTrace(chart, trace);
    });
  }
}

function recolorCharts() {
  readTheme();
  for (const chart of charts) chart.plot.redraw(false);
}
