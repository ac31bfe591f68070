// Calls of the two APIs, and server-sent events with a token.

// Problem is an error response (RFC 9457). slug is the last part of its type, and
// what a page decides by: titles and details are for people.
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || "The shop cannot be reached.");
    this.status = status;
    this.slug = (body.type || "").split("/").pop();
    this.body = body;
  }
  // Worth repeating: the request was not decided.
  get temporary() { return this.status === 0 || this.status === 429 || this.status >= 500; }
}

// call sends one request and returns the response's JSON, null for 204. The error
// is always a Problem; status 0 means that there was no response, so that the
// request may have taken effect: repeat it with the same key.
export async function call(method, url, token, { body, headers } = {}) {
  let response;
  try {
    response = await fetch(url, {
      method,
      cache: "no-store",
      headers: {
        ...(token && { Authorization: "Bearer " + token }),
        ...(body && { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    throw new Problem(0, {});
  }
  const text = await response.text().catch(() => "");
  let json = null;
  try { json = text ? JSON.parse(text) : null; } catch { /* not from the API: a proxy's page */ }
  if (!response.ok) throw new Problem(response.status, json || {});
  return json;
}

// persist repeats a call while it fails for a moment. The call must be safe to
// repeat: a GET, or one with an idempotency key that stays the same.
export async function persist(send, attempts = 8) {
  for (let wait = 300; ; wait = Math.min(2 * wait, 3000)) {
    try {
      return await send();
    } catch (problem) {
      if (!problem.temporary || --attempts === 0) throw problem;
      await sleep(wait * (0.5 + Math.random() / 2));
    }
  }
}

export const sleep = ms => new Promise(done => setTimeout(done, ms));

// subscribe receives server-sent events for as long as the page is open. A stream
// by header cannot be an EventSource. Each connection begins with the present state.
export async function subscribe(url, token, receive) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 5000)) {
    try {
      const response = await fetch(url, { headers: token ? { Authorization: "Bearer " + token } : {}, cache: "no-store" });
      if (response.ok) {
        wait = 500;
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        let buffer = "";
        for (let part; !(part = await reader.read()).done;) {
          const events = (buffer += part.value).split("\n\n");
          buffer = events.pop();
          for (const event of events) dispatch(event, receive);
        }
      }
    } catch { /* the connection broke: connect again */ }
    await sleep(wait);
  }
}

function dispatch(text, receive) {
  let name = "message";
  const data = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  if (data.length) receive(name, JSON.parse(data.join("\n")));
}
