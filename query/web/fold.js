"use strict";
// The fold of a decision log, as the contract has it: what was free, decision
// by decision, and each place at which the log breaks.
const numbersPerEpoch = 1e10;
function foldLog(text) {
  const points = [[], []], breaks = [];
  let epoch = -1, free = 0, next = 0, out = new Set(), inversions = 0, decided = 0, n = 0;
  const broke = (what, line) => { if (breaks.length < 50) breaks.push(`line ${n}: ${what}: ${line}`); else breaks.more = true; };
  const point = () => { points[0].push(decided); points[1].push(free); };
  const number = (from, to, line) => {
    if (from !== next) broke(`number ${from} where ${next} was due`, line);
    next = to + 1;
    decided += to - from + 1;
  };
  for (const line of text.split("\n")) {
    if (!line.trim()) continue;
    n++;
    let l;
    try { l = JSON.parse(line); } catch { broke("no JSON", line); continue; }
    if (l.epoch !== epoch) {
      if (l.epoch < epoch) broke("an epoch that had ended", line);
      epoch = l.epoch; free = 0; out = new Set(); next = epoch * numbersPerEpoch + 1;
    }
    switch (l.type) {
      case "opened": free += l.units; break;
      case "granted":
        number(l.sequence, l.sequence, line);
        if (free < 1) broke("granted with nothing free", line);
        if (out.has(l.unit)) broke("a unit that is out already", line);
        out.add(l.unit); free--; break;
      case "returned": out.delete(l.unit); free++; break;
      case "refused": {
        number(l.from, l.to, line);
        if (l.to - l.from + 1 !== l.soldOut + l.duplicate + l.notStarted + l.closed) broke("a run whose counts do not add up", line);
        if (l.soldOut > 0 && free > 0) { inversions += l.soldOut; broke("refused as sold out while units were free", line); }
        break;
      }
      default: broke("no such type", line);
    }
    point();
  }
  return { points, breaks, inversions, decided, lines: n, free };
}
