"use strict";
// Reads the API once a second and changes only what differs, so that nothing flickers and selections survive.

const REFRESH_MS = 1000, FETCH_MS = 5000, STEPS_SHOWN = 2000, POINTS = 300;
const SVG = "http://www.w3.org/2000/svg";
const element = (id) => document.getElementById(id);
const state = { job: decodeURIComponent(location.hash.slice(1)), steps: [], lineage: "" };

const whole = (x) => Math.round(x).toLocaleString("en");
const short = (x) => (x === null || x === undefined ? "–" : x === 0 ? "0" : Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5 ? x.toExponential(2) : x.toPrecision(4));
const ago = (s) => (s < 60 ? s.toFixed(1) + " s" : s < 3600 ? Math.floor(s / 60) + " min" : Math.floor(s / 3600) + " h") + " ago";
function bytes(x) {
  const units = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"];
  let unit = 0;
  while (x >= 1000 && unit < units.length - 1) { x /= 1000; unit++; }
  return `${x.toPrecision(3)} ${units[unit]}`;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

async function get(path) {
  const response = await fetch("/api/v1" + path, { signal: AbortSignal.timeout(FETCH_MS) });
  if (!response.ok) throw new Error((await response.json()).detail);
  return response.json();
}

// Rows are kept and reused; `fill` writes a row's cells.
function setRows(body, items, make, fill) {
  while (body.rows.length > items.length) body.deleteRow(-1);
  items.forEach((item, i) => fill(body.rows[i] || make(body.insertRow()), item));
}

function cells(classes) {
  return (row) => {
    for (const name of classes) row.insertCell().className = name;
    return row;
  };
}

function write(row, ...texts) {
  texts.forEach((text, i) => { if (text !== undefined) setText(row.cells[i], text); });
}

function showJobs(jobs) {
  const names = jobs.map((job) => job.job);
  if (!names.includes(state.job)) state.job = names.find((_, i) => jobs[i].state === "running") || names[0] || "";
  const list = element("job");
  if ([...list.options].map((o) => o.value).join() !== names.join()) list.replaceChildren(...names.map((name) => new Option(name, name)));
  if (list.value !== state.job) list.value = state.job;
  element("empty").hidden = names.length > 0;
  element("main").hidden = names.length === 0;
}

function showJob(job, rates) {
  const badge = element("state");
  setText(badge, job.state);
  badge.className = "badge " + job.state;
  document.title = `${job.job} ${Math.max(0, job.version)}/${job.stop_steps} – sheepfold`;
  element("progress").value = Math.max(0, job.version) / Math.max(1, job.stop_steps);
  setText(element("version"), `${whole(job.version)} of ${whole(job.stop_steps)}`);
  setText(element("steps-rate"), rates.steps_per_second.toFixed(2));
  setText(element("samples-rate"), whole(rates.samples_per_second));
  setText(element("in-rate"), bytes(rates.bytes_in_per_second));
  setText(element("out-rate"), bytes(rates.bytes_out_per_second));
  setText(element("slots"), job.open_step < 0 ? "none open" : `${job.slots_admitted} of ${job.slots_total}`);
  const over = job.state === "ended" || job.state === "paused";
  setText(element("waiting-label"), over ? job.state : "waiting for");
  setText(element("waiting"), over ? job.why || job.state : job.waiting_for);
  const c = job.counts;
  setText(element("counts"),
    `${whole(c.leased)} slots leased = ${whole(c.committed)} committed + ${whole(c.skipped)} skipped + ${whole(c.dropped)} dropped + ` +
    `${whole(c.outstanding)} outstanding; ${whole(c.leased_again)} leased again; ${whole(job.samples_committed)} samples committed`);
}

function showSteps(job, fresh) {
  if (state.lineage !== job.lineage) { state.steps = []; state.lineage = job.lineage; }
  state.steps = state.steps.concat(fresh).slice(-STEPS_SHOWN);
  const newest = state.steps.at(-1);
  setText(element("learning-rate"), short(newest?.learning_rate));
  setText(element("gradient-norm"), short(newest?.gradient_norm));
  const points = state.steps.filter((s) => s.loss !== null);
  setText(element("loss"), points.length ? short(points.at(-1).loss) : "");
  if (points.length < 2) { setAttribute(element("spark-line"), "d", ""); setText(element("spark-range"), ""); return; }
  const every = Math.ceil(points.length / POINTS);
  const shown = points.filter((_, i) => i % every === 0 || i === points.length - 1);
  const losses = shown.map((s) => s.loss), low = Math.min(...losses), high = Math.max(...losses);
  const first = shown[0].step, last = shown.at(-1).step;
  const x = (s) => (600 * (s.step - first)) / Math.max(1, last - first);
  const y = (s) => 115 - (110 * (s.loss - low)) / (high - low || 1);
  setAttribute(element("spark-line"), "d", "M" + shown.map((s) => `${x(s).toFixed(1)} ${y(s).toFixed(1)}`).join("L"));
  setText(element("spark-range"), `steps ${whole(first)} to ${whole(last)}, loss ${short(low)} to ${short(high)}`);
}

function ratioBar(cell) {
  const svg = document.createElementNS(SVG, "svg");
  setAttribute(svg, "viewBox", "0 0 100 16");
  setAttribute(svg, "preserveAspectRatio", "none");
  setAttribute(svg, "aria-hidden", "true");
  for (const [tag, name] of [["rect", "band"], ["line", "one"], ["rect", "mark"]]) {
    const part = document.createElementNS(SVG, tag);
    setAttribute(part, "class", name);
    svg.append(part);
  }
  cell.append(svg);
}

function showSlices(slices) {
  const values = slices.flatMap((s) => [s.trust_ratio_min, s.trust_ratio_max, 1]).filter((v) => v > 0);
  const low = Math.log(Math.min(...values)), span = Math.log(Math.max(...values)) - low || 1;
  const x = (v) => (v > 0 ? 2 + (96 * (Math.log(v) - low)) / span : 0);
  const make = (row) => { cells(["", "n", "", "n", "n", "n", "n", "n"])(row); ratioBar(row.cells[2]); return row; };
  setRows(element("slices"), slices, make, (row, s) => {
    write(row, s.name, short(s.trust_ratio) + (s.clamp ? ` (at its ${s.clamp} bound)` : ""), undefined, ...[s.trust_ratio_min, s.trust_ratio_max, s.w_norm, s.u_norm, s.g_norm].map(short));
    const [band, one, mark] = row.cells[2].firstChild.children;
    const box = (node, at, width, top, height) => Object.entries({ x: at, width, y: top, height }).forEach(([k, v]) => setAttribute(node, k, v));
    box(band, x(s.trust_ratio_min), Math.max(1, x(s.trust_ratio_max) - x(s.trust_ratio_min)), 4, 8);
    box(mark, x(s.trust_ratio) - 0.6, 1.2, 1, 14);
    Object.entries({ x1: x(1), x2: x(1), y1: 0, y2: 16 }).forEach(([k, v]) => setAttribute(one, k, v));
  });
}

function showParts(workers, shards) {
  setRows(element("workers"), workers, cells(["", "", "n", "n", "n", "n"]), (row, w) => {
    write(row, w.worker, `${w.host}:${w.pid}`, whole(w.slots_committed), whole(w.samples_committed), String(w.holding), ago(w.seconds_since_seen));
    row.cells[5].className = w.seconds_since_seen > 5 ? "n bad" : "n";
  });
  setRows(element("shards"), shards, cells(["", "", "", "n", "n"]), (row, s) => {
    write(row, String(s.shard), s.address || "–", s.is_connected ? "up" : "down", whole(s.version), whole(s.parameters));
    row.cells[2].className = s.is_connected ? "" : "bad";
  });
}

function showTrouble(text) {
  element("trouble").hidden = !text;
  setText(element("trouble"), text);
}

async function refresh() {
  showJobs(await get("/jobs"));
  const ready = await fetch("/readyz", { signal: AbortSignal.timeout(FETCH_MS) });
  showTrouble(ready.ok ? "" : (await ready.json()).status);
  if (!state.job) return;
  const path = `/jobs/${encodeURIComponent(state.job)}`, asked = state.job;
  const from = state.steps.length ? `?from=${state.steps.at(-1).step + 1}&limit=2000` : "?limit=2000";
  const parts = ["", "/throughput", "/steps" + from, "/slices", "/workers", "/shards"];
  const [job, rates, steps, slices, workers, shards] = await Promise.all(parts.map((part) => get(path + part)));
  if (asked !== state.job) return; // another job was chosen meanwhile
  showJob(job, rates);
  showSteps(job, steps);
  showSlices(slices);
  showParts(workers, shards);
}

async function run() {
  try {
    await refresh();
  } catch (error) {
    showTrouble(error instanceof TypeError ? "The dashboard does not answer; trying again." : error.message);
  }
  setTimeout(run, REFRESH_MS);
}

element("job").addEventListener("change", (event) => {
  state.job = event.target.value;
  state.steps = [];
  location.hash = encodeURIComponent(state.job);
});
run();
