/** Who takes part: workers and shards, as they stand now. */

import { bytes, count, duration, percent } from "../format";
import { kept, shards, status, workers } from "../live";

const SILENT_SECONDS = 5;

export function Workers() {
  const rows = workers.value;
  return (
    <section class="card wide" aria-label="Workers"><h2>Workers {!kept.value && <span class="quiet">{rows.length}</span>}</h2>
      {kept.value ? <OnlyLive /> : rows.length === 0 && status.value?.state === "ended" ? <p class="empty">None is attached: the job has ended.</p> : rows.length === 0 ? <p class="empty">None is attached. Start a training script with this server's address in <code>SHEEPFOLD</code>.</p> : (
        <div class="scroll"><table>
          <thead><tr><th>worker</th><th>host</th><th class="n">pid</th><th>device</th><th>zone</th><th class="n">slots</th><th class="n">samples</th><th class="n">samples/s</th>
            <th class="n" title="waiting for data, of the time of its slots">data wait</th><th class="n">up</th><th class="n">down</th><th title="how gradients and weights go">way</th><th class="n" title="of a call to the coordinator">round trip</th>
            <th class="n">refused</th><th class="n">holding</th><th class="n">last seen</th><th>versions</th></tr></thead>
          <tbody>{rows.map((row) => (
            <tr key={row.worker}>
              <td>{row.worker}</td><td>{row.host}</td><td class="n">{row.pid}</td><td>{row.device}</td><td>{row.zone ?? ""}</td>
              <td class="n">{count(row.slots_committed)}</td><td class="n">{count(row.samples_committed)}</td>
              <td class="n">{row.seconds_attached ? count(row.samples_committed / row.seconds_attached) : "–"}</td>
              <td class="n">{percent(row.data_wait_share)}</td>
              <td class="n">{row.up_bytes_per_second ? `${bytes(row.up_bytes_per_second)}/s` : "–"}</td>
              <td class="n">{row.down_bytes_per_second ? `${bytes(row.down_bytes_per_second)}/s` : "–"}</td>
              <td>{row.way ?? ""}</td>
              <td class="n">{row.round_trip_seconds ? duration(row.round_trip_seconds) : "–"}</td>
              <td class={row.refused ? "n bad" : "n"}>{count(row.refused ?? 0)}</td><td class="n">{row.holding}</td>
              <td class={row.seconds_since_seen > SILENT_SECONDS ? "n bad" : "n"}>{duration(row.seconds_since_seen)}</td><td class="quiet">{row.versions ?? ""}</td>
            </tr>
          ))}</tbody>
        </table></div>
      )}
    </section>
  );
}

export function Shards() {
  const rows = shards.value;
  const newest = status.value?.version ?? -1;
  return (
    <section class="card wide" aria-label="Shards"><h2>Shards {!kept.value && <span class="quiet">{rows.length}</span>}</h2>
      {kept.value ? <OnlyLive /> : <div class="scroll"><table>
        <thead><tr><th class="n">shard</th><th>address</th><th>link</th><th class="n">version</th><th class="n">parameters</th><th class="n">memory</th><th class="n">queue</th>
          <th class="n" title="contributions its staging memory has room for">room</th><th class="n" title="counts its processes">incarnation</th><th>numerics</th></tr></thead>
        <tbody>{rows.map((row) => (
          <tr key={row.shard}>
            <td class="n">{row.shard}</td><td>{row.address || "–"}</td><td class={row.is_connected ? "" : "bad"}>{row.is_connected ? "up" : "down"}</td>
            <td class={row.version < newest ? "n bad" : "n"}>{count(row.version)}</td><td class="n">{count(row.parameters)}</td>
            <td class="n">{row.memory_bytes ? bytes(row.memory_bytes) : "–"}</td><td class="n">{row.queue ?? "–"}</td><td class="n">{row.part_slots}</td>
            <td class="n">{row.incarnation}</td><td class="quiet">{row.numeric_fingerprint || "–"}</td>
          </tr>
        ))}</tbody>
      </table></div>}
    </section>
  );
}

export function OnlyLive() {
  return <p class="empty">Only a coordinator that has the job can tell.</p>;
}
