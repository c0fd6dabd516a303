// The law explorer: choose a task, a frontier and the runs; see the line, its exponent with an
// interval, and what it says about two larger models. First the control panel, then what it shows.

const WAYS = [
  ["all", "all: every run"],
  ["bins", "bins: lowest error of each bin, at its centre (the paper)"],
  ["bins_own", "bins_own: the same runs, at their own compute"],
  ["pareto", "pareto: runs that nothing cheaper beats"],
  ["hull", "hull: lower convex hull"],
];
const FAMILIES = [
  ["OpenCLIP", "OpenCLIP"],
  ["OpenAI", "OpenAI"],
  ["both", "both, as if one"],
];
const DIRECTIONS = [
  ["image", "image retrieval"],
  ["text", "text retrieval"],
];

/** Points, law and intervals of some runs; law is null where there are too few points. */
function solve(rows, { how, nbins, seed }, { draws: n, t975 }) {
  const sorted = byCompute(rows);
  const points = sorted.length ? frontier(sorted, how, nbins) : [];
  const law = fitPower(points);
  if (!law) return { points, law };
  const t = how === "all" ? t975[law.n - 2] : null; // only there are the points a sample
  const draws = bootstrap(sorted, how, nbins, n, seed);
  const percentile = draws.refused ? null : intervals(draws);
  const student = t ? tIntervals(law, t) : null;
  const interval = (C, kind) => {
    if (percentile) return predictInterval(law, draws, C, kind);
    return t ? tPredictInterval(law, t, C, kind) : null;
  };
  return { points, law, draws, percentile, student, interval };
}

