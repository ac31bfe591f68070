"use strict";
const handle = (id, event, f) => $(id).addEventListener(event, e => { e.preventDefault(); f(); });
handle("signin", "submit", () => {
  $("signin-error").textContent = "";
  try { signIn($("token").value.trim()); } catch (e) { $("signin-error").textContent = e.message; }
});
handle("signout", "click", () => signOut());
handle("chart-all", "click", lookAtAll);
handle("audit-form", "submit", audit);
handle("audit-csv", "click", () => $("audit-form").reportValidity() && download("/v1/audit?" + auditQuery(), "audit.csv", $("audit-note")));
handle("fair-form", "submit", fairness);
handle("purchases-form", "submit", () => purchases());
handle("csv", "click", () => download("/v1/purchases?" + purchaseQuery(), "purchases.csv", $("purchases-note")));

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", dark);
  for (const id of [...charts.keys()]) undraw(id);
  if (stats) drawCharts();
  drawFold();
}
const dark = matchMedia("(prefers-color-scheme: dark)");
$("theme").setAttribute("aria-pressed", dark.matches);
dark.addEventListener("change", () => { if (!document.documentElement.dataset.theme) setTheme(dark.matches); });
handle("theme", "click", () => setTheme($("theme").getAttribute("aria-pressed") !== "true"));

refresh();
setInterval(refresh, 3000);
setInterval(() => { if (me.admin) { health(); waitingMoney(); purchases(true); } }, 5000);
setInterval(() => {
  $("clock").textContent = new Date(now()).toISOString().slice(11, 19) + " UTC";
  drawExpiring(); drawMine();
}, 1000);
