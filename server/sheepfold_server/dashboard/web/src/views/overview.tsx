/** How the job goes: progress, what is waited for, alerts, and the curves that matter. */

import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { isActive } from "../alerts";
import { type Forecast, type JobSummary, jobUrl, read, type Stall, type Step, type Throughput } from "../api";
import { Chart } from "../charts/chart";
import { useSeries } from "../charts/data";
import { ago, bytes, count, duration, number, percent, utc } from "../format";
import { alerts, events, kept, newestStep, status } from "../live";
import { go, isDark, job, now } from "../state";

export const COLOURS = {
  light: ["#1f6f5c", "#b3541e", "#3b5ba5", "#8a5a9e", "#8d6e00"],
  dark: ["#5cc4a6", "#f0a35e", "#8fb0ff", "#d0a2e6", "#e0c34f"],
};

export function colour(index: number): string {
  const all = isDark.value ? COLOURS.dark : COLOURS.light;
  return all[index % all.length] ?? "#888888";
}

const NAMES = ["loss", "samples_per_second", "wait_seconds", "prepare_seconds", "commit_seconds", "update_seconds", "samples", "noise_scale", "gradient_norm", "learning_rate", "staleness_steps"];
const READ_EVERY_MS = 2000;
/** Without progress, from which on it is worth a word. */
const STILL_SECONDS = 10;

function useOften<T>(route: string): T | null {
  const found = useMemo(() => signal<T | null>(null), []);
  const name = status.value?.job ?? "";
  useEffect(() => {
    let isCurrent = true;
    found.value = null;
    const load = (): void => {
      if (name) void read<T>(jobUrl(name, route)).then((told) => { if (isCurrent) found.value = told; }, () => undefined);
    };
    load();
    const timer = setInterval(load, READ_EVERY_MS);
    return () => { isCurrent = false; clearInterval(timer); };
  }, [name, route]);
  return found.value;
}

export function Overview() {
  const metrics = (newestStep.value?.metrics ?? []).map((metric) => `metric:${metric.name}`);
  const loaded = useSeries([...NAMES, ...metrics]);
  const isBehind = loaded.series.value?.series["staleness_steps"]?.max.some((value) => (value ?? 0) > 0) ?? false;
  return (
    <>
      <Facts />
      <Alerts />
      <Chart title="Loss" unit="mean by weight" loaded={loaded} lines={[{ name: "loss", label: "loss", colour: colour(0) }]} />
      <Chart title="Throughput" unit="samples per second" loaded={loaded} lines={[{ name: "samples_per_second", label: "samples/s", colour: colour(2) }]} />
      <Chart title="Time of a step" unit="seconds" loaded={loaded} stacked lines={[
        { name: "wait_seconds", label: "wait for slots", colour: colour(1) },
        { name: "prepare_seconds", label: "prepare", colour: colour(3) },
        { name: "commit_seconds", label: "commit", colour: colour(4) },
        { name: "update_seconds", label: "apply and encode", colour: colour(0) },
      ]} />
      <Chart title="Batch and noise scale" unit="samples" loaded={loaded} lines={[
        { name: "samples", label: "global batch", colour: colour(2) },
        { name: "noise_scale", label: "noise scale", colour: colour(1) },
      ]} />
      <Chart title="Gradient norm" unit="before clipping" loaded={loaded} lines={[{ name: "gradient_norm", label: "‖g‖", colour: colour(3) }]} />
      <Chart title="Learning rate" unit="" loaded={loaded} smooths={false} lines={[{ name: "learning_rate", label: "rate", colour: colour(4) }]} />
      {isBehind && <Chart title="Staleness" unit="steps behind, of the oldest contribution" loaded={loaded} smooths={false} lines={[{ name: "staleness_steps", label: "steps", colour: colour(1) }]} />}
      {metrics.map((name, i) => (
        <Chart key={name} title={name.replace("metric:", "")} unit="logged by scripts" loaded={loaded} lines={[{ name, label: name.replace("metric:", ""), colour: colour(i) }]} />
      ))}
      <EndedAlerts />
      <Events />
    </>
  );
}