EXPLORERS.law = function (app, data) {
  const state = { task: "imagenet1k", direction: "image", family: "OpenCLIP", how: "bins" };
  Object.assign(state, { nbins: 5, seed: 0, out: new Set(), last: "" });
  let found = null;

  const task = () => data.tasks.find(({ id }) => id === state.task);
  const metric = () => {
    const { metrics } = task();
    return metrics.find(({ direction }) => direction === state.direction) ?? metrics[0];
  };
  const inFamily = (run) => state.family === "both" || run.family === state.family;
  const isOut = (run) => state.out.has(run.index);
  const family = () => data.runs.filter(inFamily);
  const kept = () => family().filter((run) => !isOut(run));
  const row = (run) => ({ C: run.C, E: 1 - metric().values[run.index], run });

  // Controls
  const set = (name) => (value) => {
    state[name] = value;
    state.last = "";
    update();
  };
  const toggle = (runs, back) => {
    for (const { index } of runs) state.out[back ? "delete" : "add"](index);
    const what = runs.length === 1 ? runs[0].name : `${runs.length} runs`;
    state.last = `${back ? "Back in" : "Left out"}: ${what}. `;
    update();
  };
  const groups = {};
  for (const { id, title, group } of data.tasks) (groups[group] ??= []).push([id, title]);
  const tasks = choice("Task", groups, state.task, set("task"));
  const direction = choice("Direction", DIRECTIONS, state.direction, set("direction"));
  const families = choice("Models", FAMILIES, state.family, set("family"));
  const ways = choice("Frontier", WAYS, state.how, set("how"));
  const bins = number("Bins", state.nbins, { min: 3, max: 12 }, set("nbins"));
  ways.node.className = "wide";

  const boxes = (key, names, symbol) =>
    names.map((name) => {
      const runs = () => family().filter((run) => run[key] === name);
      return { ...tick(name, true, (back) => toggle(runs(), back), symbol(name)), runs };
    });
  const outline = { fill: "none", stroke: "currentColor", "stroke-width": 1.4 };
  const dataBoxes = boxes("data", Object.keys(data.markers), (name) =>
    icon(data.markers[name], outline));
  const archBoxes = boxes("arch", Object.keys(data.colours), (name) =>
    icon("s", { fill: data.colours[name] }, { r: sizeOf(name, data) }));
  const runBoxes = data.runs.map((run) => {
    const size = { r: sizeOf(run.arch, data) };
    const symbol = icon(data.markers[run.data], lookOf(run, data), size);
    const runs = () => (inFamily(run) ? [run] : []);
    return { ...tick(run.name, true, (back) => toggle([run], back), symbol), runs };
  });
  const reset = html("button", { type: "button" }, "All runs back");
  reset.onclick = () => toggle(family().filter(isOut), true);
  const again = html("button", { type: "button" }, "Resample again");
  again.onclick = () => set("seed")(state.seed + 1);

  // The page
  const picture = html("div", { className: "explorer-picture" });
  const answer = html("p", { className: "explorer-answer", role: "status", "aria-live": "polite" });
  const results = html("div", { className: "explorer-results" });
  const nodes = (controls) => controls.map(({ node }) => node);
  const fieldset = (legend, controls) =>
    html("fieldset", {}, html("legend", {}, legend), nodes(controls));
  app.append(
    html("div", { className: "explorer-controls" },
      nodes([tasks, direction, families, ways, bins])),
    picture,
    legendLine(data.accent),
    answer,
    html("div", { className: "explorer-groups" },
      fieldset("Runs in the fit, by data", dataBoxes), fieldset("by architecture", archBoxes)),
    html("details", {}, html("summary", {}, "Single runs"),
      html("div", { className: "explorer-runs" }, nodes(runBoxes))),
    html("p", { className: "explorer-buttons" }, reset, again),
    results,
  );
  const redraw = redrawn(picture, draw);
  update();

  function update() {
    direction.select.disabled = task().metrics.length < 2;
    bins.input.disabled = !state.how.startsWith("bins");
    for (const { node, box, runs } of [...dataBoxes, ...archBoxes, ...runBoxes]) {
      const some = runs();
      const out = some.filter(isOut).length;
      node.hidden = !some.length;
      box.checked = out < some.length;
      box.indeterminate = out > 0 && out < some.length;
    }
    reset.disabled = !family().some(isOut);
    found = solve(kept().map(row), state, data);
    answer.textContent = state.last + sentence();
    const shown = found.law
      ? [parameters(found), predictions(found, metric(), data.later), notes(found, state, data)]
      : [];
    results.replaceChildren(...shown);
    redraw();
  }

  function sentence() {
    const { law, points, percentile, student } = found;
    const runs = `${points.length} points from ${kept().length} of ${family().length} runs`;
    if (!law) return `No law: ${runs}; a line needs three points.`;
    const sure = percentile ?? student;
    const interval = sure ? `95% interval ${span(sure.alpha, (v) => fixed(v, 3))}` : "no interval";
    const all = fitPower(frontier(byCompute(family().map(row)), state.how, state.nbins));
    const change = all && family().some(isOut) ? ` With all runs: ${fixed(all.alpha, 4)}.` : "";
    const printed = metric().printed?.[state.family];
    const paper = printed === undefined ? "" : ` The paper prints ${fixed(printed, 2)}.`;
    const title = `${task().title}, ${metric().label}`;
    return `${title}: exponent ${fixed(law.alpha, 4)}, ${interval}; ${runs}.${change}${paper}`;
  }

  function draw(width) {
    const rows = family().map(row);
    const label = `Error against compute on log axes, one mark a run. ${sentence()}`;
    const axes = ranges(rows, found, metric(), data.later);
    const frame = chart(width, width < 500 ? 350 : 430, ...axes, label);
    const { node, plot, x, y } = frame;
    const edges = state.how.startsWith("bins") && kept().length
      ? binEdges(byCompute(kept().map(row)), state.nbins)
      : [];
    for (const edge of edges) {
      const at = x(10 ** edge);
      plot.append(svg("line", { class: "edge", x1: at, x2: at, y1: 0, y2: frame.h }));
    }
    if (found.law) {
      plot.append(...lawLine(found, frame, axes[0], data.accent));
      const told = (model, i) => larger(model, i, found, metric(), frame, data);
      plot.append(...data.later.flatMap(told));
    }
    plot.append(...found.points.flatMap((point) => setter(point, state.how, frame)));
    const places = rows.map(({ C, E, run }) => ({ run, at: [x(C), y(E)] }));
    plot.append(...rows.map((r) => dot(r, isOut(r.run), frame, data)));
    node.onclick = (event) => press(event, frame, places);
    return node;
  }

  /** A press leaves out, or takes back, the nearest run within a finger's width. */
  function press(event, { node, frame }, places) {
    const box = node.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left - frame.left, event.clientY - box.top - frame.top];
    const far = ({ at }) => Math.hypot(at[0] - px, at[1] - py);
    const nearest = places.reduce((a, b) => (far(b) < far(a) ? b : a));
    if (far(nearest) < 18) toggle([nearest.run], isOut(nearest.run));
  }
};

