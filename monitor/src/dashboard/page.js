// The dashboard. It follows /events and draws what it is told; it computes nothing that the monitor could say.
// Data reach the page as text nodes and attributes only, never as markup.
"use strict";

const STALE_AFTER_MS = 3000;
const SERVICES_SHOWN = 60;
const SVG = "http://www.w3.org/2000/svg";
const PHASES = [
  ["detected", "the loss was certain"],
  ["decided", "it was decided who takes over"],
  ["published", "the decision stood in ZooKeeper"],
  ["promoted", "the replica was primary"],
  ["announced", "everybody was told"],
];

const model = {
  status: null, peers: null, history: [], historyOf: null, historyError: null, chosen: null,
  service: named(), filter: "", heard: performance.now(), everHeard: false,
};
/** The service in the address of the page. */
function named() {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
}
const $ = (id) => document.getElementById(id);

// ---- small helpers ------------------------------------------------------------------------------------------------

function h(name, attributes = {}, ...children) {
  return build(document.createElement(name), attributes, children);
}
function s(name, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, name), attributes, children);
}
function build(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}
const drawn = new Map();
/** Draws a part anew only when what it shows has changed, so that focus and selection stay. */
function part(id, shown, draw) {
  const text = JSON.stringify(shown);
  if (drawn.get(id) === text) return;
  drawn.set(id, text);
  const made = draw();
  $(id).replaceChildren(...(Array.isArray(made) ? made : [made]).filter((child) => child !== null && child !== ""));
}
const bytes = (n) => n === null || n === undefined ? "" :
  n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(1)} GB`;
const millis = (n) => n === null || n === undefined ? "" : n < 100 ? `${n.toFixed(1)} ms` : n < 10000 ? `${Math.round(n)} ms` : `${(n / 1000).toFixed(1)} s`;
const span = (ms) => ms < 120000 ? `${Math.floor(ms / 1000)} s` : `${Math.floor(ms / 60000)} min`;
const addr = (text) => h("span", { class: "addr" }, text ?? "nobody");
function moment(ms, long) {
  if (!ms) return "";
  const at = new Date(ms), two = (n) => String(n).padStart(2, "0");
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const today = at.toDateString() === new Date().toDateString();
  return today && !long ? clock : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock}`;
}

// ---- what is told -------------------------------------------------------------------------------------------------

function follow() {
  const stream = new EventSource("events");
  const heard = () => { model.heard = performance.now(); model.everHeard = true; };
  stream.addEventListener("alive", heard);
  stream.addEventListener("status", (event) => { heard(); model.status = JSON.parse(event.data); render(); });
  stream.addEventListener("peers", (event) => { model.peers = JSON.parse(event.data).peers; render(); });
  stream.addEventListener("decision", (event) => { decided(JSON.parse(event.data)); });
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 2000); // the browser tries again by itself otherwise
  });
}

function decided(record) {
  if (record.service !== model.service) return;
  delete record.service;
  const last = model.history[0];
  const again = record.refused && last && last.what === record.what && last.why === record.why;
  if (!again) model.history = [record, ...model.history];
  model.chosen = null;
  render();
  setTimeout(loadHistory, 1500); // as it stands in ZooKeeper by then
}

let again = null;
async function loadHistory() {
  const service = model.service;
  if (!service) return;
  clearTimeout(again);
  try {
    const answer = await fetch(`services/${encodeURIComponent(service)}/history`, { cache: "no-store" });
    const said = await answer.json();
    if (service !== model.service) return;
    if (answer.ok) [model.history, model.historyError] = [said, null];
    else model.historyError = said.error.message;
  } catch {
    model.historyError = "the monitor does not answer";
  }
  if (model.historyError) again = setTimeout(loadHistory, 2000);
  render();
}

function current() {
  const services = model.status?.services ?? [];
  return services.find((service) => service.service === model.service) ?? services[0] ?? null;
}

