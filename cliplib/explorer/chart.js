// Elements and charts: HTML controls, SVG in the page's ink (currentColor), no library, no motion.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element with properties; a name with a dash becomes an attribute; no null children. */
function html(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}

/** An SVG element with attributes. */
function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A labelled <select>; options: [[value, text], ...] or {group: [[value, text], ...]}. */
function choice(label, options, value, onchange) {
  const option = ([key, text]) => html("option", { value: key, selected: key === value }, text);
  const entries = Array.isArray(options)
    ? options.map(option)
    : Object.entries(options).map(([group, some]) =>
        html("optgroup", { label: group }, some.map(option)),
      );
  const told = { "aria-label": label }; // else the options become part of the name
  const select = html("select", { ...told, onchange: () => onchange(select.value) }, entries);
  return { node: html("label", {}, `${label} `, select), select };
}

/** A labelled whole or half number; a value out of its range is not handed on. */
function number(label, value, { min, max, step = 1 }, onchange) {
  const input = html("input", { type: "number", min, max, step, value });
  input.oninput = () => input.value !== "" && input.validity.valid && onchange(Number(input.value));
  return { node: html("label", {}, `${label} `, input), input };
}

/** A checkbox with an optional icon before its text. */
function tick(text, checked, onchange, icon = null) {
  const box = html("input", { type: "checkbox", checked });
  box.onchange = () => onchange(box.checked);
  return { node: html("label", { className: "tick" }, box, icon, text), box };
}

/** A table: head of texts; rows of texts or nodes, the first cell of each being its header. */
function table(caption, head, rows) {
  const cells = (row) =>
    row.map((cell, i) => html(i ? "td" : "th", i ? {} : { scope: "row" }, cell));
  return html(
    "div",
    { className: "wide-table", tabIndex: 0, role: "region", "aria-label": caption },
    html(
      "table",
      {},
      html("caption", {}, caption),
      html("thead", {}, html("tr", {}, head.map((text) => html("th", { scope: "col" }, text)))),
      html("tbody", {}, rows.map((row) => html("tr", {}, cells(row)))),
    ),
  );
}

// ------------------------------------------------------------------------------------- numbers

/** A number with a true minus sign. */
function fixed(value, digits) {
  return value.toFixed(digits).replace("-", "\u2212");
}

/** About four digits, for a factor that may be tiny or huge. */
function short(value) {
  const small = value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5);
  if (!small) return fixed(value, Math.max(0, 3 - Math.floor(Math.log10(Math.abs(value) || 1))));
  const [digits, power] = value.toExponential(2).split("e");
  return `${digits} \u00d7 10${superscript(Number(power))}`;
}

function superscript(power) {
  const digits = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";
  return String(power).replace(/./g, (sign) => (sign === "-" ? "\u207b" : digits[sign]));
}

/** "low to high" through a format. */
function span([low, high], format) {
  return `${format(low)} to ${format(high)}`;
}

// --------------------------------------------------------------------------------------- marks

const ROOT3 = Math.sqrt(3) / 2;
const SHAPES = {
  // matplotlib's names, as corners on a unit circle or a little beyond it
  s: [[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]],
  "^": [[0, -1.1], [1.1 * ROOT3 + 0.1, 0.75], [-1.1 * ROOT3 - 0.1, 0.75]],
  v: [[0, 1.1], [1.1 * ROOT3 + 0.1, -0.75], [-1.1 * ROOT3 - 0.1, -0.75]],
  D: [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]],
  P: [
    [-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4],
    [0.4, 1.1], [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4], [-1.1, -0.4], [-0.4, -0.4],
  ],
};

/** A mark of matplotlib's name `shape` ("o", "s", ...) with radius r. */
function mark(shape, x, y, r, attributes = {}) {
  if (shape === "o") return svg("circle", { cx: x, cy: y, r, ...attributes });
  const corners = SHAPES[shape].map(([dx, dy]) => `${x + r * dx},${y + r * dy}`);
  return svg("polygon", { points: corners.join(" "), ...attributes });
}

/** A mark for a legend or a label, in the line of its text; dash: on a line so broken. */
function icon(shape, attributes, { dash = null, r = 5 } = {}) {
  const box = svg("svg", { width: dash === null ? 16 : 36, height: 16, "aria-hidden": "true" });
  const middle = dash === null ? 8 : 18;
  if (dash !== null) {
    const line = { x1: 0, x2: 36, y1: 8, y2: 8, "stroke-width": 2, "stroke-dasharray": dash };
    box.append(svg("line", { ...line, stroke: attributes.fill }));
  }
  box.append(mark(shape, middle, 8, r, attributes));
  return box;
}

