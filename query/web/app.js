"use strict";
const $ = id => document.getElementById(id);
const me = { token: "", sub: "", admin: false, buyer: false };
const streams = {}; // by name
let stats = null, chart = null, fairChart = null;
const catalogue = new Map(); // products by id
const chartSeconds = 300;
const series = [[], [], []]; // time, refusals, grants

// ---- small things -------------------------------------------------------
const number = n => n == null ? "–" : Number(n).toLocaleString("en-US");
const when = iso => iso ? iso.replace("T", " ").replace("Z", "") : "";
function el(name, attrs = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attrs)) {
    if (k === "class") e.className = v; else if (k.startsWith("on")) e.addEventListener(k.slice(2), v); else e.setAttribute(k, v);
  }
  e.append(...children.filter(c => c != null));
  return e;
}
const cell = (content, cls) => el("td", cls ? { class: cls } : {}, content ?? "");
const code = text => text ? el("code", { title: text }, text.slice(0, 8)) : "";
const pill = text => text ? el("span", { class: "pill " + text }, text.replaceAll("_", " ").toLowerCase()) : "";
function replace(id, rows) { $(id).replaceChildren(...rows); }

async function api(path, headers = {}) {
  if (me.token) headers.Authorization = "Bearer " + me.token;
  const resp = await fetch(path, { headers, cache: "no-store" });
  if (resp.ok) return resp;
  let detail = "status " + resp.status;
  try { const p = await resp.json(); detail = p.detail || p.title || detail; } catch { /* no problem document */ }
  const e = new Error(detail); e.status = resp.status; throw e;
}
const json = async path => (await api(path)).json();