let known = "";
function render() {
  const service = current();
  model.service = service?.service ?? model.service;
  const now = service ? `${service.service} ${service.epoch} ${service.phase} ${Boolean(service.paused)}` : "";
  if (now !== known) {
    if (model.historyOf !== model.service) [model.history, model.chosen, model.historyOf] = [[], null, model.service];
    known = now;
    setTimeout(loadHistory, 50);
    setTimeout(loadHistory, 1200); // a record is written after the announcement
  }
  header();
  alarms();
  navigation();
  $("content").hidden = !service;
  if (!service) return;
  verdict(service);
  topology(service);
  members(service);
  past();
  flow();
  peers(service);
}

// ---- who, and whether that is the present -------------------------------------------------------------------------

function header() {
  const status = model.status;
  if (!status) return;
  const me = status.monitors.find((monitor) => monitor.name === status.me) ?? status.monitors[0];
  const leads = status.leader === status.me ? "leads" : status.leader ? `${status.leader} leads` : "nobody leads";
  part("who", [me.name, me.state, leads], () => `monitor ${me.name}, ${me.state}: ${leads}`);
  document.title = `${trouble() ? "! " : ""}Albireo: ${me.name}`;
}
const trouble = () => (model.status?.services ?? []).some(inTrouble);

function pulse() {
  const age = performance.now() - model.heard;
  const feed = !model.everHeard && age < STALE_AFTER_MS ? "connecting" : age > STALE_AFTER_MS ? "stale" : "live";
  document.body.dataset.feed = feed;
  const text = feed === "stale" ? `silent for ${span(age)}` : feed;
  if ($("pulse-text").textContent !== text) $("pulse-text").textContent = text;
  alarms();
}

function alarms() {
  const all = [], age = performance.now() - model.heard, status = model.status;
  if (age > STALE_AFTER_MS) {
    all.push(`STALE: nothing was heard from this monitor for ${span(age)}. ${status ? "What you see is the past." : ""}`);
  } else if (status) {
    const me = status.monitors.find((monitor) => monitor.name === status.me);
    const away = Math.max(0, ...status.services.map((service) => service.age_ms ?? 0));
    if (me && me.zookeeper === false) {
      const since = away > 0 ? ` for ${span(away)}` : "";
      all.push(`ZooKeeper does not answer this monitor${since}. What is published stays in force; no failover is possible.`);
    }
    if (me?.stood_still) {
      all.push(`This monitor itself stood still for ${millis(me.stood_still.ms)} until ${moment(me.stood_still.when_ms)}: too little processor or memory for it. What it hears of servers since then counts anew.`);
    }
    if (!status.leader) all.push("No monitor leads: nobody would act if a primary died.");
    const silent = status.monitors.find((monitor) => monitor.state === "SILENT");
    if (silent) all.push(`The peer monitor${silent.name && silent.name !== status.me ? ` ${silent.name}` : ""} is silent.`);
  }
  part("alarms", all, () => all.map((text) => h("p", { class: "alarm" }, text)));
}

const inTrouble = (service) => service.phase !== "serving" || Boolean(service.paused) || !service.risk?.takes_over ||
  service.members.some((member) => !member.up || (!member.recorded_primary && !member.in_sync));

function navigation() {
  const all = model.status?.services ?? [];
  const wanted = all.filter((service) => service.service.includes(model.filter));
  wanted.sort((a, b) => inTrouble(b) - inTrouble(a) || (a.service < b.service ? -1 : 1));
  const shown = wanted.slice(0, SERVICES_SHOWN).map((service) => [service.service, inTrouble(service)]);
  $("services").hidden = all.length < 2;
  if (all.length < 2) return;
  const typing = document.activeElement?.id === "filter";
  part("services", [shown, wanted.length, model.service], () => {
    const filter = h("input", { id: "filter", type: "search", placeholder: "find a service", "aria-label": "find a service",
      input: (event) => { model.filter = event.target.value; render(); } });
    filter.value = model.filter;
    const buttons = shown.map(([name, bad]) => h("button", { type: "button", class: bad ? "trouble" : "",
      "aria-current": String(name === model.service), click: () => choose(name) }, h("span", { class: "dot" }), name));
    const more = wanted.length - shown.length;
    return [all.length > 8 ? filter : "", ...buttons, more > 0 ? h("span", { class: "more" }, `and ${more} more`) : ""];
  });
  if (typing) $("filter")?.focus();
}

