// The same HTTP API that everybody uses, with the session's cookie instead of a key.

let session = null; // the last one, until somebody signs out: what its pages hold outlives its end
let ended = false;
const watchers = new Set();

export class ApiError extends Error {
  constructor(status, error, retryAfter) {
    super(error.message || "The server gave no reason.");
    this.status = status;
    this.code = error.code;
    this.param = error.param;
    this.problems = error.sgg?.problems || [];
    this.retryAfter = retryAfter;
  }
}

export class Unreachable extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

export const getSession = () => session;
export const signedIn = () => !!session && !ended;
export const can = (scope) => !!session && (session.scopes.includes(scope) || session.scopes.includes("admin"));

/** Tells of sign-in, sign-out, the `end` of a session that nobody asked for, and whether the server answers. */
export function watch(listener) {
  watchers.add(listener);
  return () => watchers.delete(listener);
}
const tell = (news) => watchers.forEach((listener) => listener(news));

/** Whether the browser's session is another one than when `token` was sent, begun in another tab; this page goes on with it. */
async function renewed(token) {
  const before = session;
  const found = await get("/dashboard/session").catch(() => null);
  if (!found || !before || found.csrf_token === token) return false;
  session = found;
  if (found.key_id !== before.key_id) tell({ session });
  return found.key_id === before.key_id;
}

async function send(path, options = {}) {
  const asked = session; // an answer to an earlier session says nothing of the present one
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell({ reachable: false });
    throw new Unreachable();
  }
  tell({ reachable: true });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  const error = new ApiError(answer.status, body.error || {}, answer.headers.get("retry-after"));
  if (answer.status === 401 && asked === session && signedIn()) {
    ended = true;
    tell({ session: null, end: new Error("The session has ended: it expired, you signed out in another tab, or its key expired or was revoked. Sign in again.") });
  }
  if (error.code === "cross_site_request" && options.headers?.["x-csrf-token"] && (await renewed(options.headers["x-csrf-token"]))) {
    return send(path, { ...options, headers: { ...options.headers, "x-csrf-token": session.csrf_token } });
  }
  throw error;
}

function changing(method, body, options = {}) {
  const headers = { "x-csrf-token": session?.csrf_token || "" };
  if (body instanceof FormData) return { method, body, headers, ...options };
  if (body !== undefined) headers["content-type"] = "application/json";
  return { method, headers: { ...headers, ...options.headers }, body: body === undefined ? undefined : JSON.stringify(body), ...(options.signal && { signal: options.signal }) };
}

const json = async (answer) => (answer.status === 204 ? null : answer.json());
export const get = async (path, options) => json(await send(path, options));
export const getText = async (path, options) => (await send(path, options)).text();
export const post = async (path, body, options) => json(await send(path, changing("POST", body, options)));
export const remove = async (path) => json(await send(path, changing("DELETE")));

export const query = (values) => {
  const kept = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
};

/** Everything of a list, page by page. */
export async function all(path, limit = 100) {
  const items = [];
  for (;;) {
    const after = items.length ? items[items.length - 1].id : undefined;
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}${query({ limit, after }).slice(1)}`);
    items.push(...page.data);
    if (!page.has_more) return items;
  }
}

export async function upload(name, content) {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", content instanceof Blob ? content : new Blob([content]), name);
  return post("/v1/files", form);
}

export async function signIn(how) {
  session = await post("/dashboard/session", how);
  ended = false;
  tell({ session });
}

export async function resumeSession() {
  session = await get("/dashboard/session");
  ended = false;
  tell({ session });
  return session;
}

export async function signOut() {
  await remove("/dashboard/session");
  session = null;
  tell({ session, end: null }); // what asked meanwhile may have told of an end that was not asked for
}
