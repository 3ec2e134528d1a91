import { html, useState } from "../core.js";
import { get, post } from "../api.js";
import { useAction, useRead } from "../live.js";
import { percent, plural } from "../format.js";
import { Bones, Card, Empty, Field, Page, Problem } from "../parts.js";

const WRITTEN = 160; // tokens that a try may write

/** One model's answer: {probabilities} or {text}. The base model is told the labels that the tuned one knows. */
async function ask(kind, model, text, labels) {
  if (kind === "classification") {
    const [result] = (await post("/v1/classifications", { model, input: text, ...(labels && { labels }) })).results;
    return { probabilities: result.probabilities, label: result.label };
  }
  if (kind === "completion") {
    const answer = await post("/v1/completions", { model, prompt: text, max_tokens: WRITTEN, temperature: 0 });
    return { text: answer.choices[0].text };
  }
  const answer = await post("/v1/chat/completions", { model, messages: [{ role: "user", content: text }], max_tokens: WRITTEN, temperature: 0 });
  return { text: answer.choices[0].message.content };
}

/**
 * The model's answer, and of which kind it is: [kind, answer]. Where nobody knows the kind, because the training file is
 * deleted or another project's, it is found by asking.
 */
async function answered(known, model, text) {
  const kinds = known ? [known] : ["classification", "completion", "chat"];
  for (const kind of kinds) {
    try {
      return [kind, await ask(kind, model, text)];
    } catch (error) {
      if (error.code !== "wrong_endpoint" || kind === kinds[kinds.length - 1]) throw error;
    }
  }
}

const RANKED = 8; // labels of an answer

export function Answer({ title, answer, error, busy, mute }) {
  const all = answer?.probabilities && Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  const ranked = all?.slice(0, RANKED), others = all?.slice(RANKED) || [];
  return html`<${Card} title=${title}><div aria-live="polite">
    ${busy && html`<${Bones} heights=${[20, 20, 20]} label="The model is thinking" />`}
    <${Problem} error=${error} />
    ${!busy && !answer && !error && html`<p class="soft">${mute ? "An encoder knows no labels before it is trained, so there is nothing to compare with." : "Its answer appears here."}</p>`}
    ${ranked && html`<ul class="stack tight answers">${ranked.map(([label, share]) => html`<li><div class="row between whole"><span class=${label === answer.label ? "first" : ""}>${label}</span><span class="num soft">${percent(share, 1)}</span></div><div class="bar"><i style=${`width:${share * 100}%`}></i></div></li>`)}${others.length > 0 && html`<li class="soft small num">${plural(others.length, "other label")}: ${percent(others.reduce((sum, [, share]) => sum + share, 0), 1)} in all</li>`}</ul>`}
    ${answer?.text !== undefined && html`<p class="said">${answer.text || html`<span class="soft">It said nothing.</span>`}</p>`}
  </div><//>`;
}

export function Try({ search }) {
  const { value: models, error, again } = useRead(() => get("/v1/models"), []);
  if (!models) return html`<${Page} title="Try it"><${Problem} error=${error} again=${again} />${!error && html`<${Bones} heights=${[120]} />`}<//>`;
  const tuned = models.data.filter((model) => model.sgg.type === "fine-tuned").reverse();
  if (search.model && !tuned.some((model) => model.id === search.model)) tuned.unshift({ id: search.model, sgg: {} });
  if (!tuned.length) {
    return html`<${Page} title="Try it"><${Empty} icon="try" title="No model of yours yet" actions=${html`<a class="button primary" href="#/new">New job</a>`}>After a job has succeeded, you can ask its model here and compare it with its base model.<//><//>`;
  }
  return html`<${Desk} tuned=${tuned} first=${search.model || tuned[0].id} />`;
}

function Desk({ tuned, first }) {
  const [name, setName] = useState(first);
  const [text, setText] = useState("");
  const [answers, setAnswers] = useState({});
  const facts = useRead(async () => {
    const model = await get(`/v1/models/${encodeURIComponent(name)}`);
    const job = model.sgg.job ? await get(`/v1/fine_tuning/jobs/${model.sgg.job}`).catch(() => null) : null;
    const base = await get(`/v1/models/${encodeURIComponent(model.sgg.base_model)}`).catch(() => null);
    return { base: model.sgg.base_model, kind: job?.sgg.kind || null, mute: base?.sgg.kind === "encoder" };
  }, [name]);
  const act = useAction(async () => {
    const { base, mute } = facts.value;
    setAnswers({ busy: true, also: !mute });
    let kind, labels;
    const tell = (change) => setAnswers((now) => ({ ...now, ...change }));
    try {
      let after;
      [kind, after] = await answered(facts.value.kind, name, text.trim());
      labels = after.probabilities && Object.keys(after.probabilities);
      tell({ after, busy: false });
    } catch (failure) {
      tell({ afterError: failure, busy: false, also: false });
      return;
    }
    if (mute) return;
    try {
      tell({ before: await ask(kind, base, text.trim(), labels), also: false });
    } catch (failure) {
      tell({ beforeError: failure, also: false });
    }
  });
  const kind = facts.value?.kind;
  const submit = (event) => { event.preventDefault(); if (text.trim() && facts.value && !act.busy) act.run(); };
  return html`<${Page} title="Try it" lead="Ask your model and the base model that it was made from the same question. This page is for trying a model out; to serve it, download the adapter.">
    <${Card}><form class="stack" onSubmit=${submit}>
      <${Field} label="Model">${(ids) => html`<select ...${ids} disabled=${act.busy} value=${name} onChange=${(event) => { setName(event.target.value); setAnswers({}); }}>${tuned.map((model) => html`<option value=${model.id} selected=${model.id === name}>${model.id}</option>`)}</select>`}<//>
      <${Field} label=${kind === "classification" || !kind ? "A sentence" : kind === "completion" ? "A prompt" : "A message"}>${(ids) => html`<textarea ...${ids} rows="3" maxlength="16000" placeholder="I was charged twice this month" value=${text} onInput=${(event) => setText(event.target.value)} onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event); }}></textarea>`}<//>
      <${Problem} error=${facts.error} again=${facts.again} />
      <div class="row"><button class="primary" disabled=${act.busy || !text.trim() || !facts.value}>${facts.value?.mute ? "Ask" : "Ask both"}</button><span class="soft small">The first answer takes some seconds: the worker loads the model.</span></div>
    </form><//>
    <div class="grid2"><${Answer} title="Your model" answer=${answers.after} error=${answers.afterError} busy=${answers.busy} />
      <${Answer} title=${facts.value ? `Before: ${facts.value.base}` : "Before"} answer=${answers.before} error=${answers.beforeError} busy=${answers.also} mute=${facts.value?.mute} /></div>
  <//>`;
}