function choose(name) {
  model.service = name;
  location.hash = encodeURIComponent(name);
  $("outcome").textContent = "";
  render();
}

// ---- the first five seconds ---------------------------------------------------------------------------------------

function verdict(service) {
  const shown = [service.service, service.primary, service.phase];
  $("verdict").className = service.primary ? "" : "nobody";
  part("verdict", shown, () => service.primary
    ? [addr(service.primary), service.phase === "promoting" ? ` becomes primary of ${service.service}` : ` is primary of ${service.service}`]
    : [`${service.service} has no primary`]);
  const inSync = service.in_sync.length;
  const facts = [`epoch ${service.epoch}`, service.phase, `${inSync} in sync`, service.durability ? `durability ${service.durability}` : ""];
  part("facts", facts, () => facts.filter(Boolean).join(" · "));

  const risk = service.risk;
  $("risk").className = !risk ? "unknown" : risk.takes_over ? "" : "danger";
  part("risk", risk?.text ?? null, () => risk?.text ?? "There is no record yet, so nobody could take over.");
  part("because", service.because, () => `Why: ${service.because}`);

  $("paused").hidden = !service.paused;
  if (service.paused) {
    const { since_ms, by } = service.paused, when = moment(since_ms, true);
    part("paused", [since_ms, by], () => `PAUSED${when ? ` since ${when}` : ""}${by ? ` by ${by}` : ""}: no failover happens until it is resumed.`);
  }
  actions(service);
}

// ---- topology -----------------------------------------------------------------------------------------------------

function topology(service) {
  const width = Math.max(280, Math.floor($("map").clientWidth));
  const monitors = model.status.monitors.filter((monitor) => monitor.role !== "observer").slice(0, 3);
  const me = model.status.monitors.find((monitor) => monitor.name === model.status.me);
  const shown = [width, service.members, service.primary, service.phase, monitors, me?.zookeeper, model.status.leader];
  part("map", shown, () => width < 640 ? tall(service, monitors, me, width) : broad(service, monitors, me, width));
}

const fits = (text, room, size) => {
  const most = Math.max(4, Math.floor(room / size));
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
};

const roomless = (member) => member.health === "misconf" || member.health === "oom";

function condition(member) {
  if (!member.up) return ["down", "bad", member.health === "unknown" ? "not heard of yet" : `down: ${member.health}`];
  if (roomless(member)) return [member.recorded_primary ? "primary" : "replica", "unsure", `no room for writes: ${member.health}`];
  if (member.recorded_primary) return ["primary", "good", member.role === "primary" ? "primary" : `recorded primary, is ${member.role}`];
  if (!member.in_sync) return ["out", "unsure", member.why ?? "not in sync"];
  return ["replica", "good", "replica, in sync"];
}

function node(member, x, y, width) {
  const [kind, dot, words] = condition(member);
  return s("g", {}, s("title", {}, `${member.addr}: ${words}`),
    s("rect", { class: `node ${kind}`, x, y, width, height: 58, rx: 13 }),
    s("circle", { class: dot, cx: x + 20, cy: y + 21, r: 5 }),
    s("text", { class: "addr", x: x + 34, y: y + 26 }, fits(member.addr, width - 44, 8.6)),
    s("text", { class: "soft", x: x + 34, y: y + 45 }, fits(words, width - 44, 6.3)));
}

function link(member) {
  if (!member.up) return "cut";
  return member.in_sync ? "" : "out";
}

