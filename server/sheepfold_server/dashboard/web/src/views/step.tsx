/** One step: who computed its slots, and what it did to each slice. */

import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { jobUrl, read, type StepDetail } from "../api";
import { bytes, count, duration, number, utc } from "../format";
import { newestStep } from "../live";
import { change, job, view } from "../state";

export function StepView() {
  const found = useMemo(() => signal<StepDetail | null>(null), []);
  const why = useMemo(() => signal(""), []);
  const newest = newestStep.value?.step ?? null;
  const asked = view.value.step ?? newest;
  const name = job.value;
  useEffect(() => {
    if (asked === null || !name) return;
    let isCurrent = true;
    read<StepDetail>(jobUrl(name, `/steps/${asked}`)).then(
      (told) => { if (isCurrent) { found.value = told; why.value = ""; } },
      (error: Error) => { if (isCurrent) { found.value = null; why.value = error.message; } },
    );
    return () => { isCurrent = false; };
  }, [asked, name]);
  const step = found.value;
  // While the newest is followed, the one that is shown lags a moment behind: its own number stands above it.
  const shown = view.value.step === null && step ? step.step : asked;
  const move = (by: number): void => { if (asked !== null) change({ step: Math.max(0, asked + by) }); };
  return (
    <>
      <section class="card wide" aria-label="Step">
        <header>
          <h2>Step {shown === null ? "–" : count(shown)} <span class="quiet">{view.value.step === null ? "the newest" : ""}</span></h2>
          <div class="tools">
            <button type="button" onClick={() => move(-1)} aria-label="step before">←</button>
            <input type="number" min={0} aria-label="number of the step" value={shown ?? ""} onChange={(event) => change({ step: Number(event.currentTarget.value) })} />
            <button type="button" onClick={() => move(1)} aria-label="step after">→</button>
            <button type="button" aria-pressed={view.value.step === null} onClick={() => change({ step: null })}>newest</button>
          </div>
        </header>
        {!step ? <p class="empty">{why.value || "No step yet."}</p> : <Facts step={step} />}
      </section>
      {step && <Slots step={step} />}
      {step && step.shards.length > 0 && <Shards step={step} />}
      {step && <Slices step={step} />}
    </>
  );
}

function Facts({ step }: { step: StepDetail }) {
  const facts: [string, string][] = [
    ["version", count(step.version)], ["loss", number(step.loss)], ["learning rate", number(step.learning_rate)],
    ["gradient norm", number(step.gradient_norm)], ["clip scale", number(step.clip_scale)], ["samples", count(step.samples)],
    ["wait", duration(step.wait_seconds)], ["prepare", duration(step.prepare_seconds)], ["commit", duration(step.commit_seconds)], ["apply", duration(step.apply_seconds)],
    ["gradients in", bytes(step.bytes_in)], ["weights out", bytes(step.bytes_out)],
    ...(step.loss_scale ? [["loss scale", number(step.loss_scale)] as [string, string]] : []),
    ["published", step.committed_at ? utc(step.committed_at).slice(11) : "–"],
    ...step.metrics.map((metric): [string, string] => [metric.name, number(metric.value)]),
  ];
  return (
    <>
      {step.is_skip && <p class="bad">skipped: {step.skip_reason}</p>}
      <dl class="facts">{facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
    </>
  );
}

function Slots({ step }: { step: StepDetail }) {
  const norms = step.slots.map((slot) => slot.gradient_norm ?? 0);
  const hasNorms = norms.some((value) => value > 0);
  return (
    <section class="card wide" aria-label="Slots"><h2>Slots <span class="quiet">{step.slots.length}</span></h2>
      {step.slots.length === 0 ? <p class="empty">The step was given up before its slots were in.</p> : (
        <div class="scroll tall"><table>
          <thead><tr><th class="n">slot</th><th>worker</th><th>host</th><th class="n">first sample</th><th class="n">samples</th><th class="n">weight</th><th class="n">loss</th>
            {hasNorms && <th class="n">‖g‖</th>}<th class="n" title="of its gradient to the mean; measured every report.cosines_every steps">cosine</th><th class="n">attempts</th><th class="n">version</th></tr></thead>
          <tbody>{step.slots.map((slot) => (
            <tr key={slot.slot}>
              <td class="n">{slot.slot}</td><td>{slot.worker}</td><td>{slot.host ?? ""}</td><td class="n">{slot.sample_start === undefined ? "" : count(slot.sample_start)}</td>
              <td class="n">{count(slot.samples)}</td><td class="n">{number(slot.weight)}</td><td class="n">{number(slot.loss)}</td>
              {hasNorms && <td class="n">{number(slot.gradient_norm)}</td>}<td class="n">{number(slot.cosine)}</td><td class={slot.attempts > 1 ? "n bad" : "n"}>{slot.attempts}</td><td class="n">{count(slot.base_version)}</td>
            </tr>
          ))}</tbody>
        </table></div>
      )}
    </section>
  );
}

function Shards({ step }: { step: StepDetail }) {
  return (
    <section class="card wide" aria-label="Shards of the step"><h2>Shards <span class="quiet">what each spent</span></h2>
      <div class="scroll"><table>
        <thead><tr><th class="n">shard</th><th class="n">fold</th><th class="n">apply and encode</th><th class="n">gradients in</th><th class="n">weights out</th></tr></thead>
        <tbody>{step.shards.map((shard) => (
          <tr key={shard.shard}><td class="n">{shard.shard}</td><td class="n">{duration(shard.fold_seconds)}</td><td class="n">{duration(shard.apply_seconds)}</td>
            <td class="n">{bytes(shard.bytes_in)}</td><td class="n">{bytes(shard.bytes_out)}</td></tr>
        ))}</tbody>
      </table></div>
    </section>
  );
}

function Slices({ step }: { step: StepDetail }) {
  if (!step.slices.length) return null;
  return (
    <section class="card wide" aria-label="Slices of the step"><h2>Slices <span class="quiet">{step.slices.length}</span></h2>
      <div class="scroll tall"><table>
        <thead><tr><th>slice</th><th class="n">ratio</th><th class="n">‖w‖</th><th class="n">‖u‖</th><th class="n">‖g‖</th><th>bound</th></tr></thead>
        <tbody>{step.slices.map((slice) => (
          <tr key={slice.slice}><td>{slice.name}</td><td class="n">{number(slice.trust_ratio)}</td><td class="n">{number(slice.w_norm)}</td>
            <td class="n">{number(slice.u_norm)}</td><td class="n">{number(slice.g_norm)}</td><td class="bad">{slice.clamp}</td></tr>
        ))}</tbody>
      </table></div>
    </section>
  );
}
