// Asks the service that this page came from, and its reader for a token where it wants one.

const TRIES = 5;
const LONGEST_WAIT = 30; // seconds

const byId = (id) => document.getElementById(id);

/** What the service refuses, in its own words. */
export class Refusal extends Error {
  constructor(detail, code = "") {
    super(detail);
    this.code = code;
  }
}

/** Whether the service has asked for a token. */
export let guarded = false;

let token = null; // kept nowhere else
let asked = null; // the promise of a token while the form is open

/** Open the form, once however many ask, and return whether a token was given. */
function newToken() {
  asked ??= new Promise((resolve) => {
    const form = byId("ask");
    const refused = token !== null;
    byId("ask-title").textContent = refused
      ? "The service refused that token"
      : "This service asks for a token";
    byId("token").value = "";
    form.returnValue = "";
    form.addEventListener(
      "close",
      () => {
        const given = form.returnValue === "given";
        if (given) token = byId("token").value.trim();
        byId("token").value = "";
        asked = null;
        resolve(given);
      },
      { once: true },
    );
    form.showModal();
  });
  return asked;
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });

/**
 * Return the JSON that a route answers.
 * A busy service is asked again when it says so; `waits` is told of the seconds until then.
 * Throws a Refusal, or the signal's reason once it is aborted.
 */
export async function service(route, { body, signal, waits = () => {} } = {}) {
  for (let tries = 1; ; ) {
    const sent = token;
    const headers = sent === null ? {} : { authorization: `Bearer ${sent}` };
    const method = body ? "POST" : "GET";
    let answer;
    try {
      answer = await fetch(route, { method, body, headers, signal, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Refusal("No answer: the service may be down, or the file too large for it.");
    }
    guarded ||= answer.status === 401;
    if (answer.status === 401 && (token !== sent || (await newToken()))) continue;
    const busy = answer.status === 429 || answer.status === 503;
    if (!busy || tries === TRIES) return contentOf(answer);
    tries += 1;
    const seconds = Math.min(Number(answer.headers.get("retry-after")) || 1, LONGEST_WAIT);
    waits(seconds);
    await pause(seconds, signal);
  }
}

async function contentOf(answer) {
  const content = await answer.json().catch(() => null);
  if (answer.ok && content) return content;
  throw new Refusal(content?.detail ?? `The service answered ${answer.status}.`, content?.code);
}

/** Return a function that runs tasks, `limit` of them at once, the others in turn. */
export function lane(limit) {
  const queue = [];
  let running = 0;
  return async (task) => {
    if (running === limit) await new Promise((go) => queue.push(go));
    else running += 1;
    try {
      return await task();
    } finally {
      if (queue.length) queue.shift()();
      else running -= 1;
    }
  };
}