// -------------------------------------------------------------------------------------- charts

/**
 * Axes around an empty plot. An axis: {low, high, log, label, power}; power: ticks as 10^n.
 * Gives {node, plot, x, y}: marks go into plot, which clips them, at pixels x(value), y(value).
 */
function chart(width, height, xAxis, yAxis, label) {
  const frame = { left: 62, right: 12, top: 8, bottom: 50 };
  const w = width - frame.left - frame.right;
  const h = height - frame.top - frame.bottom;
  const share = ({ low, high, log }) => {
    const f = log ? Math.log : Number;
    return (value) => (f(value) - f(low)) / (f(high) - f(low));
  };
  const [across, up] = [share(xAxis), share(yAxis)];
  const [x, y] = [(value) => across(value) * w, (value) => (1 - up(value)) * h];
  const node = svg("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label,
    class: "explorer-chart",
  });
  const plot = svg("svg", { x: frame.left, y: frame.top, width: w, height: h });
  const text = (content, place) => svg("text", { fill: "currentColor", ...place }, content);
  const middle = { "text-anchor": "middle" };
  for (const value of ticks(xAxis, w / 70)) {
    plot.append(svg("line", { class: "grid", x1: x(value), x2: x(value), y1: 0, y2: h }));
    const place = { x: frame.left + x(value), y: height - frame.bottom + 18 };
    node.append(text(tickText(value, xAxis), { ...place, ...middle }));
  }
  for (const value of ticks(yAxis, h / 45)) {
    plot.append(svg("line", { class: "grid", x1: 0, x2: w, y1: y(value), y2: y(value) }));
    const place = { x: frame.left - 7, y: frame.top + y(value) + 4, "text-anchor": "end" };
    node.append(text(tickText(value, yAxis), place));
  }
  const corner = `M${frame.left},${frame.top}v${h}h${w}`;
  node.append(svg("path", { d: corner, fill: "none", stroke: "currentColor" }), plot);
  node.append(text(xAxis.label, { x: frame.left + w / 2, y: height - 8, ...middle }));
  const turned = `translate(14 ${frame.top + h / 2}) rotate(-90)`;
  node.append(text(yAxis.label, { transform: turned, ...middle }));
  return { node, plot, x, y, w, h, frame };
}

/** Round values of an axis, about `count` of them. */
function ticks({ low, high, log }, count) {
  const found = log ? logTicks(low, high, count) : [];
  if (found.length >= 3 || (found.length && high / low > 50)) return found;
  const rough = (high - low) / Math.max(2, count);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const values = Array.from({ length: last - first + 1 }, (_, k) => (first + k) * step);
  return values.map((value) => Number(value.toPrecision(12)));
}

function logTicks(low, high, count) {
  const within = (parts) => {
    const values = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k++) {
      for (const part of parts) values.push(Number(`${part}e${k}`));
    }
    return values.filter((value) => value >= low && value <= high);
  };
  const series = [[1, 1.5, 2, 3, 4, 5, 6, 7, 8], [1, 2, 5], [1, 3], [1]].map(within);
  return series.find((values) => values.length <= count + 1) ?? series[3];
}

function tickText(value, { power }) {
  if (!power || value === 0) return String(Number(value.toPrecision(6)));
  const exponent = Math.floor(Math.log10(value) + 1e-9);
  const digit = Number((value / 10 ** exponent).toPrecision(3));
  return `${digit === 1 ? "" : `${digit}\u00b7`}10${superscript(exponent)}`;
}

/** An SVG path through [x, y] pairs of pixels. */
function path(pairs) {
  return `M${pairs.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}`;
}

/** Draw anew whenever the width of the box changes; draw(width) gives the new content. */
function redrawn(box, draw) {
  let width = 0;
  const again = () => width > 40 && box.replaceChildren(draw(width));
  new ResizeObserver(() => {
    const now = Math.min(Math.floor(box.clientWidth), 860);
    if (now !== width && now > 40) {
      width = now;
      again();
    }
  }).observe(box);
  return again;
}

// The explorers by name; each gets its element and its data. `start` runs once for each element.
const EXPLORERS = {};

function start() {
  for (const root of document.querySelectorAll(".explorer:not([data-ready])")) {
    const explorer = EXPLORERS[root.dataset.explorer];
    if (!explorer) continue; // its script follows
    root.dataset.ready = "yes";
    const data = JSON.parse(root.querySelector("script").textContent);
    explorer(root.querySelector(".explorer-app"), data);
    root.querySelector(".explorer-facts").open = false; // for readers without scripts it stays
  }
}
