// The statistics of cliplib.laws that the explorers need, for a page without Python.
// tests/test_explorer.py holds every function here to the same numbers as Python's.
// A row is a run: {C: compute, E: error, ...}; a law is E = beta C^alpha.

const FEWEST_RUNS = 5; // to resample, as in cliplib.laws.resample
const MOST_FAILED = 0.1; // of the draws, as in cliplib.laws.uncertainty

/** Rows by compute, ties by error: the order that `frontier` expects. */
function byCompute(rows) {
  return [...rows].sort((a, b) => a.C - b.C || a.E - b.E);
}

/** The points of a frontier: {C, E, row}. Rows sorted by `byCompute`, repeats allowed. */
function frontier(rows, how, nbins = 5, margin = 0.1) {
  const own = (row) => ({ C: row.C, E: row.E, row });
  if (how === "all") return rows.map(own);
  if (how === "pareto") return pareto(rows).map(own);
  if (how === "hull") return hull(pareto(rows)).map(own);
  const edges = binEdges(rows, nbins, margin);
  const best = new Array(nbins);
  for (const row of rows) {
    const bin = binOf(Math.log10(row.C), edges);
    if (!best[bin] || row.E < best[bin].E) best[bin] = row; // of equals the cheapest
  }
  const points = [];
  best.forEach((row, k) => {
    if (!row) return;
    const centre = 10 ** ((edges[k] + edges[k + 1]) / 2);
    points.push({ C: how === "bins" ? centre : row.C, E: row.E, row });
  });
  return points;
}

/** Edges, in log10 C, of equal bins over [min, max + margin]. */
function binEdges(rows, nbins = 5, margin = 0.1) {
  const low = Math.log10(rows[0].C);
  const high = Math.log10(rows[rows.length - 1].C) + margin;
  const step = (high - low) / nbins;
  const edges = Array.from({ length: nbins }, (_, k) => low + k * step);
  return [...edges, high];
}

/** An edge belongs to the bin above it, the last edge to the last bin. */
function binOf(x, edges) {
  let bin = 0;
  while (bin < edges.length - 2 && x >= edges[bin + 1]) bin++;
  return bin;
}

/** Rows that no row with at most their compute equals or beats. */
function pareto(rows) {
  let best = Infinity;
  return rows.filter((row) => row.E < best && ((best = row.E), true));
}

/** The lower convex hull, in log-log, of a Pareto set. */
function hull(rows) {
  const kept = [];
  for (const row of rows) {
    while (kept.length > 1 && !below(kept[kept.length - 2], kept[kept.length - 1], row)) kept.pop();
    kept.push(row);
  }
  return kept;
}

/** Whether b lies strictly below the line from a to c, in log-log. */
function below(a, b, c) {
  const [ax, bx, cx] = [a, b, c].map((row) => Math.log(row.C));
  const [ay, by, cy] = [a, b, c].map((row) => Math.log(row.E));
  return (bx - ax) * (cy - ay) > (by - ay) * (cx - ax);
}

/** Least squares of ln E on ln C; null for fewer than three points or one compute. */
function fitPower(points) {
  const n = points.length;
  const x = points.map((p) => Math.log(p.C));
  const y = points.map((p) => Math.log(p.E));
  if (n < 3 || x.every((value) => value === x[0])) return null;
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / n;
  const [xMean, yMean] = [mean(x), mean(y)];
  let [Sxx, Sxy] = [0, 0];
  for (let i = 0; i < n; i++) {
    Sxx += (x[i] - xMean) ** 2;
    Sxy += (x[i] - xMean) * (y[i] - yMean);
  }
  const alpha = Sxy / Sxx;
  const lnBeta = yMean - alpha * xMean;
  const residuals = x.map((value, i) => y[i] - lnBeta - alpha * value);
  const sd = Math.sqrt(residuals.reduce((sum, r) => sum + r * r, 0) / (n - 2));
  return { alpha, lnBeta, beta: Math.exp(lnBeta), n, xMean, Sxx, residuals, sd };
}

