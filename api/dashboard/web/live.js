// State that follows the server.
import { useCallback, useEffect, useRef, useState } from "./core.js";
import { Unreachable, signedIn, watch } from "./api.js";

/**
 * Gives a function that says of an error whether it passes: the server did not answer, or the session has ended. If so,
 * `again` is called when it answers, or when somebody has signed in.
 */
export function useReturn(again) {
  const missed = useRef(null); // the news that are waited for
  useEffect(() => watch((news) => {
    if (!news[missed.current]) return;
    missed.current = null;
    again();
  }), [again]);
  return useCallback((error) => {
    missed.current = error instanceof Unreachable ? "reachable" : error.status === 401 ? "session" : null;
    return missed.current !== null;
  }, []);
}

/**
 * Reads what `keys` name: {value, error, loading, again}. It is read again whenever `news` change or `again` is called, and
 * when the server is back that did not answer, or somebody has signed in again; until then the value stays, but none of
 * other keys does. An action that began when the keys were others reads what the present ones name with its `again`.
 */
export function useRead(read, keys, news = []) {
  const [state, setState] = useState({});
  const newest = useRef(0), current = useRef(read), present = useRef();
  current.current = read;
  const again = useCallback(async () => {
    if (present.current !== again) return present.current();
    const turn = ++newest.current;
    const tell = (change) => { if (turn === newest.current) setState((old) => ({ ...(old.of === again && { value: old.value }), ...change, of: again })); };
    try {
      tell({ value: await current.current() });
    } catch (error) {
      if (!missed(error)) tell({ error });
    }
  }, keys);
  present.current = again;
  const missed = useReturn(again);
  useEffect(() => {
    again();
    return () => { newest.current += 1; };
  }, [again, ...news]);
  const { value, error } = state.of === again ? state : {};
  return { value, error, loading: state.of !== again, again };
}

/** Calls `act` every so many milliseconds while the page can be seen and somebody is signed in; never twice at once. */
export function useEvery(milliseconds, act, keys) {
  const current = useRef(act);
  current.current = act;
  useEffect(() => {
    if (!milliseconds) return undefined;
    let timer, over = false;
    const turn = async () => {
      if (!document.hidden && signedIn()) await Promise.resolve(current.current()).catch(() => {});
      if (!over) timer = setTimeout(turn, milliseconds);
    };
    timer = setTimeout(turn, milliseconds);
    return () => { over = true; clearTimeout(timer); };
  }, [milliseconds, ...keys]);
}

/** Runs an action of a button: `busy` while it lasts, `error` if it failed, or another run that ended meanwhile. */
export function useAction(act) {
  const [state, setState] = useState({ busy: false });
  const run = async (...values) => {
    setState({ busy: true });
    try {
      const result = await act(...values);
      setState((now) => ({ ...now, busy: false }));
      return result;
    } catch (error) {
      setState({ busy: false, error });
      return undefined;
    }
  };
  return { ...state, run, clear: () => setState({ busy: false }) };
}