async function download(path, name) {
  const blob = await (await api(path, { Accept: "text/csv" })).blob();
  const a = el("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(a); a.click(); a.remove();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}

// ---- who ------------------------------------------------------------------
function claims(token) {
  const part = token.split(".")[1];
  if (!part) throw new Error("that is no token: it has three parts with dots between them");
  const bytes = Uint8Array.from(atob(part.replaceAll("-", "+").replaceAll("_", "/")), c => c.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
}
function signIn(token) {
  const c = claims(token.trim());
  if (c.exp && c.exp * 1000 < Date.now()) throw new Error("that token has expired: get a new one");
  Object.assign(me, { token: token.trim(), sub: c.sub || "", admin: (c.roles || []).includes("admin"), buyer: (c.roles || []).includes("buyer") });
  $("who").textContent = (c.roles || []).join(", ") + " " + me.sub.slice(0, 8);
  $("signout").hidden = false; $("signin-box").hidden = true;
  for (const id of ["now", "expiring-box", "audit-box", "purchases-box"]) $(id).hidden = !me.admin;
  $("mine").hidden = !me.buyer;
  if (me.buyer && !me.admin) $("purchases-box").hidden = false;
  start();
  if (me.admin) $("now").scrollIntoView();
}
function signOut(why) {
  for (const name of Object.keys(streams)) { streams[name].stop(); delete streams[name]; }
  Object.assign(me, { token: "", sub: "", admin: false, buyer: false });
  stats = null; series.forEach(s => s.length = 0);
  for (const id of ["now", "expiring-box", "audit-box", "purchases-box", "mine"]) $(id).hidden = true;
  for (const id of ["audit", "purchases", "my-slots", "expiring"]) replace(id, []);
  $("who").textContent = "nobody signed in"; $("signout").hidden = true; $("signin-box").hidden = false;
  $("token").value = ""; $("signin-error").textContent = why || "";
  connection("off", "not connected");
}
function connection(state, text) {
  const c = $("conn");
  if (c.dataset.state === state) return;
  c.dataset.state = state; c.textContent = text;
}
const connected = state => {
  if (state === "refused") signOut("the server refused the token");
  else connection(state, state === "live" ? "live" : "connection lost, trying again");
};

// ---- live -----------------------------------------------------------------
function start() {
  if (me.admin) streams.stats = new Stream("/v1/stats/stream", me.token, { state: connected, event: (_, s) => onStats(s) });
  if (me.buyer) {
    const slots = new Map();
    streams.mine = new Stream("/v1/slots/my-slots/stream", me.token, {
      state: me.admin ? () => {} : connected,
      event: (name, s) => { if (name === "slot") { slots.set(s.id, s); mySlots(slots); } },
    });
  }
  refresh(); slow();
}
function onStats(s) {
  stats = s;
  const sum = f => s.products.reduce((n, p) => n + f(p), 0);
  const grants = sum(p => p.grantsPerSecond), refusals = sum(p => p.refusalsPerSecond);
  $("t-free").textContent = number(sum(p => p.free));
  $("t-grants").textContent = number(Math.round(grants));
  $("t-refusals").textContent = number(Math.round(refusals));
  $("t-pending").textContent = number(s.pendingPayments);
  $("t-refunds").textContent = number(s.refundsDue);
  $("t-refunds").parentElement.classList.toggle("alarm", s.refundsDue > 0);
  $("t-relay").textContent = number(s.relayLag);
  const lags = Object.entries(s.projectionLag || {});
  $("t-projection").textContent = number(lags.length ? Math.max(...lags.map(([, n]) => n)) : null);
  replace("lags", lags.map(([name, n]) => el("li", {}, el("span", {}, name), el("span", {}, number(n)))));
  const t = Date.parse(s.at) / 1000;
  [t, refusals, grants].forEach((v, i) => series[i].push(v));
  while (series[0].length && series[0][0] < t - chartSeconds) series.forEach(a => a.shift());
  drawChart();
  drawProducts();
}
const ink = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const axis = (label, scale, side, color) => ({ label, scale, side, stroke: color, grid: { show: side === 3, stroke: ink("--line"), width: 1 }, ticks: { stroke: ink("--line") }, size: 62, labelSize: 16, font: "11px system-ui", labelFont: "11px system-ui", values: (_, v) => v.map(n => number(n)) });
function drawChart() {
  if (!chart) {
    const host = $("chart");
    chart = new uPlot({
      width: Math.max(host.clientWidth, 200), height: 190, cursor: { y: false },
      scales: { x: { time: true }, r: { range: (_, lo, hi) => [0, Math.max(10, hi || 0)] }, g: { range: (_, lo, hi) => [0, Math.max(10, hi || 0)] } },
      series: [{}, { label: "refusals/s", scale: "r", stroke: ink("--refusals"), width: 2, fill: ink("--refusals") + "22" }, { label: "grants/s", scale: "g", stroke: ink("--grants"), width: 2, dash: [6, 3] }],
      axes: [{ stroke: ink("--soft"), grid: { show: false }, font: "11px system-ui" }, axis("refusals/s", "r", 3, ink("--refusals")), axis("grants/s", "g", 1, ink("--grants"))],
    }, series, host);
  }
  chart.setData(series);
}

// ---- products -------------------------------------------------------------
async function refresh() {
  try {
    const page = await json("/v1/products?size=50");
    const live = new Set(page.products.map(p => p.id));
    for (const id of catalogue.keys()) if (!live.has(id)) catalogue.delete(id);
    for (const p of page.products) catalogue.set(p.id, p);
    if (!me.token) connection("live", "live");
    drawProducts();
  } catch (e) { if (!streams.stats) connection("lost", "connection lost, trying again"); }
}
const productRows = new Map();
function drawProducts() {
  const rates = new Map((stats?.products || []).map(p => [p.id, p]));
  const order = { ON_SALE: 0, PAUSED: 1, UPCOMING: 2, SOLD_OUT: 3, ENDED: 4 };
  const list = [...catalogue.values()].sort((a, b) => (rates.has(b.id) - rates.has(a.id)) || order[a.status] - order[b.status] || b.saleDate.localeCompare(a.saleDate));
  const rows = list.map(p => {
    const rate = rates.get(p.id), free = rate ? rate.free : p.stock, total = rate ? rate.totalStock : p.totalStock;
    let row = productRows.get(p.id);
    if (!row) { // rows stay, so that focus does
      row = el("tr", { "data-id": p.id }, cell(""), cell(""), cell("", "n"), cell("", "n"),
        cell(el("meter", { min: 0, "aria-label": "sold of " + p.name })), cell("", "n"), cell("", "n"),
        cell(el("button", { type: "button", class: "link", onclick: () => lookAt(p.id) }, "fairness", el("span", { class: "sr" }, " of " + p.name))));
      productRows.set(p.id, row);
    }
    const [name, status, freeCell, of, sold, g, r] = row.cells;
    name.textContent = p.name;
    if (status.dataset.is !== p.status) { status.replaceChildren(pill(p.status)); status.dataset.is = p.status; }
    freeCell.textContent = number(free); of.textContent = number(total);
    const meter = sold.firstChild; meter.max = total; meter.value = total - free;
    g.textContent = rate ? number(Math.round(rate.grantsPerSecond)) : ""; r.textContent = rate ? number(Math.round(rate.refusalsPerSecond)) : "";
    return row;
  });
  const body = $("products");
  if (rows.length !== body.children.length || rows.some((r, i) => body.children[i] !== r)) body.replaceChildren(...rows);
  $("products-empty").hidden = rows.length > 0;
}

// ---- what changes slowly ----------------------------------------------------
const left = deadline => {
  const s = Math.max(0, Math.floor((Date.parse(deadline) - Date.now()) / 1000));
  return Math.floor(s / 60) + ":" + String(s % 60).padStart(2, "0");
};
function mySlots(slots) {
  const list = [...slots.values()].sort((a, b) => b.createdAt.localeCompare(a.createdAt));
  replace("my-slots", list.map(s => el("tr", {}, cell(s.productName), cell(number(s.unit), "n"), cell(pill(s.status)), cell(s.status === "ACTIVE" ? left(s.expirationTimestamp) : "", "n"))));
}
async function slow() {
  try {
    const resp = await fetch("/health/ready", { cache: "no-store" });
    const h = await resp.json();
    replace("health", Object.entries(h.components).map(([name, state]) => el("li", { class: "pill " + state }, name + " " + state)));
  } catch { replace("health", [el("li", { class: "pill DOWN" }, "query API DOWN")]); }
  if (!me.admin) return;
  try {
    const from = new Date(Date.now() - 10 * 60000).toISOString();
    const page = await json("/v1/audit?limit=200&type=SlotExpiringSoon&from=" + encodeURIComponent(from));
    const rows = [];
    for (const e of page.entries.slice(-40)) {
      const deadline = e.metadata.deadline || e.metadata.expirationTimestamp;
      if (!deadline || Date.parse(deadline) < Date.now()) continue;
      const s = await json("/v1/slots/" + e.slotId);
      if (s.status !== "ACTIVE") continue;
      rows.push(el("tr", {}, cell(trail("slotId", e.slotId)), cell(trail("userId", e.userId)), cell(left(deadline), "n")));
      if (rows.length === 20) break;
    }
    replace("expiring", rows);
    $("expiring-empty").hidden = rows.length > 0;
    const replays = await json("/dashboard/replays");
    replace("replays", replays.length ? replays.map(r => el("li", {}, el("span", {}, r.projection + ": " + r.phase),
      el("span", {}, r.target > 0 ? Math.min(100, Math.round(100 * r.position / r.target)) + " % " + (r.ended ? "" : number(Math.round(r.rate)) + "/s") : ""))) : [el("li", {}, "none so far")]);
  } catch { /* the connection's state says so; what was shown stays */ }
}

// ---- audit ------------------------------------------------------------------
const trail = (kind, id) => id ? el("button", { type: "button", class: "link id", title: id, onclick: () => { $("audit-kind").value = kind; $("audit-id").value = id; audit(); $("audit-box").scrollIntoView(); } }, id.slice(0, 8)) : "";
const auditQuery = () => new URLSearchParams({ [$("audit-kind").value]: $("audit-id").value.trim() });
async function audit() {
  const note = $("audit-note");
  try {
    const q = auditQuery(); q.set("limit", "500");
    const page = await json("/v1/audit?" + q);
    replace("audit", page.entries.map(e => el("tr", {}, cell(when(e.recordedAt)), cell(e.type), cell(trail("slotId", e.slotId)), cell(trail("userId", e.userId)),
      cell(e.oldStatus === e.newStatus ? pill(e.newStatus) : el("span", {}, (e.oldStatus || "–") + " → ", pill(e.newStatus))),
      cell(Object.entries(e.metadata || {}).map(([k, v]) => k + " " + (typeof v === "object" ? JSON.stringify(v) : v)).join(", "), "details"), cell(code(e.traceId)))));
    note.textContent = page.entries.length ? page.entries.length + (page.nextCursor ? " entries and more: download the CSV for all" : " entries, oldest first") : "Nothing recorded for that id.";
  } catch (e) { replace("audit", []); note.textContent = e.message; }
}

// ---- fairness -----------------------------------------------------------------
function lookAt(id) {
  $("fair-id").value = id;
  if ($("pur-product")) $("pur-product").value = id;
  fairness(); $("h-fairness").scrollIntoView();
}
async function fairness() {
  const id = $("fair-id").value.trim(), verdict = $("fair-verdict");
  verdict.className = ""; verdict.textContent = "Folding…"; replace("fair-breaks", []);
  try {
    const [report, log] = await Promise.all([json(`/v1/products/${id}/fairness`), api(`/v1/products/${id}/fairness/log`).then(r => r.text())]);
    const fold = foldLog(log);
    const shown = { Decided: report.decided, Granted: report.granted, "Sold out": report.refused?.soldOut ?? report.soldOut, Duplicates: report.refused?.duplicate ?? report.duplicate, "Too early": report.refused?.notStarted ?? report.notStarted, Closed: report.refused?.closed ?? report.closed, Returned: report.returned, Epochs: report.epochs, Inversions: report.inversions };
    replace("fair-report", Object.entries(shown).map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, number(v)))));
    const good = fold.breaks.length === 0 && report.inversions === 0;
    verdict.className = good ? "good" : "bad";
    verdict.textContent = good
      ? `The log folds: ${number(fold.decided)} decisions in ${number(fold.lines)} lines, no request refused while a unit was free${report.complete ? "." : "; it is not complete: a gate died after decisions that nobody wrote down."}`
      : `The log breaks in ${fold.breaks.length}${fold.breaks.more ? " and more" : ""} places.`;
    replace("fair-breaks", fold.breaks.map(b => el("li", {}, b)));
    const figure = $("fair-figure"); figure.hidden = fold.points[0].length < 2;
    fairChart?.destroy(); fairChart = null;
    if (!figure.hidden) fairChart = new uPlot({
      width: Math.max($("fair-chart").clientWidth, 200), height: 190, cursor: { y: false }, scales: { x: { time: false } },
      series: [{ label: "decision" }, { label: "free", stroke: ink("--grants"), width: 2, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }],
      axes: [{ stroke: ink("--soft"), grid: { show: false }, font: "11px system-ui", values: (_, v) => v.map(n => number(n)) }, axis("free units", "y", 3, ink("--grants"))],
    }, fold.points, $("fair-chart"));
  } catch (e) { verdict.className = "bad"; verdict.textContent = e.message; replace("fair-report", []); $("fair-figure").hidden = true; }
}

