// A job's events as they happen.
import { useEffect, useState } from "./core.js";
import { signedIn } from "./api.js";

const AGAIN = 1000;

/** All events of a job, oldest first, each once. `onNews` is called for every one that comes after the first look. */
export function useEvents(id, onNews) {
  const [events, setEvents] = useState([]);
  useEffect(() => {
    const seen = new Map();
    let source, timer, over = false;
    const show = () => setEvents([...seen.values()]);
    const later = () => { timer = setTimeout(() => (signedIn() ? open() : later()), AGAIN); };
    const open = () => {
      source = new EventSource(`/v1/fine_tuning/jobs/${id}/events?stream=true`);
      source.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (seen.has(event.id)) return;
        seen.set(event.id, event);
        show();
        onNews(event);
      };
      source.addEventListener("end", () => { over = true; source.close(); onNews(null); });
      // A browser comes again by itself with the last event's id, unless the server answered with an error.
      source.onerror = () => { if (source.readyState === EventSource.CLOSED && !over) later(); };
    };
    open();
    return () => { over = true; clearTimeout(timer); source.close(); };
  }, [id]);
  return events;
}
