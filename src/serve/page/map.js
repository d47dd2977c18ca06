
// ---- the live thermocline: layers by experts, coloured by heat, the tiers drawn, the experts of the last step lit
const sea = {
  picture: null,
  glow: new Float32Array(0), // by cell: 1 when it was just used, fading
  before: [], // pictures of the last two seconds, for rates
  watching: null, // the AbortController of the stream
  cursor: null, // the cell a reader asks about
  order: [], // by layer: the expert drawn at each place
};
const PLACES = ["on the disk", "in memory", "on the accelerator"];
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

function heatColour(heat) {
  const stops = [[0, 20, 32, 84], [0.3, 24, 92, 148], [0.55, 38, 166, 154], [0.8, 244, 162, 54], [1, 226, 60, 48]];
  const at = Math.sqrt(heat);
  const upper = Math.max(1, stops.findIndex((stop) => at <= stop[0]));
  const [from, to] = [stops[upper - 1], stops[upper]];
  const mix = (at - from[0]) / (to[0] - from[0]);
  return "rgb(" + [1, 2, 3].map((i) => Math.round(from[i] + (to[i] - from[i]) * mix)).join(" ") + ")";
}
const HEAT = Array.from({ length: 256 }, (_, heat) => heatColour(heat / 255));
const heatOf = (picture, layer, expert) => parseInt(picture.heat[layer].substr(2 * expert, 2), 16);
const placeOf = (picture, layer, expert) => +picture.places[layer][expert];

// Pictures are asked for while the panel is open and the page is looked at, and only then.
function watch() {
  const wanted = state.map && document.visibilityState === "visible";
  if (!wanted) sea.watching?.abort();
  else if (!sea.watching) follow();
}
async function follow() {
  const own = (sea.watching = new AbortController());
  let pause = 500;
  while (!own.signal.aborted) {
    try {
      const response = await fetch("thermocline/stream", { headers: headers(), signal: own.signal });
      if (!response.ok) throw new Error(`The map is not to be had: ${response.status} ${response.statusText}`);
      for await (const picture of events(response.body)) {
        pause = 500;
        see(picture);
      }
    } catch (error) {
      if (!own.signal.aborted && !(error instanceof TypeError)) $("sea-figures").replaceChildren(error.message);
    }
    if (!own.signal.aborted) await new Promise((wake) => setTimeout(wake, pause));
    pause = Math.min(2 * pause, 8000);
  }
  if (sea.watching === own) sea.watching = null;
  watch();
}

