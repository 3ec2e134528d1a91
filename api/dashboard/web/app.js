// The frame: who is signed in, where one is, and the page that belongs there.
import { html, render, useEffect, useLayoutEffect, useState } from "./core.js";
import { can, get, getSession, resumeSession, signIn, signOut, watch } from "./api.js";
import { useAction } from "./live.js";
import { Bones, Empty, Icon, Page, Problem, mayLeave } from "./parts.js";
import { SignIn } from "./pages/sign_in.js";
import { Jobs } from "./pages/jobs.js";
import { Job } from "./pages/job.js";
import { New } from "./pages/new.js";
import { Try } from "./pages/try.js";
import { Compare } from "./pages/compare.js";
import { Files } from "./pages/files.js";
import { Keys } from "./pages/keys.js";
import { System } from "./pages/system.js";

/** [name, label, page, the scope without which the page is of no use]. */
const places = [
  ["jobs", "Jobs", Jobs],
  ["new", "New job", New, "jobs:write"],
  ["try", "Try it", Try, "models:try"],
  ["compare", "Compare", Compare],
  ["files", "Files", Files],
  ["keys", "Keys", Keys],
  ["system", "System", System],
];
/** What a link names; as it stands where its signs of percent are none, as in one that was cut. */
const named = (path) => {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
};
const route = () => {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = (path || "jobs").split("/");
  const known = places.some(([place]) => place === name);
  return { name: known ? name : "jobs", id: known ? named(rest.join("/")) : "", search: Object.fromEntries(new URLSearchParams(search)) };
};

const allowed = ([, , , scope]) => !scope || can(scope);

const linkOf = () => location.hash.match(/^#sign-in=(.+)$/)?.[1];

function Frame() {
  const [at, setAt] = useState(route);
  const leave = useAction(signOut);
  useLayoutEffect(() => { // listens before the first page is seen: who moves on at once is followed, too
    const move = (event) => {
      if (linkOf()) return; // App signs in with it
      if (mayLeave()) setAt(route());
      else history.pushState(null, "", event.oldURL);
    };
    addEventListener("hashchange", move);
    return () => removeEventListener("hashchange", move);
  }, []);
  const place = places.find(([name]) => name === at.name);
  const View = at.name === "jobs" && at.id ? Job : place[2];
  return html`<div class="shell">
    <button class="skip" onClick=${() => document.querySelector("main").focus()}>Skip to the content</button>
    <header class="side">
      <a class="brand" href="#/jobs" aria-label="SGG, to the jobs"><img src=${new URL("./icon.svg", import.meta.url).href} alt="" /><b>SGG</b></a>
      <nav aria-label="Pages">${places.filter(allowed).map(([name, label]) => html`<a href=${`#/${name}`} aria-current=${at.name === name ? "page" : undefined}><${Icon} name=${name} />${name === "keys" && !can("admin") ? "Usage" : label}</a>`)}</nav>
      <div class="foot"><span class="cut" title=${getSession().project_id}>${getSession().key_name || getSession().key_id}</span>
        <${Problem} error=${leave.error} /><button class="small" disabled=${leave.busy} onClick=${() => mayLeave() && leave.run()}>Sign out</button></div>
    </header>
    <main tabindex="-1">${!allowed(place) ? html`<${Barred} title=${place[1]} scope=${place[3]} />` : html`<${View} key=${`${at.name}/${at.id}/${at.search.from || at.search.file || at.search.jobs || at.search.model || ""}`} id=${at.id} search=${at.search} />`}</main>
  </div>`;
}

function Barred({ title, scope }) {
  return html`<${Page} title=${title}><${Empty} icon="keys" title="Not with this key">It lacks the scope <code>${scope}</code>. Ask an administrator for a key that has it.<//><//>`;
}

/** Says when the server is away, and when it is back. */
function Lost() {
  const [away, setAway] = useState(false);
  useEffect(() => watch((news) => "reachable" in news && setAway(!news.reachable)), []);
  useEffect(() => {
    if (!away) return undefined;
    const timer = setInterval(() => get("/health/live").catch(() => {}), 1000);
    return () => clearInterval(timer);
  }, [away]);
  return html`<div class="lost" role="status">${away && "The server does not answer. This page continues by itself once the server is back."}</div>`;
}

function App() {
  const [session, setSession] = useState(undefined);
  const [ended, setEnded] = useState(false); // its pages stay as they are, unseen, until the same key signs in again
  const [problem, setProblem] = useState();
  useEffect(() => watch((news) => {
    if (!("session" in news)) return;
    setEnded(!!news.end);
    if (news.end) document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close()); // or nothing else can be reached
    if (!news.end) setSession(news.session);
    if (news.session || "end" in news) setProblem(news.end);
  }), []);
  useEffect(() => {
    const enter = (link, before = location.pathname) => {
      history.replaceState(null, "", before);
      return signIn({ link }).catch((error) => { setProblem(error); return getSession() || resumeSession(); });
    };
    const link = linkOf();
    (link ? enter(link) : resumeSession()).catch(() => setTimeout(() => location.reload(), 2000));
    const pasted = (event) => linkOf() && enter(linkOf(), event.oldURL).catch(setProblem);
    addEventListener("hashchange", pasted);
    return () => removeEventListener("hashchange", pasted);
  }, []);
  return html`<${Lost} />
    ${session === undefined && html`<main><${Bones} heights=${[40, 120, 120]} /></main>`}
    ${session && html`<div hidden=${ended}><${Frame} key=${session.key_id} /></div>`}
    ${(session === null || ended) && html`<${SignIn} problem=${problem} />`}`;
}

render(html`<${App} />`, document.getElementById("app"));