// -------------------------------------------------------------------------- in words and tables

function legendLine(accent) {
  const key = [
    [icon("o", { fill: "none", stroke: "currentColor" }), "sets the frontier"],
    [icon("D", { fill: "currentColor" }), "moved to its bin's centre"],
    [icon("o", { fill: accent }), "predicted, with both 95% intervals"],
    [icon("P", { fill: accent, stroke: "currentColor" }), "published later"],
  ];
  const parts = key.map((part) => html("span", {}, part));
  return html("p", { className: "explorer-key" }, parts);
}

function parameters({ law, percentile, student }) {
  const [four, one] = [4, 1].map((digits) => (value) => fixed(value, digits));
  const left = (alpha) => 100 * 2 ** alpha;
  const sure = percentile ?? student;
  const rows = [
    ["exponent \u03b1", four(law.alpha), sure ? span(sure.alpha, four) : "none"],
    ["factor \u03b2 (C in GMAC)", short(law.beta), sure ? span(sure.beta, short) : "none"],
    ["error left by twice the compute (%)", one(left(law.alpha)),
      sure ? span(sure.alpha.map(left), one) : "none"],
  ];
  if (percentile && student) {
    rows.splice(1, 0, ["\u03b1 by Student's t", four(law.alpha), span(student.alpha, four)]);
  }
  return table("The law", ["", "value", "95% interval"], rows);
}

function predictions({ law, interval }, metric, models) {
  const percent = (E) => fixed(100 * (1 - E), 2);
  const between = (kind) => ({ C }) => {
    const ends = interval(C, kind);
    return ends ? span([ends[1], ends[0]], percent) : "none";
  };
  const published = ({ key }) => metric.later?.[key];
  const score = (model) => fixed(100 * published(model), 2);
  const missed = (model) => fixed(100 * (published(model) - 1 + predict(law, model.C)), 2);
  const known = (cell) => (model) => (published(model) === undefined ? "none" : cell(model));
  return table(
    "What the line says about larger models, and what was published",
    ["", ...models.map(({ name }) => name)],
    [
      ["compute (GMAC)", ...models.map(({ C }) => short(C))],
      [`predicted ${metric.label} (%)`, ...models.map(({ C }) => percent(predict(law, C)))],
      ["95% interval of the line", ...models.map(between("mean"))],
      ["95% interval of a new point", ...models.map(between("new"))],
      ["published (%)", ...models.map(known(score))],
      ["published \u2212 predicted (points)", ...models.map(known(missed))],
    ],
  );
}

function notes({ draws, law, student }, { seed }, data) {
  const failed = draws.failed ? `; ${draws.failed} of them could not be fitted` : "";
  const how = draws.refused
    ? `No bootstrap: ${draws.refused}.`
    : `Interval: percentile, ${data.draws} resamples of the runs, seed ${seed}${failed}.`;
  const t = student ? ` Student's t: degrees of freedom ${law.n - 2}.` : "";
  const texts = [how + t, ...data.later.map(({ note }) => note)];
  return html("p", { className: "explorer-note" }, texts.filter(Boolean).join(" "));
}

// ------------------------------------------------------------------------------- in the picture

/** Both axes: all runs, both larger models, and their intervals unless these are very wide. */
function ranges(rows, { law, interval }, metric, models) {
  const axis = (values, pad, label) => {
    return { low: Math.min(...values) / pad, high: Math.max(...values) * pad, log: true, label };
  };
  const published = Object.values(metric.later ?? {}).map((value) => 1 - value);
  const predicted = law ? models.map(({ C }) => predict(law, C)) : [];
  const certain = [...rows.map(({ E }) => E), ...published, ...predicted];
  const ends = law ? models.flatMap(({ C }) => interval(C, "new") ?? []) : [];
  const [room, top] = [Math.min(...certain) / 1.5, Math.max(...certain)];
  const errors = [...certain, ...ends.filter((E) => E > room && E < top)];
  const pad = Math.max(1.02, (top / Math.min(...errors)) ** 0.06);
  const compute = [...rows, ...models].map(({ C }) => C);
  const across = { ...axis(compute, 1.8, "compute (GMAC)"), power: true };
  return [across, axis(errors, pad, `error, ${metric.label}`)];
}

