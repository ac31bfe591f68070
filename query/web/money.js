"use strict";
// Payments and refunds that wait for an operator, the oldest first. The page shows
// them; resolving one is a command with an actor and a note, and not made here.
const moneyShown = 100;

async function waitingMoney() {
  if (!me.admin) return;
  try {
    const page = await json("/v1/operations/money?limit=" + moneyShown);
    keep("money", page.items, i => [i.paymentId, i.refundId, i.cause, i.code, i.since].join(), i => el("tr", {},
      cell(when(i.since)), cell(pill(i.cause)), cell(i.code), cell(el("code", {}, i.paymentId)), cell(short(i.refundId))), () => {});
    $("money-note").textContent = page.items.length === 0 ? "Nothing waits."
      : page.nextCursor ? "The oldest " + moneyShown + " are shown." : counted(page.items.length, "item") + ".";
  } catch (e) { $("money-note").textContent = e.message; }
}
