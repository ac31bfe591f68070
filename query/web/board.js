"use strict";
// Live data: stats each second, products, slots that end soon, a buyer's own slots.
const chartSeconds = 300;
const streams = {}; // by name
const series = [[], [], [], []]; // of all products: time, refusals, grants, free
const perProduct = new Map(); // the same by product
const catalogue = new Map(); // products by id
const mine = new Map(); // my slots by id
const auditHint = $("audit-note").textContent;
let stats = null, operations = null, looked = null;

function start() {
  if (me.admin) {
    streams.stats = new Stream("/v1/stats/stream", me.token, { state: connected, event: (_, s) => onStats(s) });
    streams.operations = new Stream("/dashboard/stream", me.token, { state: () => {}, event: (_, o) => onOperations(o) });
  }
  if (me.buyer) streams.mine = new Stream("/v1/slots/my-slots/stream", me.token, { state: me.admin ? () => {} : connected, event: onMine });
  refresh(); health(); purchases(); waitingMoney();
}
function halt() {
  for (const name of Object.keys(streams)) { streams[name].stop(); delete streams[name]; }
  stats = operations = looked = null;
  series.forEach(s => s.length = 0); perProduct.clear(); mine.clear();
  undraw("chart"); undraw("chart-free");
  for (const id of ["audit", "purchases", "money", "my-slots", "expiring", "lags", "replays"]) replace(id, []);
  for (const id of ["audit-form", "purchases-form"]) $(id).reset();
  $("audit-note").textContent = auditHint; $("purchases-note").textContent = $("purchases-read").textContent = "";
  purchasesRead++;
  lookAtAll();
  connection("off", "not connected");
}

function remember(rows, t, refusals, grants, free) {
  [t, refusals, grants, free].forEach((v, i) => rows[i].push(v));
  while (rows[0].length && rows[0][0] < t - chartSeconds) rows.forEach(a => a.shift());
}
function onStats(s) {
  stats = s;
  const t = Date.parse(s.at) / 1000;
  clockAhead = Date.parse(s.at) - Date.now();
  const sum = f => s.products.reduce((n, p) => n + (p[f] ?? 0), 0);
  const grants = sum("grantsPerSecond"), refusals = sum("refusalsPerSecond"), free = sum("free");
  remember(series, t, refusals, grants, free);
  for (const p of s.products.slice(0, 200)) {
    if (!perProduct.has(p.id)) perProduct.set(p.id, [[], [], [], []]);
    remember(perProduct.get(p.id), t, p.refusalsPerSecond, p.grantsPerSecond, p.free);
  }
  for (const [id, rows] of perProduct) if (rows[0].at(-1) < t - chartSeconds) perProduct.delete(id);
  tile("t-free", free, false);
  $("t-grants").textContent = rate(grants);
  $("t-refusals").textContent = rate(refusals);
  $("t-pending").textContent = number(s.pendingPayments);
  tile("t-refunds", s.refundsDue, s.refundsDue > 0);
  tile("t-relay", s.relayLag, s.relayLag > 10000);
  const lags = Object.entries(s.projectionLag);
  const most = lags.length ? Math.max(...lags.map(([, n]) => n)) : null;
  tile("t-projection", most, most > 10000);
  drawLags(); drawCharts(); drawProducts();
}
function tile(id, value, alarm) {
  $(id).textContent = brief(value, 1e8); $(id).title = number(value);
  $(id).parentElement.classList.toggle("alarm", alarm);
}
function drawLags() {
  const known = new Map((operations?.projections || []).map(p => [p.name, p]));
  const rows = [pair("relay", number(stats?.relayLag))];
  for (const [name, lag] of Object.entries(stats?.projectionLag || {}).sort()) {
    const p = known.get(name);
    const notes = [p && p.generation > 1 ? "generation " + p.generation : "", p?.parked ? number(p.parked) + " parked" : ""].filter(Boolean).join(", ");
    rows.push(pair(name + (notes ? ", " + notes : ""), number(lag), p?.parked ? "bad" : ""));
  }
  replace("lags", rows);
}
// The window moves with time and is one to five minutes wide.
const lastMinutes = { time: true, range: u => {
  const t = u.data[0], end = t.at(-1) ?? now() / 1000;
  return [end - Math.max(60, Math.min(chartSeconds, end - (t[0] ?? end))), end];
} };
function drawCharts() {
  const data = looked && perProduct.get(looked) || series;
  draw("chart", data.slice(0, 3), () => ({
    scales: { x: lastMinutes, refusals: fromZero, grants: fromZero }, // of their own: a rush refuses hundreds for each that it grants
    series: [{}, line("--refusals", { label: "refusals", scale: "refusals", fill: ink("--refusals-fill") }), line("--grants", { label: "grants", scale: "grants" })],
    axes: [axis({ values: clockTime, grid: { show: false }, size: 26, space: 90 }), axis({ scale: "refusals", space: 34, stroke: ink("--refusals") }),
      axis({ scale: "grants", side: 1, space: 34, stroke: ink("--grants"), grid: { show: false } })],
  }));
  draw("chart-free", [data[0], data[3]], () => ({
    scales: { x: lastMinutes, y: fromZero },
    series: [{}, line("--free", { label: "free", fill: ink("--free-fill"), paths: uPlot.paths.stepped({ align: 1 }) })],
    axes: [axis({ values: clockTime, grid: { show: false }, size: 26, space: 90 }), axis({ space: 30 }), axis({ side: 1, grid: { show: false }, values: () => [] })],
  }));
}