function lagLabel(member, x, y) {
  const text = !member.up ? "no answer" : member.lag_bytes === null ? "not attached" : `${bytes(member.lag_bytes)} behind`;
  const width = text.length * 6.6 + 18;
  return s("g", {}, s("rect", { class: "pill", x: x - width / 2, y: y - 12, width, height: 24, rx: 12 }),
    s("text", { class: "soft", x, y: y + 4, "text-anchor": "middle" }, text));
}

function monitorRow(monitors, me, width) {
  const alive = (monitor) => monitor.state !== "SILENT";
  const boxes = [...monitors];
  const parts = [["monitor", boxes[0]], ["store", null], ...boxes.slice(1).map((monitor) => ["monitor", monitor])];
  const gap = width < 640 ? 8 : 46, room = (width - gap * (parts.length - 1)) / parts.length, w = Math.min(room, 250);
  const start = (width - w * parts.length - gap * (parts.length - 1)) / 2, out = [];
  let lead = null;
  parts.forEach(([kind, monitor], at) => {
    const x = start + at * (w + gap), middle = x + w / 2;
    if (at > 0) {
      const cut = kind === "monitor" ? !alive(monitor) : me?.zookeeper === false;
      out.unshift(s("line", { class: `link thin ${cut ? "cut" : ""}`, x1: x - gap, y1: 25, x2: x, y2: 25 }));
    }
    if (kind === "store") {
      const well = me?.zookeeper !== false;
      out.push(s("rect", { class: `node ${well ? "" : "down"}`, x, y: 2, width: w, height: 46, rx: 23 }),
        s("text", { x: middle, y: 21, "text-anchor": "middle" }, fits("ZooKeeper", w - 12, 7.2)),
        s("text", { class: "soft", x: middle, y: 38, "text-anchor": "middle" }, well ? "answers" : "no answer"));
      return;
    }
    const leads = monitor.active && monitor.name === model.status.leader;
    if (leads) lead = middle;
    const state = `${monitor.state ?? ""}${leads ? (w > 150 ? ", leads" : "") : ""}`;
    out.push(s("g", {}, s("title", {}, `monitor ${monitor.name ?? "unknown"}: ${monitor.state ?? ""}${leads ? ", leads" : ""}`),
      s("rect", { class: `node ${leads ? "active" : alive(monitor) ? "" : "down"}`, x, y: 2, width: w, height: 46, rx: 23 }),
      s("text", { x: middle, y: 21, "text-anchor": "middle" }, fits(w > 150 ? `monitor ${monitor.name ?? "?"}` : monitor.name ?? "?", w - 20, 7.2)),
      s("text", { class: "soft", x: middle, y: 38, "text-anchor": "middle" }, fits(state, w - 16, 7))));
  });
  return [out, lead];
}

function split(service) {
  const primary = service.members.find((member) => member.recorded_primary) ?? null;
  return [primary, service.members.filter((member) => member !== primary)];
}

function broad(service, monitors, me, width) {
  const [primary, replicas] = split(service), [row, lead] = monitorRow(monitors, me, width);
  const step = 76, top = 92, boxes = Math.max(1, replicas.length), height = top + boxes * step;
  const box = Math.min(270, width * 0.34), x1 = 8, x2 = width - box - 8, middle = top + (boxes * step - 18) / 2;
  const lines = [], labels = [], nodes = [];
  if (primary) nodes.push(node(primary, x1, middle - 29, box));
  replicas.forEach((member, at) => {
    const y = top + at * step + 29, from = x1 + box, to = x2 - 9, bend = (to - from) * 0.45, kind = link(member);
    nodes.push(node(member, x2, y - 29, box));
    if (!primary) return;
    lines.push(s("path", { class: `link ${kind}`, d: `M${from} ${middle} C${from + bend} ${middle} ${to - bend} ${y} ${to} ${y}` }),
      s("path", { class: `head ${kind}`, d: `M${x2 - 1} ${y} l-11 -5.5 v11 z` }));
    labels.push(lagLabel(member, from + (to - from) * 0.68, middle + (y - middle) * 0.82));
  });
  if (primary && lead !== null) {
    lines.unshift(s("path", { class: "link thin", d: `M${lead} 48 C${lead} 78 ${x1 + box / 2} 62 ${x1 + box / 2} ${middle - 29}` }));
  }
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken(service) }, lines, row, nodes, labels);
}