function see(picture) {
  const { layers, experts } = picture;
  if (sea.glow.length !== layers * experts) sea.glow = new Float32Array(layers * experts);
  if (sea.picture && picture.tokens !== sea.picture.tokens) {
    picture.now.forEach((chosen, layer) => chosen.forEach((expert) => { sea.glow[layer * experts + expert] = 1; }));
  }
  sea.picture = picture;
  sea.before.push([performance.now(), picture]);
  while (sea.before.length > 2 && performance.now() - sea.before[0][0] > 2000) sea.before.shift();
  sort();
  tell(picture);
  paintSea();
  fade();
}
// By tier and heat the line between two tiers shows; by number every expert keeps its place.
function sort() {
  const { layers, experts } = sea.picture;
  sea.order = Array.from({ length: layers }, (_, layer) => {
    const all = Array.from({ length: experts }, (_, expert) => expert);
    const key = (expert) => placeOf(sea.picture, layer, expert) * 256 + heatOf(sea.picture, layer, expert);
    return state.byNumber ? all : all.sort((a, b) => key(b) - key(a) || a - b);
  });
}
let fading = false;
function fade() {
  if (fading || STILL.matches) return;
  fading = true;
  const step = () => {
    let lit = false;
    for (let i = 0; i < sea.glow.length; i += 1) {
      sea.glow[i] = sea.glow[i] > 0.04 ? sea.glow[i] * 0.9 : 0;
      lit ||= sea.glow[i] > 0;
    }
    paintSea();
    fading = lit && !$("sea").hidden;
    if (fading) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

function cellSize() {
  const { layers, experts } = sea.picture;
  const width = $("sea-figures").clientWidth - 20, most = innerWidth > 820 ? 520 : innerHeight / 4;
  const side = Math.min(20, width / experts);
  return [side, Math.max(3, Math.min(side, most / layers))];
}
function paintSea() {
  const canvas = $("sea-map"), picture = sea.picture;
  if (!picture || $("sea").hidden) return;
  const { layers, experts } = picture, [across, down] = cellSize(), scale = devicePixelRatio || 1;
  const width = Math.ceil(across * experts) + 26, height = Math.ceil(down * layers) + 4;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    [canvas.style.width, canvas.style.height] = [width + "px", height + "px"];
  }
  const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--ink"), soft = style.getPropertyValue("--soft");
  const draw = canvas.getContext("2d");
  draw.setTransform(scale, 0, 0, scale, 0, 0);
  draw.clearRect(0, 0, width, height);
  draw.font = "10px " + style.getPropertyValue("--font");
  draw.textAlign = "right";
  const every = layers > 12 ? 4 : 1, gap = across > 5 ? 1 : 0.5;
  for (let layer = 0; layer < layers; layer += 1) {
    const y = 2 + layer * down;
    draw.fillStyle = soft;
    if (layer % every === 0) draw.fillText(layer, 20, y + Math.min(down, 14) / 2 + 4);
    sea.order[layer].forEach((expert, at) => {
      const x = 24 + at * across, place = placeOf(picture, layer, expert), glow = sea.glow[layer * experts + expert];
      draw.fillStyle = HEAT[heatOf(picture, layer, expert)];
      draw.globalAlpha = place ? 1 : 0.28;
      draw.fillRect(x, y, across - gap, down - gap);
      draw.globalAlpha = 1;
      if (glow > 0) {
        draw.globalAlpha = glow;
        draw.fillStyle = "#fff";
        draw.fillRect(x, y, across - gap, down - gap);
        draw.strokeStyle = ink;
        draw.strokeRect(x - 0.25, y - 0.25, across - gap + 0.5, down - gap + 0.5);
        draw.globalAlpha = 1;
      }
    });
  }
  if (!state.byNumber) for (const [tier, colour] of [[2, "#e0a500"], [1, ink]]) staircase(draw, tier, colour, across, down);
  if (sea.cursor) {
    const [layer, at] = sea.cursor;
    draw.lineWidth = 2;
    draw.strokeStyle = style.getPropertyValue("--accent");
    draw.strokeRect(24 + at * across - 1, 2 + layer * down - 1, across + 1, down + 1);
    draw.lineWidth = 1;
  }
}
// Where the experts of a tier and all hotter ones end, in each layer.
function staircase(draw, tier, colour, across, down) {
  const ends = sea.picture.places.map((row) => [...row].filter((place) => +place >= tier).length);
  const { experts } = sea.picture;
  if (ends.every((end) => end === 0) || ends.every((end) => end === experts)) return;
  draw.beginPath();
  ends.forEach((end, layer) => {
    const x = 24 + end * across - 0.5;
    draw.lineTo(x, 2 + layer * down);
    draw.lineTo(x, 2 + (layer + 1) * down);
  });
  draw.lineWidth = 2;
  draw.strokeStyle = colour;
  draw.stroke();
  draw.lineWidth = 1;
}

// ---- the figures beside the map
function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
  const value = bytes / 1024 ** unit;
  return value.toFixed(value < 10 && unit ? 2 : value < 100 && unit ? 1 : 0) + " " + units[unit];
}
const percent = (share) => (100 * share).toFixed(share < 0.9995 ? 1 : 0) + " %";
function tell(picture) {
  const figure = (name, value, note, share) => {
    const made = element("div", { className: "figure" }, element("b", {}, value), element("span", {}, name));
    if (note) made.append(element("small", {}, note));
    if (share !== undefined) made.append(bar([["", share, "var(--accent)"]]));
    return made;
  };
  const out = [];
  const speed = picture.tokens_per_second, expected = picture.predicted_tokens_per_second;
  const { busy, waiting, all } = picture.slots;
  const many = busy > 1 ? `, ${busy} answers together` : "";
  out.push(figure("tokens/s" + many, speed ? speed.toFixed(1) : "–",
    expected ? `${expected.toFixed(1)} were predicted for one answer alone` : `${picture.written} written since the start`,
    expected && busy <= 1 ? Math.min(1, speed / expected) : undefined));
  if (picture.store) {
    const [then, old] = sea.before[0], seconds = (performance.now() - then) / 1000;
    const hits = picture.store.hits - old.store.hits, misses = picture.store.misses - old.store.misses;
    const total = picture.store.hits + picture.store.misses;
    const late = hits + misses ? hits / (hits + misses) : null;
    const share = total ? picture.store.hits / total : 0;
    out.push(figure("of chosen experts were at hand", total ? percent(late ?? share) : "–",
      `${percent(share)} since the start; ${picture.store.slots} of ${picture.layers * picture.experts} fit in memory`, late ?? share));
    const rate = (picture.store.bytes_read - old.store.bytes_read) / Math.max(seconds, 0.1);
    out.push(figure("from the disk", size(rate) + "/s", `${size(picture.store.bytes_read)} since the start; waited ${picture.store.wait_seconds.toFixed(1)} s for it`));
  } else {
    out.push(figure("experts, all in fast memory", String(picture.layers * picture.experts), `${picture.active} of ${picture.experts} a token and layer`));
  }
  out.push(figure("answers being written", `${busy} of ${all}`, waiting ? `${waiting} waiting` : ""));
  $("sea-figures").replaceChildren(...out);
  $("sea-memory").replaceChildren(...memory(picture.memory));
  $("sea-map").setAttribute("aria-label", `${picture.layers} layers of ${picture.experts} experts; arrow keys look at one`);
  $("sea-tiers").hidden = !picture.places.some((row) => /[02]/.test(row));
}
function bar(parts, mark) {
  const made = element("div", { className: "bar" });
  for (const [title, share, colour] of parts) {
    const part = element("i", { title });
    part.style.width = 100 * Math.max(0, Math.min(1, share)) + "%";
    part.style.background = colour;
    made.append(part);
  }
  if (mark !== undefined) {
    const line = element("u");
    line.style.left = 100 * Math.min(1, mark) + "%";
    made.append(line);
  }
  return made;
}
const BANDS = ["#e8743b", "#c9973b", "#5b9c6a", "#2f8f9d", "#3a6ea8", "#6a5aa0", "#96578c", "#7d7d7d"];
function memory({ held, peak, budget, asked, ledger }) {
  const promised = ledger.reduce((sum, line) => sum + line.bytes, 0);
  const whole = asked || (budget && promised > budget / 4) ? Math.max(budget, promised) : Math.max(promised, held ?? 0);
  const order = [...ledger].sort((a, b) => b.bytes - a.bytes);
  const parts = order.map((line, i) => [`${line.name}: ${size(line.bytes)}`, line.bytes / whole, BANDS[Math.min(i, BANDS.length - 1)]]);
  const title = asked ? `Memory: a budget of ${size(budget)}` : "Memory";
  const said = held === null ? "" : `held now ${size(held)}, at most ${size(peak)}; the ledger allows ${size(promised)}`;
  const names = element("ul", { className: "bands" }, ...order.slice(0, 6).map((line, i) => {
    const made = element("li", {}, `${line.name} `, element("span", {}, size(line.bytes) + (line.mapped ? ", mapped" : "")));
    made.style.setProperty("--band", BANDS[i]);
    return made;
  }));
  return [element("h3", {}, title), bar(parts, held === null ? undefined : held / whole), element("small", {}, said), names];
}