/** The band and the line, dashed beyond its points. */
function lawLine({ law, points, interval }, { x, y }, { low, high }, colour) {
  const grid = Array.from({ length: 33 }, (_, i) => low * (high / low) ** (i / 32));
  const ends = grid.map((C) => interval(C, "mean"));
  const parts = [];
  if (ends[0]) {
    const edge = (k) => grid.map((C, i) => [x(C), y(ends[i][k])]);
    const d = `${path([...edge(0), ...edge(1).reverse()])}Z`;
    parts.push(svg("path", { d, fill: colour, opacity: 0.16 }));
  }
  const [first, last] = [points[0].C, points[points.length - 1].C];
  const segment = (from, to, dash) => {
    const d = path([from, to].map((C) => [x(C), y(predict(law, C))]));
    const stroke = { fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash };
    return svg("path", { d, ...stroke });
  };
  const dashed = [segment(low, first, "6 4"), segment(last, high, "6 4")];
  return [...parts, segment(first, last, ""), ...dashed];
}

/** A larger model: its name, its prediction with both intervals, and what was published. */
function larger({ key, C, name }, i, { law, interval }, metric, { x, y }, { accent }) {
  const [at, height] = [x(C), 16 + 20 * i];
  const upright = (from, to, look) => svg("line", { x1: at, x2: at, y1: from, y2: to, ...look });
  const bar = (kind, width) => {
    const ends = interval(C, kind);
    return ends ? [upright(...ends.map(y), { stroke: accent, "stroke-width": width })] : [];
  };
  const place = { x: at + 8, y: height, "text-anchor": "end", fill: "currentColor" };
  const predicted = y(predict(law, C));
  const parts = [
    upright(height + 5, predicted, { class: "lead" }),
    ...bar("new", 1.4),
    ...bar("mean", 4),
    mark("o", at, predicted, 5, { fill: accent }),
    svg("text", place, name),
  ];
  const value = metric.later?.[key];
  if (value === undefined) return parts;
  const plus = mark("P", at, y(1 - value), 6, { fill: accent, stroke: "currentColor" });
  plus.append(svg("title", {}, `${name}, published: error ${fixed(1 - value, 4)}`));
  return [...parts, plus];
}

/** The ring of a run on the frontier and, where the recipe moves it, the way to its new place. */
function setter({ C, E, row: { C: own } }, how, { x, y }) {
  if (how === "all") return [];
  const ink = { fill: "none", stroke: "currentColor" };
  const ring = svg("circle", { cx: x(own), cy: y(E), r: 10, ...ink, "stroke-width": 1.6 });
  if (how !== "bins") return [ring];
  const way = svg("line", { x1: x(own), x2: x(C), y1: y(E), y2: y(E), ...ink });
  return [ring, way, mark("D", x(C), y(E), 4, { fill: "currentColor" })];
}

/** Filled for OpenCLIP, hollow for OpenAI. */
function lookOf(run, { colours }) {
  const colour = colours[run.arch];
  return { fill: run.family === "OpenAI" ? "none" : colour, stroke: colour, "stroke-width": 1.6 };
}

/** A larger architecture has a larger mark: told apart in grey too. */
function sizeOf(arch, { colours }) {
  return 4.2 + 0.6 * Object.keys(colours).indexOf(arch);
}

/** The mark of a run, crossed out where it is left out. */
function dot({ C, E, run }, out, { x, y }, data) {
  const told = `${run.name}: error ${fixed(E, 4)}${out ? ", left out" : ""}`;
  const group = svg("g", { class: out ? "run out" : "run", "data-run": run.index });
  const size = sizeOf(run.arch, data);
  const shape = mark(data.markers[run.data], x(C), y(E), size, lookOf(run, data));
  group.append(svg("title", {}, told), shape);
  const cross = `M${x(C) - 6},${y(E) - 6}l12,12m0,-12l-12,12`;
  if (out) group.append(svg("path", { d: cross, stroke: "currentColor" }));
  return group;
}
