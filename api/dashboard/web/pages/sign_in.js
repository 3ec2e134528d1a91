import { html, useState } from "../core.js";
import { signIn } from "../api.js";
import { useAction } from "../live.js";
import { Field, Problem } from "../parts.js";

export function SignIn({ problem }) {
  const [key, setKey] = useState("");
  const enter = useAction(() => signIn({ key: key.trim() }));
  const submit = (event) => { event.preventDefault(); if (key.trim()) enter.run(); };
  return html`<main class="door"><form class="card" onSubmit=${submit}>
    <div class="stack tight"><h1>Sign in to SGG</h1>
      <p class="soft">Fine-tune language models from a handful of labelled examples, on your own machine.</p></div>
    <${Field} label="API key" hint=${html`The server prints a link that signs you in. The administrator's key lies in the data directory, in the file <code>admin-key</code>.`}>
      ${(ids) => html`<input ...${ids} type="password" autocomplete="off" spellcheck="false" placeholder="sgg_…" value=${key} onInput=${(event) => setKey(event.target.value)} />`}
    <//>
    <${Problem} error=${enter.error || problem} title="You are not signed in" />
    <button class="primary" disabled=${enter.busy || !key.trim()}>Sign in</button>
    <p class="soft small">The key is exchanged for a session of this browser, which you can end at any time. The browser does not keep the key.</p>
  </form></main>`;
}
