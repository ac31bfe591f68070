"use strict";
// Shared by the other scripts: elements, requests, the signed-in user, and the
// state of the connection.
const $ = id => document.getElementById(id);
const me = { token: "", sub: "", admin: false, buyer: false };

const number = n => n == null ? "–" : Number(n).toLocaleString("en-US");
// If there is little room, large numbers are abbreviated.
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });
const brief = (n, from) => n != null && Math.abs(n) >= from ? compact.format(n) : number(n);
const counted = (n, what) => number(n) + " " + what + (n === 1 ? "" : "s");
const rate = n => n == null ? "–" : n > 0 && n < 10 ? n.toFixed(1) : number(Math.round(n));
const when = iso => iso ? iso.slice(5).replace("T", " ").replace("Z", "") : "";
const left = deadline => {
  const s = Math.max(0, Math.floor((Date.parse(deadline) - now()) / 1000));
  return Math.floor(s / 60) + ":" + String(s % 60).padStart(2, "0");
};

// Offset of the server's clock, from its responses.
let clockAhead = 0;
const now = () => Date.now() + clockAhead;

function el(name, attrs = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attrs)) {
    if (k === "class") e.className = v; else if (k.startsWith("on")) e.addEventListener(k.slice(2), v); else e.setAttribute(k, v);
  }
  e.append(...children.filter(c => c != null));
  return e;
}
const cell = (content, cls) => el("td", cls ? { class: cls } : {}, content ?? "");
const short = id => id ? el("code", { title: id }, id.slice(0, 8)) : "";
const pill = text => text ? el("span", { class: "pill " + text }, text.replaceAll("_", " ").toLowerCase()) : "";
const pair = (name, value, cls) => el("li", cls ? { class: cls } : {}, el("span", {}, name), el("span", {}, value));
// A product's name, at most two lines of it; the title has the whole name.
const named = name => el("span", { class: "clip", title: name }, name);
const replace = (id, rows) => $(id).replaceChildren(...rows);

async function api(path, headers = {}) {
  if (me.token) headers.Authorization = "Bearer " + me.token;
  const resp = await fetch(path, { headers, cache: "no-store" });
  if (resp.ok) return resp;
  let detail = "The server answered " + resp.status;
  try { const p = await resp.json(); detail = p.detail || p.title || detail; } catch { /* no problem document */ }
  const e = new Error(detail); e.status = resp.status; throw e;
}
const json = async path => (await api(path)).json();

// Streams a download into a file and shows the progress.
async function download(path, name, note) {
  try {
    const reader = (await api(path, { Accept: "text/csv" })).body.getReader();
    const pieces = [];
    let bytes = 0;
    for (let r; !(r = await reader.read()).done;) {
      pieces.push(r.value); bytes += r.value.length;
      note.textContent = "Downloading, " + number(Math.round(bytes / 1024)) + " KiB";
    }
    const a = el("a", { href: URL.createObjectURL(new Blob(pieces, { type: "text/csv" })), download: name });
    document.body.append(a); a.click(); a.remove();
    setTimeout(() => URL.revokeObjectURL(a.href), 10000);
    note.textContent = "Downloaded " + name + ", " + number(Math.ceil(bytes / 1024)) + " KiB.";
  } catch (e) { note.textContent = e.message; }
}

function claims(token) {
  const part = token.split(".")[1];
  if (!part) throw new Error("That is no token: it has three parts with dots between them.");
  let c;
  try {
    const bytes = Uint8Array.from(atob(part.replaceAll("-", "+").replaceAll("_", "/")), c => c.charCodeAt(0));
    c = JSON.parse(new TextDecoder().decode(bytes));
  } catch { throw new Error("That is no token: its middle part cannot be read."); }
  if (c.exp && c.exp * 1000 < Date.now()) throw new Error("That token has expired: get a new one.");
  return c;
}

function signIn(token) {
  const c = claims(token), roles = c.roles || [];
  Object.assign(me, { token, sub: c.sub || "", admin: roles.includes("admin"), buyer: roles.includes("buyer") });
  if (!me.admin && !me.buyer) throw new Error("That token has neither the role buyer nor admin: what anybody may see is below.");
  $("who").textContent = roles.join(", ") + " " + me.sub.slice(0, 8);
  $("signout").hidden = false; $("signin-box").hidden = true; $("token").value = "";
  reveal();
  start();
}

function signOut(why) {
  halt();
  Object.assign(me, { token: "", sub: "", admin: false, buyer: false });
  $("who").textContent = "nobody signed in"; $("signout").hidden = true; $("signin-box").hidden = false;
  $("token").value = ""; $("signin-error").textContent = why || "";
  reveal();
  refresh();
}

// Shows what the roles may see.
function reveal() {
  for (const id of ["now", "nav-now", "expiring-box", "money-box", "nav-money", "audit-box", "nav-audit"]) $(id).hidden = !me.admin;
  for (const id of ["purchases-box", "nav-purchases"]) $(id).hidden = !me.admin && !me.buyer;
  for (const id of ["mine", "nav-mine"]) $(id).hidden = !me.buyer;
  $("products-box").classList.toggle("wide", !me.admin);
}

function connection(state, text) {
  const c = $("conn");
  if (c.dataset.state === state && c.textContent === text) return;
  c.dataset.state = state; c.textContent = text;
}
function connected(state, seconds) {
  switch (state) {
  case "refused": signOut("The server does not take the token any more: it may have expired. Sign in with a new one."); break;
  case "live": connection("live", "live"); break;
  default: connection("lost", "connection lost, next try in " + seconds + " s");
  }
}
