// The page of one drop: an example for the shop's own. It uses the public APIs
// alone (contract section 7): the query API for everything that is shown, the command API
// for everything that the buyer does.
//
// The state is what the two streams reported last. render() shows it; clicks only
// send commands. So a reload, a second tab or a lost response need no additional
// code.
import { Problem, call, persist, subscribe } from "./api.js";

const $ = id => document.getElementById(id);
const config = JSON.parse($("config").textContent);
const product = location.pathname.split("/").pop();

// The token of this tab's buyer. It has to survive the redirect to the bank and
// back. dev gives every page a new buyer; a shop has its login instead.
const token = sessionStorage.getItem("token") || config.token;
sessionStorage.setItem("token", token);

const command = (method, path, options) => call(method, config.commandUrl + path, token, options);
const query = path => call("GET", path, token);

const state = {
  product: null,      // as the product stream reported it; null: not known yet
  deleted: false,
  slots: new Map(),   // own slots by id
  payments: new Map(), // own payments by id
  clockAhead: 0,      // milliseconds that the server's clock is ahead of this one
  busy: false,        // a command is in progress
  follow: "",         // id of the payment whose next action is to be followed at once
};

const now = () => Date.now() + state.clockAhead;

// ---- what happens -----------------------------------------------------------

start();

async function start() {
  // The countdown must not depend on the buyer's clock.
  try {
    const response = await fetch(`/v1/products/${product}`, { cache: "no-store" });
    const at = Date.parse(response.headers.get("Date"));
    if (at) state.clockAhead = at - Date.now();
    if (response.status === 404) state.deleted = true;
  } catch { /* the stream below connects when it can */ }

  subscribe(`/v1/products/${product}/stream`, "", (name, data) => {
    if (name === "product") state.product = data;
    if (name === "deleted") state.deleted = true;
    render();
  });
  subscribe("/v1/slots/my-slots/stream", token, (name, data) => {
    if (name === "slot" || name === "warning") state.slots.set(data.id, data);
    if (name === "payment") onPayment(data);
    render();
  });
  await loadOwn();
  setInterval(render, 250); // the timers
  render();
}

// loadOwn reads what the stream reports only when it changes: slots that have
// ended, and the payment that was pending before a redirect.
async function loadOwn() {
  const mine = await persist(() => query("/v1/slots/my-slots")).catch(() => null);
  for (const slot of mine?.slots || []) state.slots.set(slot.id, slot);
  const purchases = await persist(() => query(`/v1/purchases?productId=${product}`)).catch(() => null);
  for (const payment of purchases?.purchases || []) {
    if (payment.paymentStatus !== "PENDING") continue;
    // A row of purchases has no nextAction; the payment has.
    await persist(() => query(`/v1/payments/${payment.id}`)).then(onPayment).catch(() => null);
  }
}

function onPayment(payment) {
  const known = state.payments.get(payment.id);
  state.payments.set(payment.id, payment);
  if (payment.paymentStatus === "FAILED" && known && known.paymentStatus === "PENDING") {
    say(payment.failureReason === "CANCELED" ? "The payment was cancelled." : `The payment failed (${payment.failureReason}). You can try again.`);
  }
  if (payment.id === state.follow && payment.nextAction?.type === "redirect") follow(payment.nextAction);
}

// ---- what the buyer does ----------------------------------------------------

// run runs one command at a time and shows why it was refused.
async function run(work) {
  if (state.busy) return;
  state.busy = true;
  say("");
  render();
  try {
    await work();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    say(refusals[problem.slug] || problem.message);
  } finally {
    state.busy = false;
    render();
  }
}

const refusals = {
  "sold-out": "Sold out. If a reservation is not paid in time, its unit goes back on sale: keep this page open.",
  "duplicate-slot": "You hold one already.",
  "sale-not-started": "The sale has not begun yet.",
  "sale-ended": "The sale has ended.",
  "sale-paused": "The sale is paused for a moment.",
  "slot-expired": "Your time to pay is over.",
  "payment-in-progress": "A payment is in progress already.",
  "too-many-payments": "There were too many attempts to pay for this slot.",
  "too-many-requests": "Too many requests. Wait a moment.",
};

$("buy-button").onclick = () => run(async () => {
  // One key for one wish to buy: if the response is lost, the repetition gets the
  // same slot instead of a refusal.
  const headers = { "Idempotency-Key": crypto.randomUUID() };
  const slot = await persist(() => command("POST", "/v1/slots/acquire", { body: { productId: product }, headers }));
  state.slots.set(slot.id, slot);
});

