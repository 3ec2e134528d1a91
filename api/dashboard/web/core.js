// Preact with templates instead of a build step.
import { h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export { render };
export { useEffect, useMemo, useRef, useState, useCallback } from "./vendor/hooks.js";
export const html = htm.bind(h);