// ---- purchases ------------------------------------------------------------------
function purchaseQuery() {
  const q = new URLSearchParams();
  if ($("pur-status").value) q.set("status", $("pur-status").value);
  if ($("pur-product").value.trim()) q.set("productId", $("pur-product").value.trim());
  return q;
}
async function purchases() {
  const note = $("purchases-note");
  try {
    const q = purchaseQuery(); q.set("limit", "50");
    const page = await json("/v1/purchases?" + q);
    replace("purchases", page.purchases.map(p => el("tr", {}, cell(when(p.createdAt)), cell(code(p.id)), cell(p.amount + " " + p.currency, "n"), cell(p.paymentMethod.replaceAll("_", " ").toLowerCase()),
      cell(pill(p.paymentStatus)), cell(pill(p.refundStatus)), cell(me.admin ? trail("slotId", p.purchaseSlotId) : code(p.purchaseSlotId)), cell(me.admin ? trail("userId", p.userId) : code(p.userId)))));
    note.textContent = page.purchases.length ? (page.nextCursor ? "The newest 50; download the CSV for all." : "") : "No payment matches.";
  } catch (e) { replace("purchases", []); note.textContent = e.message; }
}

// ---- wiring ---------------------------------------------------------------------
const handle = (id, event, f) => $(id).addEventListener(event, async e => { e.preventDefault(); await f(); });
handle("signin", "submit", () => {
  try { $("signin-error").textContent = ""; signIn($("token").value); } catch (e) { $("signin-error").textContent = e.message; }
});
handle("signout", "click", () => signOut());
handle("audit-form", "submit", audit);
handle("audit-csv", "click", () => $("audit-form").reportValidity() && download("/v1/audit?" + auditQuery(), "audit.csv").catch(e => $("audit-note").textContent = e.message));
handle("fair-form", "submit", fairness);
handle("purchases-form", "submit", purchases);
handle("csv", "click", () => download("/v1/purchases?" + purchaseQuery(), "purchases.csv").catch(e => $("purchases-note").textContent = e.message));

const root = document.documentElement;
function setTheme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", dark);
  chart?.destroy(); chart = null; if (series[0].length) drawChart();
  if (fairChart) fairness();
}
$("theme").setAttribute("aria-pressed", matchMedia("(prefers-color-scheme: dark)").matches);
handle("theme", "click", () => setTheme($("theme").getAttribute("aria-pressed") !== "true"));
addEventListener("resize", () => {
  chart?.setSize({ width: Math.max($("chart").clientWidth, 200), height: 190 });
  fairChart?.setSize({ width: Math.max($("fair-chart").clientWidth, 200), height: 190 });
});
refresh();
setInterval(refresh, 3000);
setInterval(slow, 5000);