function Facts() {
  const found = status.value;
  const rates = useOften<Throughput>("/throughput");
  const forecast = useOften<Forecast>("/forecast");
  const stall = useOften<Stall>("/stall");
  const newest = newestStep.value;
  if (kept.value) return <KeptFacts found={kept.value} newest={newest} />;
  if (!found) return <section class="card wide"><p class="empty">reading …</p></section>;
  const done = found.stop_steps > 0 ? Math.max(0, found.version) / found.stop_steps : 0;
  const eta = forecast?.eta_seconds;
  const isAtRest = found.state === "ended" || found.state === "paused";
  const facts: [string, string, string?][] = [
    ["version", `${count(Math.max(0, found.version))} of ${count(found.stop_steps)}`],
    ["left", eta === null || eta === undefined ? "–" : eta === 0 ? "0 s" : duration(eta), eta ? `about ${utc(now.value + eta)}` : ""],
    ["steps/s", rates ? number(rates.steps_per_second) : "–"],
    ["samples/s", rates ? number(rates.samples_per_second) : "–"],
    ["gradients in", rates ? `${bytes(rates.bytes_in_per_second)}/s` : "–"],
    ["weights out", rates ? `${bytes(rates.bytes_out_per_second)}/s` : "–"],
    ["loss", number(newest?.loss)],
    ["goodput", percent(forecast?.goodput), "share of decided leases that count"],
  ];
  return (
    <section class="card wide" aria-label="Progress">
      <progress max={1} value={done} aria-label="steps done" />
      <dl class="facts">{facts.map(([name, value, more]) => <div key={name} title={more ?? ""}><dt>{name}</dt><dd data-fact={name}>{value}</dd></div>)}</dl>
      <p class="waiting"><span class="quiet">{isAtRest ? found.state : "waiting for"}</span> <strong>{isAtRest ? found.why || found.state : found.waiting_for}</strong>
        {!isAtRest && stall !== null && stall.since_seconds >= STILL_SECONDS && <span class="bad">, no progress for {duration(stall.since_seconds)}</span>}</p>
      <p class="quiet">
        slots: {count(found.counts.leased)} leased = {count(found.counts.committed)} committed + {count(found.counts.skipped)} skipped
        + {count(found.counts.dropped)} dropped + {count(found.counts.outstanding)} outstanding; {count(found.counts.leased_again)} leased again
        {found.steps_skipped > 0 && <b class="bad">; {count(found.steps_skipped)} steps skipped</b>}
      </p>
    </section>
  );
}

function KeptFacts({ found, newest }: { found: JobSummary; newest: Step | null }) {
  const facts: [string, string][] = [
    ["version", count(Math.max(0, found.version))],
    ["loss", number(newest?.loss)],
    ["kept until", found.kept_until_seconds === null ? "–" : utc(found.kept_until_seconds)],
  ];
  return (
    <section class="card wide" aria-label="Progress">
      <dl class="facts">{facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd data-fact={name}>{value}</dd></div>)}</dl>
    </section>
  );
}

function Alerts() {
  const active = alerts.value.filter(isActive);
  if (!active.length) return null;
  return (
    <section class="card wide alerts" role="alert" aria-label="Alerts">
      {active.map((alert) => (
        <p key={alert.name + alert.subject} class={alert.severity}>
          <b>{alert.name}</b> {alert.subject !== job.value && <>{alert.subject}: </>}{alert.text} <span class="quiet">since step {count(alert.since_step)}, {ago(alert.since_seconds, now.value)}. {alert.remedy}</span>
        </p>
      ))}
    </section>
  );
}

function EndedAlerts() {
  const ended = alerts.value.filter((alert) => !isActive(alert));
  if (!ended.length) return null;
  return (
    <section class="card wide" aria-label="Ended alerts"><h2>Ended alerts <span class="quiet">the newest {ended.length}</span></h2>
      <div class="scroll short"><table>
        <thead><tr><th class="n">since step</th><th>ended</th><th class="n">lasted</th><th>what</th></tr></thead>
        <tbody>{ended.map((alert) => (
          <tr key={alert.name + alert.subject + alert.since_seconds} title={alert.remedy}>
            <td class="n"><button type="button" class="link" onClick={() => go("step", { step: alert.since_step })}>{count(alert.since_step)}</button></td>
            <td title={utc(alert.ended_seconds ?? 0)}>{ago(alert.ended_seconds ?? 0, now.value)}</td><td class="n">{duration((alert.ended_seconds ?? 0) - alert.since_seconds)}</td>
            <td class="wraps"><b>{alert.name}</b> {alert.subject !== job.value && <>{alert.subject}: </>}{alert.text}</td>
          </tr>
        ))}</tbody>
      </table></div>
    </section>
  );
}

function Events() {
  const newest = [...events.value].reverse().slice(0, 60);
  return (
    <section class="card wide" aria-label="Events">
      <header><h2>Events</h2><div class="tools"><a href={job.value ? jobUrl(job.value, "/events.csv", { limit: 2000 }) : ""} download={`${job.value}-events.csv`}>CSV</a></div></header>
      {newest.length === 0 ? <p class="empty">Nothing yet: workers that come and go, changes, skipped steps and restarts are listed here.</p> : (
        <div class="scroll short"><table>
          <thead><tr><th class="n">step</th><th>when</th><th>what</th><th /></tr></thead>
          <tbody>{newest.map((event) => (
            <tr key={event.id}>
              <td class="n"><button type="button" class="link" onClick={() => go("step", { step: event.step })}>{count(event.step)}</button></td>
              <td title={utc(event.seconds)}>{ago(event.seconds, now.value)}</td><td class={`kind ${event.kind}`}>{event.kind}</td>
              <td class="wraps">{event.text}{event.author && <span class="quiet"> by {event.author}</span>}</td>
            </tr>
          ))}</tbody>
        </table></div>
      )}
    </section>
  );
}