function onOperations(o) {
  operations = o;
  $("t-expiring").textContent = number(o.expiring.count);
  drawExpiring(); drawLags();
  replace("replays", o.replays.length ? o.replays.map(r => {
    const share = r.target > 0 ? Math.min(1, r.position / r.target) : 0;
    const says = r.running ? Math.floor(share * 100) + " %, " + number(Math.round(r.eventsPerSecond)) + "/s" + (r.etaSeconds ? ", " + Math.ceil(r.etaSeconds) + " s left" : "") : "";
    return el("li", { class: r.error ? "bad" : "", title: r.error }, el("span", {}, r.projection + ", " + r.phase), el("span", {}, says),
      r.running ? el("progress", { max: 1, value: share, "aria-label": "replay of " + r.projection }) : null);
  }) : [pair("none of late", "")]);
}
function drawExpiring() {
  const slots = operations?.expiring.slots || [];
  keep("expiring", slots, s => s.id, s => el("tr", {}, cell("", "n"), cell(named(s.productName)), cell(number(s.unit), "n"), cell(trail("slotId", s.id)), cell(trail("userId", s.userId))),
    (row, s) => { row.cells[0].textContent = left(s.expirationTimestamp); });
  $("expiring-empty").hidden = slots.length > 0;
}

// A row's element is kept as long as its object, so that it keeps the focus.
function keep(id, items, key, make, update) {
  const body = $(id), old = new Map([...body.children].map(r => [r.dataset.id, r]));
  const rows = items.map(item => {
    let row = old.get(key(item));
    if (!row) { row = make(item); row.dataset.id = key(item); }
    update(row, item);
    return row;
  });
  if (rows.length !== body.children.length || rows.some((r, i) => body.children[i] !== r)) body.replaceChildren(...rows);
}

