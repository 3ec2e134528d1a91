import { html, useEffect, useMemo, useRef, useState } from "../core.js";
import { get, post } from "../api.js";
import { useAction, useRead } from "../live.js";
import { Bones, Page, Problem, useUnsaved } from "../parts.js";
import { NewData } from "./new_data.js";
import { brought, earlierOf, fetched, store } from "./new_files.js";
import { NewSettings, defaults, requestOf, settingsOf } from "./new_settings.js";
import { NewCheck } from "./new_check.js";

export function New({ search }) {
  const start = useRead(() => Promise.all([get("/v1/models"), get("/v1/files?purpose=fine-tune&limit=100"), earlierOf(search)]), [search.from, search.file]);
  if (!start.value) return html`<${Page} title="New job"><${Problem} error=${start.error} again=${start.error?.status !== 404 && start.again}>${start.error?.status === 404 && html`<a class="button small" href="#/new">Begin with a file</a>`}<//>${!start.error && html`<${Bones} heights=${[200, 120]} />`}<//>`;
  const [models, files, earlier] = start.value;
  return html`<${Form} models=${models.data.filter((model) => model.sgg.type === "base")} files=${files.data} earlier=${earlier} correct=${"correct" in search} />`;
}

function Form({ models, files, earlier, correct }) {
  const [data, setData] = useState(null); // {name, rows, aside}: what is edited here
  const [stored, setStored] = useState(earlier?.training ? { training: earlier.training, validation: earlier.validation } : null);
  const [dirty, setDirty] = useState(false);
  const [settings, setSettings] = useState(() => (earlier?.job ? settingsOf(earlier.job) : defaults(models)));
  const latest = useRef(null), safe = useRef(null); // what is edited, and the newest of it that is kept elsewhere, too
  const held = useRef(null); // the newest files whose rows are known, which the next ones replace
  const save = useAction(async (next) => {
    let judged = true;
    try {
      held.current = await store(next, held.current);
      safe.current = next;
      setStored(held.current);
    } catch (error) {
      setStored(null);
      judged = !!error.problems?.length;
      throw error;
    } finally {
      setDirty(!judged || latest.current !== next); // something may have been corrected meanwhile
    }
  });
  const take = (next) => {
    latest.current = safe.current = next;
    setData(next);
    setDirty(false);
  };
  const opening = useAction(async (file) => {
    const next = await brought(file);
    take(next);
    setStored(null);
    if (!settings.suffix) setSettings((now) => ({ ...now, suffix: file.name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9-]+/g, "-").slice(0, 40) }));
    await save.run(next);
  });
  const fetching = useAction(async () => {
    const found = await fetched(earlier);
    take(found.data);
    held.current = found.stored;
    setStored(found.stored);
  });
  useEffect(() => { if (correct && earlier?.training) fetching.run(); }, []);
  const edit = (change) => {
    latest.current = { ...latest.current, ...change };
    setData(latest.current);
    setDirty(true);
  };
  useUnsaved(data !== safe.current);
  const kind = stored?.training.sgg.kind;
  const usable = models.filter((model) => model.sgg.kind === "causal" || kind === "classification");
  useEffect(() => {
    if (kind && !usable.some((model) => model.id === settings.model) && usable.length && !settings.model.startsWith("ft:")) setSettings((now) => ({ ...now, model: usable[0].id }));
  }, [kind]);
  const request = useMemo(() => stored && requestOf(settings, stored), [settings, stored]);
  const once = useMemo(() => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join(""), [request]);
  const submit = useAction(async () => {
    const here = location.hash;
    const job = await post("/v1/fine_tuning/jobs", request, { headers: { "idempotency-key": once } });
    if (location.hash === here) location.hash = `#/jobs/${job.id}`;
  });
  const ready = stored && !dirty && !save.busy;
  return html`<${Page} title=${earlier?.job ? "Run again with changes" : "New job"} lead="Train a model of your own from a few labelled sentences: choose a file, review what the check found, and start.">
    <${NewData} data=${data} stored=${stored} earlier=${earlier} opening=${opening} fetching=${fetching} dirty=${dirty} busy=${save.busy} error=${save.error} edit=${edit} save=${() => save.run(latest.current)} />
    ${ready && html`<${NewSettings} models=${usable} files=${files} stored=${stored} settings=${settings} change=${(change) => setSettings((now) => ({ ...now, ...change }))} />
      <${NewCheck} request=${request} submit=${submit} rows=${data?.rows} stored=${stored} />`}
  <//>`;
}