function tall(service, monitors, me, width) {
  const [primary, replicas] = split(service), [row] = monitorRow(monitors, me, width);
  const step = 96, top = 72, height = top + 62 + replicas.length * step, lines = [], labels = [], nodes = [];
  if (primary) nodes.push(node(primary, 0, top, width));
  replicas.forEach((member, at) => {
    const y = top + 62 + at * step + 34, kind = link(member), x = 34;
    nodes.push(node(member, x, y, width - x));
    if (!primary) return;
    const from = at === 0 ? top + 58 : y - step + 19;
    lines.push(s("path", { class: `link ${kind}`, d: `M14 ${from} V${y + 20} q0 9 9 9 h2` }),
      s("path", { class: `head ${kind}`, d: `M${x - 1} ${y + 29} l-11 -5.5 v11 z` }));
    labels.push(lagLabel(member, 92, y - 17));
  });
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken(service) }, lines, row, nodes, labels);
}

const spoken = (service) => service.members.map((member) => `${member.addr}: ${condition(member)[2]}`).join("; ");

function members(service) {
  part("members", service.members, () => [
    h("thead", {}, h("tr", {}, ...["Server", "Role", "In sync", "Lag", "Health", "May take over"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, service.members.map((member) => {
      const primary = member.recorded_primary;
      const takes = primary ? member.why ?? "is primary" : member.eligible ? (member.why ? `yes; ${member.why}` : "yes") : `no: ${member.why ?? "not known"}`;
      return h("tr", {}, h("td", { class: "addr" }, member.addr), h("td", { class: "short" }, member.role),
        h("td", { class: primary ? "" : member.in_sync ? "good" : "bad" }, primary ? "" : member.in_sync ? "yes" : "no"),
        h("td", { class: "short" }, bytes(member.lag_bytes)), h("td", { class: member.up && !roomless(member) ? "short" : "short bad" }, member.health),
        h("td", { class: primary ? "quiet" : member.eligible ? "good" : "" }, takes));
    })),
  ]);
}

// ---- decisions ----------------------------------------------------------------------------------------------------

const key = (record) => `${record.when_ms} ${record.epoch} ${record.what}`;
const kind = (record) => record.refused ? "refusal" : record.what.startsWith("switchover") ? "switchover" :
  record.what === "failover" || record.what === "cold start" ? "failover" : "other";
const took = (record) => record.phases?.announced_ms ?? null;
const chosen = () => model.history.find((record) => key(record) === model.chosen) ??
  model.history.find((record) => took(record) !== null) ?? model.history[0] ?? null;
function pick(record) { model.chosen = key(record); render(); }

function past() {
  const shown = [model.history, model.historyError, chosen() && key(chosen()), $("chart").clientWidth];
  part("chart", shown, () => chart(Math.max(240, $("chart").clientWidth)));
  part("past", shown.slice(0, 3), () => {
    if (model.historyError) return h("li", { class: "bad-text" }, `The history is not to be had: ${model.historyError}`);
    if (!model.history.length) return h("li", { class: "quiet" }, "Nothing was decided yet.");
    return model.history.map((record) => {
      const way = record.from && record.to ? [" ", addr(record.from), " → ", addr(record.to)] : record.member ? [" ", addr(record.member)] : [];
      const times = record.times > 1 ? ` (${record.times} times)` : "";
      return h("li", {}, h("button", { type: "button", "aria-pressed": String(chosen() === record), click: () => pick(record) },
        h("span", { class: "time" }, moment(record.when_ms)),
        h("span", { class: `what ${record.refused ? "refused" : ""}` }, record.what + times, ...way),
        h("span", { class: "took" }, millis(took(record)))));
    });
  });
}

/** One bar for each decision, the newest on the right: how long it took, and of what kind it was. */
function chart(width) {
  const records = model.history.slice(0, 100).reverse(), height = 150, left = 46, bottom = 22, top = 8;
  if (!records.length) return "";
  const room = height - top - bottom, step = Math.min(34, (width - left) / records.length);
  // By powers of ten from 1 ms: one failover that took long must not flatten all others.
  const powers = Math.max(2, Math.ceil(Math.log10(Math.max(1, ...records.map((record) => took(record) ?? 0)))));
  const tallness = (ms) => room * Math.log10(Math.max(1, ms)) / powers;
  const grid = Array.from({ length: powers + 1 }, (_, power) => [10 ** power, top + room - tallness(10 ** power)]).map(([ms, y]) => [
    s("line", { class: "grid", x1: left, x2: width, y1: y, y2: y }),
    s("text", { class: "soft", x: left - 8, y: y + 4, "text-anchor": "end" }, ms < 1000 ? `${ms} ms` : `${ms / 1000} s`)]);
  const bars = records.map((record, at) => {
    const x = left + at * step, ms = took(record), high = ms === null ? 6 : Math.max(3, tallness(ms));
    const label = `${moment(record.when_ms, true)}: ${record.what}${ms === null ? "" : `, ${millis(ms)}`}`;
    return s("g", { class: `bar ${chosen() === record ? "chosen" : ""}`, click: () => pick(record) }, s("title", {}, label),
      s("rect", { class: "hit", x, y: top, width: step, height: room }),
      s("rect", { class: `fill ${kind(record)}`, x: x + step * 0.14, y: top + room - high, width: step * 0.72, height: high, rx: Math.min(3, step / 4) }));
  });
  const first = moment(records[0].when_ms), last = moment(records.at(-1).when_ms);
  const end = left + records.length * step, wide = records.length * step > 150;
  const labels = [s("text", { class: "soft", x: left, y: height - 4 }, first),
    wide ? s("text", { class: "soft", x: end, y: height - 4, "text-anchor": "end" }, last) : ""];
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${records.length} decisions` }, grid, bars, labels);
}

function phases(record) {
  let before = 0;
  return PHASES.flatMap(([name, what], at) => {
    const end = record.phases?.[`${name}_ms`];
    if (end === undefined) return [];
    const phase = { name, what, className: `p${at + 1}`, begin: Math.min(before, end), end, own: Math.max(0, end - before) };
    before = Math.max(before, end);
    return [phase];
  });
}

function flow() {
  const record = chosen(), width = Math.max(240, $("flow").clientWidth);
  part("flow-head", [record?.when_ms, record?.why, record?.what], () => !record ? h("p", { class: "quiet" }, "No decision yet.") : [
    h("p", {}, h("strong", {}, record.what), record.from && record.to ? [" from ", addr(record.from), " to ", addr(record.to)] : "",
      ` · epoch ${record.epoch} · ${moment(record.when_ms, true)}`),
    h("p", { class: "why" }, record.why),
  ]);
  part("flow", [width, record?.phases], () => record && phases(record).length ? timeline(phases(record), width) : "");
  part("flow-detail", [record?.phases, record?.saw, record?.candidates, record?.lost_bytes_seen], () => record ? details(record) : "");
}

function timeline(all, width) {
  const total = Math.max(...all.map((phase) => phase.end), 0.1), x = (ms) => 2 + (width - 4) * ms / total;
  const bars = all.map((phase) => s("g", {}, s("title", {}, `${phase.name}: ${millis(phase.own)}`),
    s("rect", { class: phase.className, x: x(phase.begin), y: 22, width: Math.max(1.5, x(phase.end) - x(phase.begin)), height: 30, rx: 3 })));
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => s("text", { class: "soft", x: x(total * share), y: 70,
    "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" }, millis(total * share)));
  return s("svg", { viewBox: `0 0 ${width} 76`, role: "img", "aria-label": `${millis(total)} from the loss to the announcement` },
    s("text", { class: "soft", x: 2, y: 13 }, "primary lost"), s("text", { class: "soft", x: width - 2, y: 13, "text-anchor": "end" }, "announced"), bars, ticks);
}

function details(record) {
  const out = [], all = phases(record);
  if (all.length) {
    out.push(h("div", { class: "legend" }, all.flatMap((phase) => [h("span", { class: `swatch ${phase.className}` }),
      h("span", {}, phase.name, h("span", { class: "quiet" }, ` ${phase.what}`)),
      h("span", { class: "number" }, `+${millis(phase.own)}`), h("span", { class: "number quiet" }, millis(phase.end))])));
  }
  if (record.lost_bytes_seen !== null && record.lost_bytes_seen !== undefined) {
    out.push(h("h4", {}, "What writers that wait for no copy may have lost"),
      h("p", {}, `${bytes(record.lost_bytes_seen)} that the old primary was seen to have beyond the new one`));
  }
  const table = (title, rows) => out.push(h("h4", {}, title), h("table", {}, h("tbody", {}, rows)));
  if (record.saw?.length) {
    table("What each observer saw of the old primary", record.saw.map((one) => h("tr", {}, h("td", { class: "mono short" }, one.who), h("td", {}, one.saw))));
  }
  if (record.candidates?.length) {
    table("Who could take over", record.candidates.map((one) => h("tr", {}, h("td", { class: "addr" }, one.addr),
      h("td", { class: one.eligible ? "good" : "" }, one.eligible ? "eligible" : one.why))));
  }
  return out;
}

// ---- the other monitor --------------------------------------------------------------------------------------------

function peers(service) {
  const all = (model.peers ?? []).map((peer) => {
    const theirs = peer.status?.services?.find((other) => other.service === service.service) ?? null;
    return { name: peer.name, error: peer.error, theirs };
  });
  part("peers", [service, all], () => {
    if (!all.length) return h("p", { class: "quiet" }, "No other monitor is known.");
    return all.map(({ name, error, theirs }) => {
      if (error) return h("p", { class: "bad-text" }, `${name} was not heard: ${error}`);
      if (!theirs) return h("p", { class: "bad-text" }, `${name} does not watch this service.`);
      return comparison(name, service, theirs);
    });
  });
}

function comparison(name, ours, theirs) {
  const health = (service, at) => {
    const member = service.members.find((one) => one.addr === at);
    return !member ? "not a member" : `${member.role}, ${member.health}`;
  };
  const rows = [["primary", ours.primary, theirs.primary], ["epoch", ours.epoch, theirs.epoch], ["phase", ours.phase, theirs.phase],
    ["in sync", [...ours.in_sync].sort().join(", "), [...theirs.in_sync].sort().join(", ")],
    ...ours.members.map((member) => [member.addr, health(ours, member.addr), health(theirs, member.addr)])];
  const differ = rows.filter(([, a, b]) => a !== b).length;
  return h("div", {}, h("p", { class: differ ? "differs" : "" }, differ ? `${name} sees ${differ === 1 ? "one thing" : `${differ} things`} otherwise.` : `${name} sees the same.`),
    h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, ""), h("th", { scope: "col" }, model.status.me), h("th", { scope: "col" }, name))),
      h("tbody", {}, rows.map(([what, a, b]) => h("tr", {}, h("td", { class: "quiet short" }, what), h("td", { class: "text" }, String(a ?? "nobody")),
        h("td", { class: a === b ? "text" : "text differs" }, String(b ?? "nobody"))))),
    ));
}

// ---- what an operator may ask for ---------------------------------------------------------------------------------

const VERBS = {
  switchover: { title: "Switchover", text: "The primary moves to a replica. Writers are held for some milliseconds; no write is lost. What cannot be done so changes nothing." },
  failover: { title: "Failover", text: "A replica takes over at once, whether the primary lives or not. Writes that waited for no copy may be lost." },
  pause: { title: "Pause", text: "For maintenance: nobody is promoted, demoted or re-pointed until it is resumed, also if the primary dies." },
  resume: { title: "Resume", text: "Failover is on again." },
};

function actions(service) {
  const status = model.status, leads = status.leader === status.me;
  const leader = status.monitors.find((monitor) => monitor.name === status.leader);
  part("actions", [leads, service.service, Boolean(service.paused), leader?.admin], () => {
    if (!leads) {
      const where = leader?.admin ? h("a", { href: `http://${leader.admin}/#${encodeURIComponent(service.service)}` }, leader.name) : leader?.name ?? null;
      return where ? h("p", {}, "This monitor does not lead. To change something, ask ", where, ".") : "";
    }
    const verbs = ["switchover", "failover", service.paused ? "resume" : "pause"];
    return verbs.map((verb) => h("button", { type: "button", id: `do-${verb}`, click: () => open(verb) }, `${VERBS[verb].title}…`));
  });
}