$("pay-button").onclick = () => run(async () => {
  const body = {
    purchaseSlotId: held().id,
    idempotencyKey: crypto.randomUUID(), // stays the same over all repetitions
    amount: state.product.price,
    currency: state.product.currency,
    paymentMethod: "CARD",
    returnUrl: location.origin + location.pathname, // the bank redirects the buyer here
  };
  const payment = await persist(() => command("POST", "/v1/payments", { body }));
  state.follow = payment.id; // its next action may come later, by the stream
  onPayment(payment);
});

$("action-button").onclick = () => follow(pending()?.nextAction);

$("cancel-button").onclick = () => run(async () => {
  state.follow = "";
  await command("DELETE", `/v1/payments/${pending().id}`); // 202: the outcome comes by the stream
});

$("release-button").onclick = () => run(() => command("DELETE", `/v1/slots/${held().id}`));

// follow does what the payment provider wants the buyer to do next.
function follow(action) {
  state.follow = "";
  if (action?.type === "redirect") location.assign(action.url);
  // type "client_secret": confirm with Stripe.js, see docs/stripe.md. This page
  // runs no code of others.
}

// ---- what is shown ----------------------------------------------------------

const ofProduct = status => [...state.slots.values()].find(s => s.productId === product && s.status === status);
const held = () => ofProduct("ACTIVE");
const pending = () => [...state.payments.values()].find(p => p.paymentStatus === "PENDING" && p.purchaseSlotId === held()?.id);

function render() {
  const p = state.product, slot = held(), done = ofProduct("COMPLETED"), payment = pending();
  if (p) {
    text("name", p.name);
    text("description", p.description);
    text("price", `${p.price} ${p.currency}`);
    text("stock", p.status === "UPCOMING" ? `${p.totalStock} units` : `${p.stock} of ${p.totalStock} units free`);
    document.title = `${p.name} · Dopamine Store`;
  }
  const untilSale = p ? Date.parse(p.saleDate) - now() : 0;
  // The page opens at the moment of the sale, not when the next event arrives.
  const status = state.deleted ? "DELETED" : p?.status === "UPCOMING" && untilSale <= 0 ? "ON_SALE" : p?.status;
  const mine = Boolean(slot || done);
  show("countdown", status === "UPCOMING" && !mine);
  text("until-sale", clock(untilSale));
  show("buy", status === "ON_SALE" && !mine);
  const closed = { SOLD_OUT: ["Sold out", "All units are taken. A unit that is not paid in time goes back on sale: keep this page open."],
    PAUSED: ["Paused", "The sale goes on in a moment."], ENDED: ["The sale has ended", ""], CANCELLED: ["The sale was cancelled", "Payments are refunded."],
    DELETED: ["There is no such drop", ""] }[status];
  show("closed", closed && !mine);
  text("h-closed", closed?.[0] || "");
  text("closed-text", closed?.[1] || "");

  show("held", slot);
  text("unit", slot?.unit ?? "");
  text("until-deadline", slot ? clock(Date.parse(slot.expirationTimestamp) - now()) : "");
  show("choices", slot && !payment);
  show("paying", payment);
  text("paying-text", payment?.nextAction ? "Your bank asks you to confirm the payment." : "The payment is being processed.");
  show("action-button", payment?.nextAction?.type === "redirect");
  show("done", done);
  text("done-unit", done?.unit ?? "");

  for (const button of document.querySelectorAll("button")) button.disabled = state.busy;
  const slots = [...state.slots.values()].sort((a, b) => b.createdAt.localeCompare(a.createdAt)).slice(0, 10);
  show("own", slots.length);
  const lines = slots.map(s => `${s.productName}, unit ${s.unit}: ${words[s.status] || s.status}`);
  if (lines.join() !== $("slots").dataset.shown) {
    $("slots").dataset.shown = lines.join();
    $("slots").replaceChildren(...lines.map(line => Object.assign(document.createElement("li"), { textContent: line })));
  }
}

const words = { ACTIVE: "reserved", COMPLETED: "paid", EXPIRED: "not paid in time, or given back", RETURNED: "refunded and returned" };

function text(id, value) {
  if ($(id).textContent !== String(value)) $(id).textContent = value; // a screen reader reads changes only
}

function show(id, visible) { $(id).hidden = !visible; }

function say(message) { text("message", message); }

// clock shows milliseconds as [h:]mm:ss, rounded up, so that it ends at 00:00.
function clock(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  const two = n => String(n).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  return (hours ? hours + ":" : "") + two(Math.floor(seconds / 60) % 60) + ":" + two(seconds % 60);
}
