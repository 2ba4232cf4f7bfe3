// What the page asks the service for, and how it waits where that cannot be had yet.

const KEY = "labrador-api-key"; // of sessionStorage: gone with the tab
const LONGEST_WAIT_S = 10;
const LATER = { not_ready: 1, unreachable: 1, overloaded: 1 }; // codes that pass by themselves

/** An answer that is not the wanted one. code: the service's, or `unreachable`. */
export class Refusal extends Error {
  constructor(code, detail, waitS) {
    super(detail);
    this.code = code;
    this.waitS = waitS;
  }
  get passes() {
    return this.code in LATER;
  }
}

export const url = (path) => new URL(path, document.baseURI).href;

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** The response of the service. Throws Refusal; what `signal` throws when it is aborted. */
export async function call(path, options = {}) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  let response;
  try {
    response = await fetch(url(path), { ...options, headers });
  } catch (error) {
    options.signal?.throwIfAborted();
    throw new Refusal("unreachable", "");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({})); // a proxy's answer may be HTML
  const code = problem.code ?? (response.status >= 502 ? "not_ready" : "internal");
  const detail = problem.detail ?? `status ${response.status}`;
  throw new Refusal(code, detail, Number(response.headers.get("Retry-After")) || 0);
}

/** What `ask` returns, asked again while it is refused for a reason that passes.
 *
 * told(refusal, seconds): before each pause. It ends early if `hurry` receives the event `hurry`.
 * signedIn(): resolves when the person has given another key.
 */
export async function patiently(ask, { told, hurry, signedIn, signal }) {
  for (let tries = 0; ; tries++) {
    try {
      return await ask();
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      if (refusal.code === "unauthorized") {
        await signedIn();
      } else if (refusal.passes) {
        const seconds = Math.max(refusal.waitS ?? 0, Math.min(2 ** tries, LONGEST_WAIT_S));
        told(refusal, seconds);
        await pause(seconds, hurry);
      } else throw refusal;
      signal?.throwIfAborted();
    }
  }
}

function pause(seconds, hurry) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, seconds * 1000);
    function done() {
      clearTimeout(timer);
      hurry?.removeEventListener("hurry", done);
      window.removeEventListener("online", done);
      resolve();
    }
    hurry?.addEventListener("hurry", done);
    window.addEventListener("online", done);
  });
}
