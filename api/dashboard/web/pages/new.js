import { html, useEffect, useMemo, useRef, useState } from "../core.js";
import { get, post, remove, upload } from "../api.js";
import { useAction, useRead } from "../live.js";
import { labels as labelsOf, read, split, write } from "../examples.js";
import { Bones, Page, Problem } from "../parts.js";
import { NewData } from "./new_data.js";
import { NewSettings, defaults, requestOf, settingsOf } from "./new_settings.js";
import { NewCheck } from "./new_check.js";

const ASIDE = 0.2;
const LEAST = 20; // examples below which nothing is set aside by itself

/** Uploads the parts of what is edited, and takes back what they replace. Gives {training, validation}. */
async function store(data, before) {
  const [train, valid] = data.aside ? split(data.rows, ASIDE) : [data.rows, []];
  const stem = data.name.replace(/\.[^.]*$/, "");
  const send = async (name, rows) => {
    try {
      return await upload(name, write(rows));
    } catch (error) {
      throw Object.assign(error, { rows }); // its lines are those of this part
    }
  };
  const found = { train, valid, training: await send(`${stem}.jsonl`, train), validation: null };
  try {
    if (valid.length) found.validation = await send(`${stem}.validation.jsonl`, valid);
  } catch (error) {
    await remove(`/v1/files/${found.training.id}`).catch(() => {});
    throw error;
  }
  for (const old of [before?.training, before?.validation]) if (old) await remove(`/v1/files/${old.id}`).catch(() => {});
  return found;
}

/** Begin with what an earlier job was given. */
async function again(id) {
  if (!id) return null;
  const job = await get(`/v1/fine_tuning/jobs/${id}`);
  const file = (name) => (name ? get(`/v1/files/${name}`).catch(() => null) : null);
  return { job, training: await file(job.training_file), validation: await file(job.validation_file) };
}

export function New({ search }) {
  const start = useRead(() => Promise.all([get("/v1/models"), get("/v1/files?purpose=fine-tune&limit=100"), again(search.from)]), [search.from]);
  if (!start.value) return html`<${Page} title="New job"><${Problem} error=${start.error} again=${start.again} />${!start.error && html`<${Bones} heights=${[200, 120]} />`}<//>`;
  const [models, files, earlier] = start.value;
  return html`<${Form} models=${models.data.filter((model) => model.sgg.type === "base")} files=${files.data} earlier=${earlier} />`;
}

function Form({ models, files, earlier }) {
  const [data, setData] = useState(null); // {name, rows, aside}: what is edited here
  const [stored, setStored] = useState(earlier?.training ? { training: earlier.training, validation: earlier.validation, train: null, valid: null } : null);
  const [dirty, setDirty] = useState(false);
  const [settings, setSettings] = useState(() => (earlier ? settingsOf(earlier.job) : defaults(models)));
  const latest = useRef(null);
  const save = useAction(async (next) => {
    try {
      setStored(await store(next, data && stored?.train ? stored : null));
    } catch (error) {
      setStored(null);
      throw error;
    } finally {
      setDirty(latest.current !== next); // something may have been corrected meanwhile
    }
  });
  const open = async (file) => {
    const rows = read(file.name, await file.text());
    const next = { name: file.name, rows, aside: rows.length >= LEAST && labelsOf(rows).size > 1 };
    latest.current = next;
    setData(next);
    setStored(null);
    if (!settings.suffix) setSettings((now) => ({ ...now, suffix: file.name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9-]+/g, "-").slice(0, 40) }));
    await save.run(next);
  };
  const edit = (change) => {
    latest.current = { ...latest.current, ...change };
    setData(latest.current);
    setDirty(true);
  };
  const kind = stored?.training.sgg.kind;
  const usable = models.filter((model) => model.sgg.kind === "causal" || kind === "classification");
  useEffect(() => {
    if (kind && !usable.some((model) => model.id === settings.model) && usable.length && !settings.model.startsWith("ft:")) setSettings((now) => ({ ...now, model: usable[0].id }));
  }, [kind]);
  const request = useMemo(() => stored && requestOf(settings, stored), [settings, stored]);
  const once = useMemo(() => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join(""), [request]);
  const submit = useAction(async () => {
    const job = await post("/v1/fine_tuning/jobs", request, { headers: { "idempotency-key": once } });
    location.hash = `#/jobs/${job.id}`;
  });
  const ready = stored && !dirty && !save.busy;
  return html`<${Page} title=${earlier ? "Run again with changes" : "New job"} lead="A few labelled sentences make a model of your own: bring them, look at what is found in them, and start.">
    <${NewData} data=${data} stored=${stored} dirty=${dirty} busy=${save.busy} error=${save.error} open=${open} edit=${edit} save=${() => save.run(latest.current)} />
    ${ready && html`<${NewSettings} models=${usable} files=${files} stored=${stored} settings=${settings} change=${(change) => setSettings((now) => ({ ...now, ...change }))} />
      <${NewCheck} request=${request} submit=${submit} rows=${data?.rows} stored=${stored} />`}
  <//>`;
}