// ---- one cell, by pointer or by arrow keys
function look(layer, at) {
  const picture = sea.picture;
  if (!picture) return;
  const clamp = (n, most) => Math.max(0, Math.min(most - 1, n));
  [layer, at] = [clamp(layer, picture.layers), clamp(at, picture.experts)];
  sea.cursor = [layer, at];
  const expert = sea.order[layer][at], heat = heatOf(picture, layer, expert);
  $("sea-cell").textContent = `layer ${layer}, expert ${expert}: ${heat ? Math.round(heat / 2.55) + " % of the hottest" : "hardly chosen"}, ${PLACES[placeOf(picture, layer, expert)]}`;
  paintSea();
}
function away() {
  sea.cursor = null;
  $("sea-cell").textContent = "";
  paintSea();
}
$("sea-map").onpointermove = (event) => {
  if (!sea.picture) return;
  const [across, down] = cellSize();
  look(Math.floor((event.offsetY - 2) / down), Math.floor((event.offsetX - 24) / across));
};
$("sea-map").onpointerleave = away;
$("sea-map").onblur = away;
$("sea-map").onkeydown = (event) => {
  const [layer, at] = sea.cursor ?? [0, -1];
  const to = { ArrowRight: [layer, at + 1], ArrowLeft: [layer, at - 1], ArrowDown: [layer + 1, Math.max(at, 0)], ArrowUp: [layer - 1, Math.max(at, 0)] }[event.key];
  if (to) { event.preventDefault(); look(...to); }
};
function showSea() {
  $("sea").hidden = !state.map;
  $("map").setAttribute("aria-expanded", Boolean(state.map));
  $("by-number").checked = Boolean(state.byNumber);
  watch();
  paintSea();
}
$("theme").addEventListener("click", paintSea);
$("map").onclick = () => { state.map = !state.map; keep(); showSea(); };
$("by-number").onchange = () => { state.byNumber = $("by-number").checked; keep(); if (sea.picture) { sort(); paintSea(); } };
document.addEventListener("visibilitychange", watch);
addEventListener("resize", paintSea);
showSea();