let asking = null;
function open(verb) {
  const service = current(), { title, text } = VERBS[verb], moves = verb === "switchover" || verb === "failover";
  asking = { verb, service: service.service };
  $("outcome").textContent = "";
  $("dialog-title").textContent = `${title} of ${service.service}`;
  $("dialog-text").textContent = text;
  $("confirm").textContent = title;
  $("dialog-error").textContent = "";
  $("target-row").hidden = !moves;
  $("loss-row").hidden = verb !== "failover";
  $("token-row").hidden = true;
  $("loss").checked = false;
  $("token").value = "";
  const replicas = service.members.filter((member) => !member.recorded_primary);
  $("target").replaceChildren(h("option", { value: "" }, "the best one"),
    ...replicas.map((member) => h("option", { value: member.addr }, `${member.addr}${member.eligible ? "" : " (not eligible)"}`)));
  $("dialog").showModal();
}

async function confirm() {
  const { verb, service } = asking, to = $("target").value, body = {};
  if (!$("target-row").hidden && to) body.to = to;
  if (verb === "failover" && $("loss").checked) body.accept_loss = true;
  const given = $("token").value.trim(), token = given || sessionStorage.getItem("albireo-token");
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  $("confirm").disabled = true;
  $("dialog-error").textContent = "";
  try {
    const page = `services/${encodeURIComponent(service)}/${verb}`;
    const answer = await fetch(page, { method: "POST", headers, body: JSON.stringify(body) });
    const said = await answer.json().catch(() => ({}));
    if (answer.status === 401) return unauthorized(Boolean(token), said);
    if (given) sessionStorage.setItem("albireo-token", given);
    $("dialog").close();
    outcome(verb, answer.ok, said);
  } catch (problem) {
    $("dialog-error").textContent = `The monitor could not be asked: ${problem.message}`;
  } finally {
    $("confirm").disabled = false;
  }
}

function unauthorized(wrong, said) {
  sessionStorage.removeItem("albireo-token");
  const needed = said.error?.message ?? "a token is needed";
  $("dialog-error").textContent = wrong ? `Refused: that token is not the right one.` : `Refused: ${needed}.`;
  $("token-row").hidden = false;
  $("token").value = "";
  $("token").focus();
}

function outcome(verb, good, said) {
  const took = said.phases?.announced_ms, title = VERBS[verb].title;
  $("outcome").className = good ? "good" : "bad";
  $("outcome").textContent = good ? `Done: ${said.done ?? title}${took === undefined ? "" : `, in ${millis(took)}`}.`
    : `${title} was not done: ${said.error?.message ?? "no reason was given"}.`;
}

// ---- begin --------------------------------------------------------------------------------------------------------

$("cancel").addEventListener("click", () => $("dialog").close());
$("confirm").addEventListener("click", confirm);
$("token").addEventListener("keydown", (event) => { if (event.key === "Enter") confirm(); });
window.addEventListener("hashchange", () => { model.service = named(); render(); });
new ResizeObserver(() => { if (model.status) render(); }).observe($("content"));
setInterval(pulse, 250);
pulse();
follow();
