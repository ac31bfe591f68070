"use strict";
// Server-sent events read with fetch, because an EventSource cannot send a token. It
// reconnects with increasing pauses and sends Last-Event-ID. A stream without even a
// heartbeat is treated as lost.
const silenceLimit = 40000;
class Stream {
  constructor(path, token, on) {
    Object.assign(this, { path, token, on, last: "", stopped: false, tries: 0 });
    this.run();
  }
  stop() {
    this.stopped = true;
    this.abort?.abort(); clearTimeout(this.timer); clearTimeout(this.silence);
  }
  heard() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.abort.abort(), silenceLimit);
  }
  async run() {
    this.abort = new AbortController();
    try {
      const headers = { Accept: "text/event-stream", Authorization: "Bearer " + this.token };
      if (this.last) headers["Last-Event-ID"] = this.last;
      this.heard();
      const resp = await fetch(this.path, { headers, signal: this.abort.signal, cache: "no-store" });
      if (resp.status === 401 || resp.status === 403) {
        clearTimeout(this.silence);
        if (!this.stopped) this.on.state("refused");
        return;
      }
      if (!resp.ok) throw new Error("status " + resp.status);
      this.on.state("live");
      this.tries = 0;
      await this.read(resp.body.getReader());
    } catch { /* shown below, and retried */ }
    clearTimeout(this.silence);
    if (this.stopped) return;
    const wait = Math.min(8000, 500 * 2 ** this.tries++) * (0.5 + Math.random() / 2);
    this.on.state("lost", Math.ceil(wait / 1000));
    this.timer = setTimeout(() => this.run(), wait);
  }
  async read(reader) {
    const decoder = new TextDecoder();
    let text = "", event = "message", data = [];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.heard();
      text += decoder.decode(value, { stream: true });
      const lines = text.split("\n");
      text = lines.pop();
      for (let line of lines) {
        if (line.endsWith("\r")) line = line.slice(0, -1);
        if (line === "") {
          if (data.length && !this.stopped) this.on.event(event, JSON.parse(data.join("\n")));
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