// Products come oldest sale first: the last page of a status is the one to see.
const lastPages = {};
async function newest(status, size) {
  for (let tries = 0; tries < 2; tries++) {
    const page = lastPages[status] || 0;
    const list = await json(`/v1/products?status=${status}&size=${size}&page=${page}`);
    lastPages[status] = Math.max(0, list.totalPages - 1);
    if (lastPages[status] === page) return list.products;
  }
  return [];
}
async function refresh() {
  try {
    const lists = await Promise.all([newest("ON_SALE", 100), newest("SOLD_OUT", 50), newest("PAUSED", 50), json("/v1/products?status=UPCOMING&size=50").then(l => l.products)]);
    catalogue.clear();
    for (const p of lists.flat()) catalogue.set(p.id, p);
    if (!me.token) connection("live", "live");
    drawProducts();
  } catch {
    if (!me.token) connection("lost", "connection lost, trying again");
  }
}
const statusOrder = { ON_SALE: 0, SOLD_OUT: 0, PAUSED: 1, UPCOMING: 2 };
function drawProducts() {
  const rows = new Map([...catalogue.values()].map(p => [p.id, { ...p, free: p.stock }]));
  for (const p of stats?.products || []) {
    const known = rows.get(p.id);
    if (known || rows.size < 200) rows.set(p.id, { ...known, ...p, status: p.free > 0 ? "ON_SALE" : "SOLD_OUT", saleDate: known?.saleDate || "" });
  }
  const list = [...rows.values()].sort((a, b) => statusOrder[a.status] - statusOrder[b.status] || (b.refusalsPerSecond || 0) + (b.grantsPerSecond || 0) - (a.refusalsPerSecond || 0) - (a.grantsPerSecond || 0) ||
    (a.status === "UPCOMING" ? a.saleDate.localeCompare(b.saleDate) : b.saleDate.localeCompare(a.saleDate)) || a.id.localeCompare(b.id));
  keep("products", list, p => p.id, p => el("tr", {},
    cell(el("button", { type: "button", class: "link name", "aria-pressed": false, onclick: () => lookAt(p.id) }, named(p.name))), cell(""), cell("", "n"), cell("", "n"),
    cell(el("meter", { min: 0, "aria-label": "held of " + p.name })), cell("", "n"), cell("", "n"),
    cell(el("button", { type: "button", class: "link", onclick: () => { lookAt(p.id); $("fairness-box").scrollIntoView(); } }, "fairness", el("span", { class: "sr" }, " of " + p.name)))),
  (row, p) => {
    const [name, status, free, of, held, grants, refusals] = row.cells;
    if (name.textContent !== p.name) name.firstChild.replaceChildren(named(p.name));
    name.firstChild.setAttribute("aria-pressed", p.id === looked);
    row.classList.toggle("looked", p.id === looked);
    if (status.dataset.is !== p.status) { status.replaceChildren(pill(p.status)); status.dataset.is = p.status; }
    free.textContent = number(p.free); of.textContent = number(p.totalStock);
    held.firstChild.max = p.totalStock; held.firstChild.value = p.totalStock - p.free;
    grants.textContent = p.grantsPerSecond ? rate(p.grantsPerSecond) : ""; refusals.textContent = p.refusalsPerSecond ? rate(p.refusalsPerSecond) : "";
  });
  $("products-empty").hidden = list.length > 0;
}

// Shows the charts, the fold and the purchases of one product.
function lookAt(id) {
  const name = catalogue.get(id)?.name || stats?.products.find(p => p.id === id)?.name || id;
  looked = id;
  $("chart-title").textContent = $("chart-title").title = name; $("chart-all").hidden = false;
  $("fair-id").value = $("pur-product").value = id;
  if (stats) drawCharts();
  drawProducts(); fairness();
  if (me.token) purchases();
}
function lookAtAll() {
  looked = null;
  $("chart-title").textContent = "All products on sale"; $("chart-title").title = ""; $("chart-all").hidden = true;
  if (stats) drawCharts();
  drawProducts();
}

function onMine(name, what) {
  if (name === "slot" || name === "warning") mine.set(what.id, what);
  if (name === "warning") connection("live", "live: a slot of yours ends at " + what.expirationTimestamp.slice(11, 19) + " UTC");
  if (name === "slot" && what.status !== "ACTIVE") connection("live", "live");
  if (name === "payment") purchases();
  drawMine();
}
function drawMine() {
  const list = [...mine.values()].sort((a, b) => b.createdAt.localeCompare(a.createdAt)).slice(0, 100);
  keep("my-slots", list, s => s.id, s => el("tr", {}, cell(named(s.productName)), cell(number(s.unit), "n"), cell(""), cell("", "n")), (row, s) => {
    if (row.cells[0].textContent !== s.productName) row.cells[0].replaceChildren(named(s.productName));
    if (row.cells[2].dataset.is !== s.status) { row.cells[2].replaceChildren(pill(s.status)); row.cells[2].dataset.is = s.status; }
    row.cells[3].textContent = s.status === "ACTIVE" ? left(s.expirationTimestamp) : "";
  });
  $("mine-empty").hidden = list.length > 0;
}

async function health() {
  try {
    const h = await (await fetch("/health/ready", { cache: "no-store" })).json();
    replace("health", Object.entries(h.components).sort().map(([name, state]) => el("li", {}, el("span", {}, name), pill(state))));
  } catch { replace("health", [el("li", {}, el("span", {}, "query API"), pill("DOWN"))]); }
}
