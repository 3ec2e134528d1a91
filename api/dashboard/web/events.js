// A job's events as they happen.
import { useEffect, useState } from "./core.js";
import { signedIn } from "./api.js";

const AGAIN = 1000;
const TOGETHER = 100;

/** All events of a job, oldest first, each once. `onNews` is called after a message and at the end, once for all that come together. Without an id there are none. */
export function useEvents(id, onNews) {
  const [events, setEvents] = useState([]);
  useEffect(() => {
    if (!id) return undefined;
    const seen = new Map();
    let source, timer, told, over = false;
    const show = () => setEvents([...seen.values()]);
    const tell = () => { told ||= setTimeout(() => { told = undefined; onNews(); }, TOGETHER); };
    const later = () => { timer = setTimeout(() => (signedIn() ? open() : later()), AGAIN); };
    const open = () => {
      source = new EventSource(`/v1/fine_tuning/jobs/${id}/events?stream=true`);
      source.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (seen.has(event.id)) return;
        seen.set(event.id, event);
        show();
        if (event.type === "message") tell();
      };
      source.addEventListener("end", () => { over = true; source.close(); tell(); });
      // A browser comes again by itself with the last event's id, unless the server answered with an error.
      source.onerror = () => { if (source.readyState === EventSource.CLOSED && !over) later(); };
    };
    open();
    return () => { over = true; clearTimeout(timer); clearTimeout(told); source.close(); };
  }, [id]);
  return events;
}
