/** What the job is: plan drawn ahead, model and where it lies, configuration, changes, histories. */

import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { jobUrl, type Lineage, type Model, read, type Schedule, type Series } from "../api";
import { Chart } from "../charts/chart";
import type { Loaded } from "../charts/data";
import { bytes, count } from "../format";
import { kept, status } from "../live";
import { change, job, view } from "../state";
import { OnlyLive } from "./fleet";
import { colour } from "./overview";

const TENSORS = 2_000;

/** A route of the job, read when the job or its changes do; with `isLive` only while the coordinator has the job. */
function useRead<T>(route: string, isLive = false): { found: T | null; why: string } {
  const found = useMemo(() => signal<T | null>(null), []);
  const why = useMemo(() => signal(""), []);
  const name = isLive ? status.value?.job : job.value;
  const changes = status.value?.changes.length ?? 0;
  const isInitial = (status.value?.version ?? -1) < 0; // a worker may bring the model later than the job is looked at
  useEffect(() => {
    if (!name) return;
    let isCurrent = true;
    read<T>(jobUrl(name, route)).then(
      (told) => { if (isCurrent) { found.value = told; why.value = ""; } },
      (error: Error) => { if (isCurrent) why.value = error.message; },
    );
    return () => { isCurrent = false; };
  }, [name, changes, isInitial, route]);
  return { found: found.value, why: why.value };
}

export function JobView() {
  const schedule = useRead<Schedule>("/schedule?points=400", true);
  const config = useRead<unknown>("/config", true);
  const model = useRead<Model>(`/model?limit=${TENSORS}`, true);
  const lineages = useRead<{ lineages: Lineage[] }>("/lineages");
  const loaded: Loaded = {
    series: { value: asSeries(schedule.found) } as Loaded["series"], why: { value: schedule.why } as Loaded["why"], route: "/schedule", query: { points: 400 },
  };
  return (
    <>
      {kept.value ? <section class="card wide" aria-label="Plan"><h2>Plan, changes, model and configuration</h2><OnlyLive /></section> : <Plan loaded={loaded} />}
      <section class="card" aria-label="Histories"><h2>Histories <span class="quiet">a rollback begins a new one</span></h2>
        <div class="scroll"><table><thead><tr><th>lineage</th><th class="n">first step</th><th class="n">last step</th><th /></tr></thead>
          <tbody>{(lineages.found?.lineages ?? []).map((each) => (
            <tr key={each.lineage} class={each.is_current ? "" : "discarded"}>
              <td><code>{each.lineage.slice(0, 12)}</code> {each.is_current ? "present" : "discarded"}</td><td class="n">{count(each.first_step)}</td><td class="n">{each.last_step < 0 ? "–" : count(each.last_step)}</td>
              <td><button type="button" aria-pressed={(view.value.lineage || "") === (each.is_current ? "" : each.lineage)} onClick={() => change({ lineage: each.is_current ? "" : each.lineage, range: null })}>show</button></td>
            </tr>
          ))}</tbody></table></div>
      </section>
      {!kept.value && <section class="card" aria-label="Configuration"><h2>Configuration <span class="quiet">as in force, every value</span></h2>
        {config.found ? <pre class="scroll tall">{JSON.stringify(config.found, null, 2)}</pre> : <p class="empty">{config.why || "reading …"}</p>}
      </section>}
      {!kept.value && <ModelCard found={model.found} why={model.why} />}
    </>
  );
}

function ModelCard({ found, why }: { found: Model | null; why: string }) {
  const most = Math.max(1, ...(found?.shards ?? []).map((each) => each.bytes));
  return (
    <section class="card wide" aria-label="Model">
      <header>
        <h2>Model <span class="quiet">{found?.digest ? `${count(found.parameters)} parameters, ${count(found.tensors_total)} tensors, manifest ${found.digest.slice(0, 12)}` : ""}</span></h2>
        <div class="tools"><a href={job.value ? jobUrl(job.value, "/model") : ""}>JSON</a></div>
      </header>
      {!found?.digest ? <p class="empty">{why || "No worker has brought a model yet."}</p> : (
        <>
          <div class="scroll"><table><thead><tr><th class="n">shard</th><th class="bar">weights and statistics, by bytes</th><th class="n">bytes</th><th class="n">elements</th></tr></thead>
            <tbody>{found.shards.map((each) => (
              <tr key={each.shard}><td class="n">{each.shard}</td><td class="bar"><meter max={most} value={each.bytes} aria-label={`bytes of shard ${each.shard}`} /></td>
                <td class="n">{bytes(each.bytes)}</td><td class="n">{count(each.elements)}</td></tr>
            ))}</tbody></table></div>
          <div class="scroll tall"><table><thead><tr><th>tensor</th><th>kind</th><th>shape</th><th>dtype</th><th class="n">slices</th><th class="n">bytes</th><th>on shards</th></tr></thead>
            <tbody>{found.tensors.map((each) => (
              <tr key={each.name}><td>{each.name}</td><td>{each.kind}</td><td>{each.shape.join(" × ") || "scalar"}</td><td>{each.dtype}</td>
                <td class="n">{each.slices || ""}</td><td class="n">{bytes(each.shards.reduce((sum, part) => sum + part.bytes, 0))}</td>
                <td>{each.shards.length === 1 ? each.shards[0]?.shard : each.shards.map((part) => `${part.shard}: ${bytes(part.bytes)}`).join(", ")}</td></tr>
            ))}</tbody></table></div>
          {found.tensors.length < found.tensors_total && <p class="quiet">The first {count(found.tensors.length)} of {count(found.tensors_total)} tensors; the API tells of all.</p>}
        </>
      )}
    </section>
  );
}

function Plan({ loaded }: { loaded: Loaded }) {
  const found = status.value;
  return (
    <>
      <Chart title="Learning rate as planned" unit="to the last step" loaded={loaded} smooths={false} isPlan lines={[{ name: "learning_rate", label: "rate", colour: colour(4) }]} />
      <Chart title="Batch as planned" unit="samples" loaded={loaded} smooths={false} isPlan lines={[{ name: "batch", label: "global batch", colour: colour(2) }]} />
      <Chart title="Slots as planned" unit="K, each one push of a worker" loaded={loaded} smooths={false} isPlan lines={[{ name: "slots", label: "slots", colour: colour(1) }]} />
      <Chart title="Samples of a slot as planned" unit="" loaded={loaded} smooths={false} isPlan lines={[{ name: "slot_samples", label: "samples", colour: colour(3) }]} />
      <section class="card wide" aria-label="Changes"><h2>Changes</h2>
        {!found?.changes.length ? <p class="empty">Nothing was changed since the job was created. <code>sheepfold job set KEY=VALUE {job.value} --at-step N</code></p> : (
          <div class="scroll"><table><thead><tr><th class="n">from step</th><th>by</th><th>what</th></tr></thead>
            <tbody>{[...found.changes].reverse().map((each, i) => <tr key={i}><td class="n">{count(each.from_step)}</td><td>{each.author}</td><td class="wraps">{each.text}</td></tr>)}</tbody></table></div>
        )}
      </section>
    </>
  );
}

function asSeries(found: Schedule | null): Series | null {
  if (!found) return null;
  const band = (values: number[]) => ({ min: values, mean: values, max: values });
  const batch = found.slots.map((slots, i) => slots * (found.slot_samples[i] ?? 0));
  return {
    job: "", lineage: "", steps_per_point: 1, step: found.step, seconds: [], samples: [], available: [],
    series: { learning_rate: band(found.learning_rate), slots: band(found.slots), slot_samples: band(found.slot_samples), batch: band(batch) },
  };
}