/** The law's error at compute C. */
function predict(law, C) {
  return Math.exp(law.lnBeta + law.alpha * Math.log(C));
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32, Tommy Ettinger). */
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * Draw as many runs as there are, with replacement, put them through frontier and fit; n times.
 * Rows sorted. Gives {alphas, lnBetas, failed}, or {refused: why} as cliplib.laws.bootstrap does.
 */
function bootstrap(rows, how, nbins, n, seed) {
  const size = rows.length;
  if (size < FEWEST_RUNS) return { refused: `fewer than ${FEWEST_RUNS} runs` };
  const next = random(seed);
  const [alphas, lnBetas] = [[], []];
  for (let draw = 0; draw < n; draw++) {
    const counts = new Uint16Array(size);
    for (let i = 0; i < size; i++) counts[Math.floor(next() * size)]++;
    const sample = rows.flatMap((row, i) => Array(counts[i]).fill(row)); // stays sorted
    const law = fitPower(frontier(sample, how, nbins));
    if (!law) continue;
    alphas.push(law.alpha);
    lnBetas.push(law.lnBeta);
  }
  const failed = n - alphas.length;
  if (failed > MOST_FAILED * n) {
    return { refused: `${failed} of ${n} resamples leave fewer than three points` };
  }
  return { alphas: Float64Array.from(alphas), lnBetas: Float64Array.from(lnBetas), failed };
}

/** Quantiles of an array of floats by linear interpolation, as numpy does. */
function quantiles(values, shares) {
  const sorted = Float64Array.from(values).sort();
  return shares.map((share) => {
    const place = share * (sorted.length - 1);
    const k = Math.min(Math.floor(place), sorted.length - 2);
    return sorted[k] + (place - k) * (sorted[k + 1] - sorted[k]);
  });
}

const TAILS = [0.025, 0.975];

/** 95% percentile intervals of alpha and beta. */
function intervals(draws) {
  return {
    alpha: quantiles(draws.alphas, TAILS),
    beta: quantiles(draws.lnBetas, TAILS).map(Math.exp),
  };
}

/** 95% interval of the error at C; kind "mean": of the line, "new": of a new run about it. */
function predictInterval(law, draws, C, kind) {
  const x = Math.log(C);
  const centres = draws.alphas.map((alpha, i) => draws.lnBetas[i] + alpha * x);
  if (kind === "mean") return quantiles(centres, TAILS).map(Math.exp);
  const enlarge = Math.sqrt(law.n / (law.n - 2));
  const joined = new Float64Array(centres.length * law.n);
  law.residuals.forEach((r, k) => {
    for (let i = 0; i < centres.length; i++) {
      joined[k * centres.length + i] = centres[i] + r * enlarge;
    }
  });
  return quantiles(joined, TAILS).map(Math.exp);
}

/** 95% intervals of alpha and beta by Student's t; t: its 97.5% quantile for n - 2. */
function tIntervals(law, t) {
  const half = (t * law.sd) / Math.sqrt(law.Sxx);
  const factor = Math.exp(t * law.sd * Math.sqrt(1 / law.n + law.xMean ** 2 / law.Sxx));
  return {
    alpha: [law.alpha - half, law.alpha + half],
    beta: [law.beta / factor, law.beta * factor],
  };
}

/** As `predictInterval`, by Student's t. */
function tPredictInterval(law, t, C, kind) {
  const away = (Math.log(C) - law.xMean) ** 2 / law.Sxx;
  const half = t * law.sd * Math.sqrt((kind === "new" ? 1 : 0) + 1 / law.n + away);
  return [-half, half].map((shift) => predict(law, C) * Math.exp(shift));
}

/** Places of a curve (fractions) that lie more than `points` points below the place before. */
function spikes(values, points) {
  const places = [];
  for (let i = 1; i < values.length; i++) {
    if (values[i - 1] - values[i] > points / 100) places.push(i);
  }
  return places;
}

// For Node (the tests); in a page the functions are simply in scope.
if (typeof module !== "undefined") {
  module.exports = {
    byCompute, frontier, binEdges, fitPower, predict, random, bootstrap, quantiles, intervals,
    predictInterval, tIntervals, tPredictInterval, spikes,
  };
}
