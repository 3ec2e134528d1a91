// State that follows the server.
import { useCallback, useEffect, useRef, useState } from "./core.js";

/** Reads once, and again whenever `keys` change or `again` is called: {value, error, loading, again}. */
export function useRead(read, keys) {
  const [state, setState] = useState({ loading: true });
  const newest = useRef(0);
  const again = useCallback(async () => {
    const turn = ++newest.current;
    try {
      const value = await read();
      if (turn === newest.current) setState({ value, loading: false });
    } catch (error) {
      if (turn === newest.current) setState((old) => ({ value: old.value, error, loading: false }));
    }
  }, keys);
  useEffect(() => {
    again();
    return () => { newest.current += 1; };
  }, [again]);
  return { ...state, again };
}

/** Calls `act` every so many milliseconds while the page can be seen; never twice at once. */
export function useEvery(milliseconds, act, keys) {
  const current = useRef(act);
  current.current = act;
  useEffect(() => {
    if (!milliseconds) return undefined;
    let timer, over = false;
    const turn = async () => {
      if (!document.hidden) await Promise.resolve(current.current()).catch(() => {});
      if (!over) timer = setTimeout(turn, milliseconds);
    };
    timer = setTimeout(turn, milliseconds);
    return () => { over = true; clearTimeout(timer); };
  }, [milliseconds, ...keys]);
}

/** Runs an action of a button: `busy` while it lasts, `error` if it failed. */
export function useAction(act) {
  const [state, setState] = useState({ busy: false });
  const run = async (...values) => {
    setState({ busy: true });
    try {
      const result = await act(...values);
      setState({ busy: false });
      return result;
    } catch (error) {
      setState({ busy: false, error });
      return undefined;
    }
  };
  return { ...state, run, clear: () => setState({ busy: false }) };
}
