"use strict";
// Charts by uPlot, in the colours of the theme.
const ink = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const chartFont = "11px system-ui, sans-serif";
const axis = more => ({ stroke: ink("--soft"), grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false }, font: chartFont,
  size: 52, gap: 6, values: (_, v) => v.map(n => n == null || n % 1 ? "" : brief(n, 1e5)), ...more });
const fromZero = { range: (_, lo, hi) => [0, Math.max(4, (hi || 0) * 1.08)] };
const clockTime = (_, v) => v.map(t => new Date(t * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: v.length > 1 && v[1] - v[0] < 60 ? "2-digit" : undefined }));
const line = (color, more) => ({ stroke: ink(color), width: 1.75, points: { show: false }, ...more });

const charts = new Map(); // by the id of their element
function draw(id, data, options) {
  const host = $(id);
  let c = charts.get(id);
  if (!c) {
    c = new uPlot({ width: Math.max(host.clientWidth, 160), height: host.clientHeight, legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } }, padding: [8, 0, 0, 0], ...options() }, data, host);
    charts.set(id, c);
    const tip = el("div", { class: "tip" });
    host.append(tip);
    c.over.addEventListener("mouseleave", () => tip.textContent = "");
    c.over.addEventListener("mousemove", () => {
      const i = c.cursor.idx;
      tip.textContent = i == null ? "" : c.series.slice(1).map((s, n) => c.data[n + 1][i] == null || !s.label ? null : s.label + " " + rate(c.data[n + 1][i])).filter(Boolean).join("   ");
    });
    return;
  }
  c.setData(data);
}
function undraw(id) {
  charts.get(id)?.destroy(); charts.delete(id); $(id).replaceChildren();
}
addEventListener("resize", () => {
  for (const [id, c] of charts) c.setSize({ width: Math.max($(id).clientWidth, 160), height: $(id).clientHeight });
});
