/** The frame: which job, which view, how it is drawn; and the list of keys. */

import type { Axis } from "./permalink";
import { isKept } from "./api";
import { sentence } from "./format";
import { VIEWS } from "./permalink";
import { KEYS } from "./keyboard";
import { isMissing, jobs, kept, status, trouble } from "./live";
import { change, go, isDark, isHelpShown, job, view } from "./state";
import { Shards, Workers } from "./views/fleet";
import { JobView } from "./views/job";
import { Layers } from "./views/layers";
import { Overview } from "./views/overview";
import { StepView } from "./views/step";

const SHOWN = { overview: Overview, layers: Layers, step: StepView, workers: Workers, shards: Shards, job: JobView };

export function App() {
  const { view: name, lineage } = view.value;
  const Shown = SHOWN[name];
  return (
    <>
      <header class="top">
        <h1>sheepfold</h1>
        <label>job <select value={job.value} onChange={(event) => look(event.currentTarget.value)}>
          {!jobs.value.some((each) => each.job === job.value) && <option value={job.value}>{job.value || "none yet"}</option>}
          {jobs.value.map((each) => <option key={each.job} value={each.job}>{isKept(each) && each.job !== job.value ? `${each.job} (${each.state})` : each.job}</option>)}
        </select></label>
        {status.value && <span class={`badge ${status.value.state}`} role="status">{status.value.state}</span>}
        {kept.value && <span class="badge kept" role="status">{kept.value.state}</span>}
        <nav aria-label="views">{VIEWS.map((each) => (
          <button key={each} type="button" aria-current={each === name ? "page" : undefined} onClick={() => go(each)}>{each}</button>
        ))}</nav>
        <span class="links"><button type="button" class="link" onClick={() => { isHelpShown.value = true; }} aria-label="keys">?</button> <a href="/docs">API</a>
          {"login" in document.body.dataset && <form class="logout" method="post" action="/logout"><button class="link">log out</button></form>}</span>
      </header>
      <Controls />
      {trouble.value && <p class="trouble" role="alert">{trouble.value}</p>}
      {kept.value && <p class="trouble" role="status">{sentence(kept.value.why)}</p>}
      {lineage && <p class="trouble">These charts show the discarded history {lineage.slice(0, 12)}. <button type="button" onClick={() => change({ lineage: "" })}>show the present one</button></p>}
      {isMissing.value ? <Missing /> : job.value ? <main class={lineage ? "discarded" : ""}><Shown key={job.value + name} /></main>
        : <p class="empty">No jobs yet. Create one: <code>sheepfold job example &gt; job.toml; sheepfold job create -f job.toml</code></p>}
      {isHelpShown.value && <Help />}
    </>
  );
}

function look(name: string): void {
  change({ job: name, range: null, slice: "", step: null, lineage: "" });
}

function Missing() {
  return (
    <main><section class="card wide" role="status">
      <p>No job named <strong>{job.value}</strong> here. It is shown as soon as there is one.</p>
      {jobs.value.length > 0 && <p>There {jobs.value.length === 1 ? "is" : "are"}: {jobs.value.map((each) => <button key={each.job} type="button" onClick={() => look(each.job)}>{each.job}</button>)}</p>}
    </section></main>
  );
}

function Controls() {
  const { range, follow, smooth, log, axis, view: name } = view.value;
  if (isMissing.value) return null;
  if (name !== "overview" && name !== "layers") return null;
  return (
    <div class="controls">
      <label>x <select value={axis} onChange={(event) => change({ axis: event.currentTarget.value as Axis })}>
        <option value="step">step</option><option value="time">time</option><option value="samples">samples</option>
      </select></label>
      <label>smooth <input type="range" min={0} max={0.99} step={0.01} value={smooth} onInput={(event) => change({ smooth: Number(event.currentTarget.value) })} /> <output>{smooth.toFixed(2)}</output></label>
      <button type="button" aria-pressed={log} onClick={() => change({ log: !log })}>log</button>
      <button type="button" aria-pressed={follow} onClick={() => change({ follow: !follow })}>follow</button>
      <button type="button" disabled={!range} onClick={() => change({ range: null })}>{range ? `steps ${range[0].toLocaleString("en-US")} – ${range[1].toLocaleString("en-US")}: show all` : "all steps"}</button>
      <button type="button" onClick={() => change({ theme: isDark.value ? "light" : "dark" })}>{isDark.value ? "light" : "dark"}</button>
    </div>
  );
}

function Help() {
  return (
    <div class="veil" onClick={() => { isHelpShown.value = false; }}>
      <section class="card help" role="dialog" aria-label="Keys">
        <h2>Keys</h2>
        <dl>{KEYS.map(([key, what]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>)}</dl>
        <p class="quiet">Drag over a chart to zoom, double-click to see all. The address holds the whole view: copy it to show it to somebody.</p>
      </section>
    </div>
  );
}
