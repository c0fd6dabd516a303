// The learning-curve explorer: accuracy or error of up to six runs while they trained.

const MOST_CURVES = 6;
const CURVE_X = {
  samples: ["samples seen", (run, i) => run.samples[i]],
  compute: ["compute (GMAC)", (run, i) => run.samples[i] * run.gmacs],
  share: ["share of the run", (run, i) => run.samples[i] / run.samples[run.samples.length - 1]],
};

EXPLORERS.curves = function (app, data) {
  const state = { x: "samples", y: "error", xScale: "log", yScale: "log", points: data.points };
  const chosen = new Map(); // run -> number of its look, kept while it is shown
  const set = (name) => (value) => {
    state[name] = value;
    update();
  };
  const choose = (runs) => {
    chosen.clear();
    runs.slice(0, MOST_CURVES).forEach((run, i) => chosen.set(run, i));
    update();
  };
  const change = (run, wanted) => {
    const taken = [...chosen.values()];
    if (!wanted) chosen.delete(run);
    else chosen.set(run, [0, 1, 2, 3, 4, 5].find((i) => !taken.includes(i)));
    update();
  };

  // Controls
  const scales = [["log", "logarithmic"], ["linear", "linear"]];
  const xs = Object.entries(CURVE_X).map(([key, [text]]) => [key, text]);
  const runsOf = (wanted) =>
    data.runs.filter((run) => Object.entries(wanted).every(([key, value]) => run[key] === value));
  const fall = (run, i) => run.top1[i - 1] - run.top1[i];
  const deepest = (run) => Math.max(0, ...spikes(run.top1, 0).map((i) => fall(run, i)));
  const byDepth = [...data.runs].sort((a, b) => deepest(b) - deepest(a));
  const sets = {
    arch: ["by architecture: LAION-2B, 13B", runsOf({ data: "2B", label: "13B" })],
    data: ["by data: L/14, 34B", runsOf({ arch: "L/14", label: "34B" })],
    samples: ["by samples: L/14, LAION-2B", runsOf({ arch: "L/14", data: "2B" })],
    spikes: ["the six deepest drops", byDepth],
    none: ["none", []],
  };
  const names = Object.entries(sets).map(([key, [text]]) => [key, text]);
  const compare = choice("Compare", [["", "my own choice"], ...names], "data", (key) => {
    if (key) choose(sets[key][1]);
  });
  const limits = { min: 0.5, max: 20, step: 0.5 };
  const controls = [
    compare.node,
    choice("Across", xs, state.x, set("x")).node,
    choice("Scale across", scales, state.xScale, set("xScale")).node,
    choice("Up", [["accuracy", "ImageNet top-1"], ["error", "its error"]], state.y, set("y")).node,
    choice("Scale up", scales, state.yScale, set("yScale")).node,
    number("Spike: a drop of more than (points)", state.points, limits, set("points")).node,
  ];
  const boxes = new Map();
  const labels = ["3B", "13B", "34B"];
  const families = [...new Set(data.runs.map((run) => `${run.arch} ${run.data}`))];
  const cell = (family, label) => {
    const run = data.runs.find((some) => some.name === `${family} ${label}`);
    if (!run) return "";
    const { node, box } = tick("", false, (wanted) => {
      compare.select.value = "";
      change(run, wanted);
    });
    box.setAttribute("aria-label", run.name);
    boxes.set(run, box);
    return node;
  };
  const grid = table(
    `Runs by samples seen, up to ${MOST_CURVES}`,
    ["", ...labels],
    families.map((family) => [family, ...labels.map((label) => cell(family, label))]),
  );

  // The page
  const ink = { fill: "none", stroke: "currentColor", "stroke-width": 1.4 };
  const picture = html("div", { className: "explorer-picture" });
  const answer = html("p", { className: "explorer-answer", role: "status", "aria-live": "polite" });
  const results = html("div", { className: "explorer-results" });
  app.append(
    html("div", { className: "explorer-controls" }, controls),
    picture,
    html("p", { className: "explorer-key" },
      html("span", {}, icon("v", ink), "spike"),
      html("span", {}, "each curve ends in its mark of the table")),
    answer,
    results,
    html("details", { open: true }, html("summary", {}, "Choose the runs"), grid),
  );
  const redraw = redrawn(picture, (width) => draw(width));

  function update() {
    for (const [run, box] of boxes) {
      box.checked = chosen.has(run);
      box.disabled = chosen.size >= MOST_CURVES && !chosen.has(run);
    }
    const seen = (run) => spikes(run.top1, state.points);
    const found = [...chosen].map(([run, look]) => ({ run, look, at: seen(run) }));
    const count = found.reduce((sum, { at }) => sum + at.length, 0);
    const full = chosen.size >= MOST_CURVES ? " Untick one to choose another." : "";
    answer.textContent =
      `${found.length} of ${data.runs.length} runs shown; spikes: ${count} drops of more than ` +
      `${state.points} points from one published point to the next.${full}`;
    results.replaceChildren(...(found.length ? [facts(found)] : []));
    redraw();
  }

  function facts(found) {
    const percent = (value) => fixed(100 * value, 2);
    return table(
      "The runs shown: ImageNet top-1 (%)",
      ["run", "last", "best", "drops", "deepest drop (points)", "at samples"],
      found.map(({ run, look, at }) => {
        const deeper = (a, b) => (a === null || fall(run, b) > fall(run, a) ? b : a);
        const worst = at.reduce(deeper, null);
        const dash = { dash: data.dashes[look] };
        const swatch = icon(data.marks[look], { fill: data.palette[look] }, dash);
        const billions = (i) => `${fixed(run.samples[i] / 1e9, 2)}B`;
        return [
          html("span", { className: "swatch" }, swatch, run.name),
          percent(run.top1[run.top1.length - 1]),
          percent(Math.max(...run.top1)),
          String(at.length),
          ...(worst === null ? ["", ""] : [percent(fall(run, worst)), billions(worst)]),
        ];
      }),
    );
  }

  function draw(width) {
    const [label, xOf] = CURVE_X[state.x];
    const yOf = (run, i) => (state.y === "error" ? 1 - run.top1[i] : run.top1[i]);
    const runs = chosen.size ? [...chosen.keys()] : data.runs;
    const all = (value) => runs.flatMap((run) => run.samples.map((_, i) => value(run, i)));
    const axis = (values, scale) => {
      const low = values.reduce((a, b) => Math.min(a, b));
      const high = values.reduce((a, b) => Math.max(a, b));
      const pad = (high / low) ** 0.04;
      if (scale === "log") return { low: low / pad, high: high * pad, log: true };
      const room = 0.04 * (high - low);
      return { low: Math.max(0, low - room), high: high + room, log: false };
    };
    const power = state.x !== "share";
    const xAxis = { ...axis(all(xOf), state.xScale), label, power };
    const yLabel = `ImageNet zero-shot ${state.y === "error" ? "error" : "top-1"}`;
    const yAxis = { ...axis(all(yOf), state.yScale), label: yLabel };
    const alt = `${yLabel} against ${label}, one line a run. ${answer.textContent}`;
    const { node, plot, x, y } = chart(width, width < 500 ? 340 : 420, xAxis, yAxis, alt);
    for (const [run, look] of chosen) {
      const at = (i) => [x(xOf(run, i)), y(yOf(run, i))];
      const colour = data.palette[look];
      const line = svg("path", {
        d: path(run.samples.map((_, i) => at(i))), fill: "none", stroke: colour,
        "stroke-width": 1.6, "stroke-dasharray": data.dashes[look], "stroke-linejoin": "round",
      });
      line.append(svg("title", {}, run.name));
      plot.append(line, mark(data.marks[look], ...at(run.samples.length - 1), 5, { fill: colour }));
      for (const i of spikes(run.top1, state.points)) {
        const spike = mark("v", ...at(i), 6, ink);
        spike.append(svg("title", {}, `${run.name}: ${fixed(-100 * fall(run, i), 2)} points`));
        plot.append(spike);
      }
    }
    return node;
  }

  choose(sets.data[1]);
};
