"use strict";
// A worker that folds a decision log while reading it, according to the contract:
// the free units after each decision, and each inconsistency.
const numbersPerEpoch = 1e10, mostBreaks = 50, mostBuckets = 4096;

class Fold {
  constructor() {
    Object.assign(this, { epoch: -1, free: 0, next: 0, out: new Set(), in: new Set(), decided: 0, lines: 0, broken: 0, breaks: [] });
    // Stretches of equally many decisions with their lowest and highest free
    // units: however long the log, the chart has room and no peak is lost.
    this.buckets = []; this.per = 1;
  }
  broke(what, text) {
    this.broken++;
    if (this.breaks.length < mostBreaks) this.breaks.push({ line: this.lines, at: this.decided, free: this.free, what, text });
  }
  number(from, to, text) {
    if (from !== this.next) this.broke("the next number is " + this.next, text);
    this.next = to + 1;
    this.decided += to - from + 1;
  }
  point() {
    const b = this.buckets.at(-1), at = Math.floor(this.decided / this.per);
    if (b && b.at === at) { b.low = Math.min(b.low, this.free); b.high = Math.max(b.high, this.free); b.end = this.free; return; }
    this.buckets.push({ at, low: this.free, high: this.free, end: this.free });
    while (this.buckets.length > mostBuckets) {
      this.per *= 2;
      const merged = [];
      for (const b of this.buckets) {
        const at = Math.floor(b.at / 2), last = merged.at(-1);
        if (last && last.at === at) { last.low = Math.min(last.low, b.low); last.high = Math.max(last.high, b.high); last.end = b.end; }
        else merged.push({ ...b, at });
      }
      this.buckets = merged;
    }
  }
  add(text) {
    this.lines++;
    let l;
    try { l = JSON.parse(text); } catch { this.broke("no JSON", text); return; }
    if (l.epoch !== this.epoch) {
      if (l.epoch < this.epoch) this.broke("the epoch is lower than that of the previous line", text);
      this.epoch = l.epoch; this.free = 0; this.out = new Set(); this.in = new Set(); this.next = l.epoch * numbersPerEpoch + 1;
    }
    switch (l.type) {
    case "opened": this.free += l.units; break;
    case "granted":
      this.number(l.sequence, l.sequence, text);
      if (this.free < 1) this.broke("no unit is free", text); else this.free--;
      if (this.out.has(l.unit)) this.broke("the unit is granted already", text);
      this.out.add(l.unit); this.in.delete(l.unit); break;
    case "returned":
      if (this.in.has(l.unit)) this.broke("a unit that is free is returned again", text);
      this.in.add(l.unit); this.out.delete(l.unit); this.free++; break;
    case "refused":
      this.number(l.from, l.to, text);
      if (l.to - l.from + 1 !== l.soldOut + l.duplicate + l.notStarted + l.closed) this.broke("the counts do not add up to the numbers", text);
      if (l.soldOut > 0 && this.free > 0) this.broke(`refused as sold out with ${this.free} free`, text);
      break;
    default: this.broke("a line of unknown type", text);
    }
    this.point();
  }
  result() {
    const points = [[], [], []];
    const put = (x, y, broke) => { points[0].push(x); points[1].push(y); points[2].push(broke); };
    for (const b of this.buckets) {
      const x = b.at * this.per;
      if (b.low !== b.high) { put(x, b.high, null); put(x, b.low, null); }
      put(x, b.end, null);
    }
    for (const b of this.breaks) {
      let i = points[0].findIndex(x => x > b.at - this.per);
      if (i < 0) i = points[0].length - 1;
      if (i >= 0) points[2][i] = points[1][i];
    }
    const { decided, lines, broken, breaks } = this;
    return { points, decided, lines, broken, breaks };
  }
}

onmessage = async ({ data: { path } }) => {
  try {
    const resp = await fetch(path, { cache: "no-store" });
    if (!resp.ok) throw new Error((await resp.json().catch(() => ({}))).detail || "The server answered " + resp.status);
    const reader = resp.body.pipeThrough(new TextDecoderStream()).getReader(), fold = new Fold();
    let rest = "", told = 0;
    for (let r; !(r = await reader.read()).done;) {
      const lines = (rest + r.value).split("\n");
      rest = lines.pop();
      for (const l of lines) if (l) fold.add(l);
      if (fold.lines - told > 50000) { told = fold.lines; postMessage({ lines: told }); }
    }
    if (rest) fold.add(rest);
    postMessage({ done: fold.result() });
  } catch (e) { postMessage({ error: e.message }); }
};
