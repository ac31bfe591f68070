"use strict";
// Records: the audit trail, the fold of a decision log, purchases.
const trail = (kind, id) => id ? el("button", { type: "button", class: "link id", title: id, onclick: () => {
  $("audit-kind").value = kind; $("audit-id").value = id; audit(); $("audit-box").scrollIntoView();
} }, id.slice(0, 8)) : "";

const auditQuery = () => new URLSearchParams({ [$("audit-kind").value]: $("audit-id").value.trim() });
async function audit() {
  const note = $("audit-note");
  try {
    const page = await json("/v1/audit?limit=500&" + auditQuery());
    replace("audit", page.entries.map(e => el("tr", {}, cell(when(e.recordedAt), "t"), cell(e.type), cell(change(e)), cell(details(e), "details"),
      cell(trail("slotId", e.slotId)), cell(trail("userId", e.userId)), cell(short(e.traceId)))));
    note.textContent = page.entries.length ? number(page.entries.length) + (page.nextCursor ? " entries and more: download the CSV for all." : " entries, oldest first.") : "Nothing is recorded for that id.";
  } catch (e) { replace("audit", []); note.textContent = e.message; }
}
const change = e => e.oldStatus === e.newStatus ? pill(e.newStatus) : el("span", { class: "change" }, e.oldStatus ? pill(e.oldStatus) : "", e.oldStatus ? " → " : "", pill(e.newStatus));
const details = e => Object.entries(e.metadata).map(([k, v]) => k + " " + (typeof v === "object" ? JSON.stringify(v) : v)).join(", ") + (e.actor && e.actor !== e.userId ? ", by " + e.actor : "");

// A worker reads and folds the log; its messages about an older request are dropped.
let folding = null;
function foldLog(id) {
  folding?.terminate();
  folding = new Worker("/assets/fold.js");
  return new Promise((resolve, reject) => {
    folding.onmessage = ({ data }) => {
      if (data.error) reject(new Error(data.error));
      else if (data.done) resolve(data.done);
      else $("fair-verdict").textContent = "Folding, " + number(data.lines) + " lines…";
    };
    folding.onerror = () => reject(new Error("The log could not be folded here."));
    folding.postMessage({ path: `/v1/products/${id}/fairness/log` });
  });
}
async function fairness() {
  const id = $("fair-id").value.trim(), verdict = $("fair-verdict");
  verdict.className = ""; verdict.textContent = "Folding…"; replace("fair-breaks", []);
  try {
    const [report, fold] = await Promise.all([json(`/v1/products/${id}/fairness`), foldLog(id)]);
    const shown = { Decided: report.decided, Granted: report.granted, "Sold out": report.refused.soldOut, Duplicates: report.refused.duplicate,
      "Too early": report.refused.notStarted, Closed: report.refused.closed, Returned: report.returned, Epochs: report.epochs, Inversions: report.inversions };
    replace("fair-report", Object.entries(shown).map(([k, v]) => el("div", k === "Inversions" && v > 0 ? { class: "alarm" } : {}, el("dt", {}, k), el("dd", {}, number(v)))));
    const good = fold.broken === 0 && report.inversions === 0;
    verdict.className = good ? "good" : "bad";
    verdict.textContent = !good ? "The log breaks in " + counted(fold.broken, "place") + "."
      : fold.lines === 0 ? "The log folds: nothing was decided yet."
      : `The log folds: ${counted(fold.decided, "decision")} in ${counted(fold.lines, "line")}, and nobody was refused while a unit was free${report.complete ? "." : ". It is not complete: a gate died after decisions that nobody wrote down."}`;
    replace("fair-breaks", fold.breaks.map(b => el("li", { value: b.line }, b.what + ": ", el("code", {}, b.text))));
    $("fair-figure").hidden = fold.points[0].length < 2; $("fair-legend").hidden = fold.broken === 0;
    undraw("fair-chart");
    lastFold = fold; drawFold();
  } catch (e) {
    verdict.className = "bad"; verdict.textContent = e.message;
    replace("fair-report", []); $("fair-figure").hidden = true; lastFold = null;
  }
}
let lastFold = null;
function drawFold() {
  if (!lastFold || $("fair-figure").hidden) return;
  draw("fair-chart", lastFold.points, () => ({
    padding: [8, 28, 0, 0], // for half of the last number
    scales: { x: { time: false }, y: fromZero },
    series: [{}, line("--free", { label: "free", fill: ink("--free-fill"), paths: uPlot.paths.stepped({ align: 1 }) }),
      { stroke: ink("--bad"), paths: () => null, points: { show: true, size: 9, width: 2, stroke: ink("--bad") } }],
    axes: [axis({ grid: { show: false }, size: 28, space: 90 }), axis({ space: 34 })],
  }));
}

function purchaseQuery() {
  const q = new URLSearchParams();
  if ($("pur-status").value) q.set("status", $("pur-status").value);
  if ($("pur-product").value.trim()) q.set("productId", $("pur-product").value.trim());
  return q;
}
// Reads the list. A tick skips it while another read is in progress, and leaves the note alone if that
// is about a download. Rows that did not change keep their elements, and so the focus.
let purchasesRead = 0, purchasesReading = 0, purchasesNote = "";
async function purchases(tick) {
  if (tick && purchasesReading) return;
  purchasesReading++;
  const note = $("purchases-note"), read = ++purchasesRead;
  const write = text => { if ((!tick || note.textContent === purchasesNote) && note.textContent !== text) note.textContent = text; purchasesNote = text; };
  try {
    const page = await json("/v1/purchases?limit=50&" + purchaseQuery());
    if (read !== purchasesRead) return; // a later one is on its way
    keep("purchases", page.purchases, p => p.id + " " + p.updatedAt, p => el("tr", {}, cell(when(p.createdAt), "t"), cell(p.amount + " " + p.currency, "n"),
      cell(el("span", p.failureReason ? { title: p.failureReason } : {}, pill(p.paymentStatus), p.failureReason ? " " + p.failureReason : "")), cell(pill(p.refundStatus)),
      cell(p.paymentMethod.replaceAll("_", " ").toLowerCase()), cell(short(p.id)),
      cell(me.admin ? trail("slotId", p.purchaseSlotId) : short(p.purchaseSlotId)), cell(me.admin ? trail("userId", p.userId) : short(p.userId))), () => {});
    $("purchases-read").textContent = "Read at " + new Date(now()).toISOString().slice(11, 19) + " UTC.";
    write(page.purchases.length ? (page.nextCursor ? "The newest 50: download the CSV for all." : counted(page.purchases.length, "payment") + (page.purchases.length === 1 ? "." : ", newest first.")) : "No payment matches.");
  } catch (e) { if (read === purchasesRead) { if (!tick) replace("purchases", []); write(e.message); } } finally { purchasesReading--; }
}
