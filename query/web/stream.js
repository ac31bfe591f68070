"use strict";
// Server-sent events read with fetch: an EventSource can send no token. It
// comes back by itself, later and later, and says where it left off.
class Stream {
  constructor(path, token, on) {
    Object.assign(this, { path, token, on, last: "", stopped: false, tries: 0 });
    this.run();
  }
  stop() { this.stopped = true; this.abort?.abort(); clearTimeout(this.timer); }
  async run() {
    this.abort = new AbortController();
    try {
      const headers = { Accept: "text/event-stream" };
      if (this.token) headers.Authorization = "Bearer " + this.token;
      if (this.last) headers["Last-Event-ID"] = this.last;
      const resp = await fetch(this.path, { headers, signal: this.abort.signal, cache: "no-store" });
      if (resp.status === 401 || resp.status === 403) { this.on.state("refused"); return; }
      if (!resp.ok) throw new Error("status " + resp.status);
      this.on.state("live");
      this.tries = 0;
      await this.read(resp.body.getReader());
    } catch (e) { /* told below, and tried again */ }
    if (this.stopped) return;
    this.on.state("lost");
    const wait = Math.min(8000, 500 * 2 ** this.tries++);
    this.timer = setTimeout(() => this.run(), wait * (0.5 + Math.random() / 2));
  }
  async read(reader) {
    const decoder = new TextDecoder();
    let text = "", event = "message", data = [];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      for (let end; (end = text.indexOf("\n")) >= 0; text = text.slice(end + 1)) {
        const line = text.slice(0, end).replace(/\r$/, "");
        if (line === "") {
          if (data.length) this.on.event(event, JSON.parse(data.join("\n")));
          event = "message"; data = [];
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const rest = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "event") event = rest;
        else if (field === "data") data.push(rest);
        else if (field === "id") this.last = rest;
      }
    }
  }
}
