const $ = (id) => document.getElementById(id);
const KEPT = "thermocline";
const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
// What survives a reload. The key lasts as long as the tab.
const state = { turns: [], settings: {}, theme: "", ...load() };
let writing = null; // the AbortController of the answer in progress
let defaults = {};

function load() {
  try { return JSON.parse(localStorage.getItem(KEPT)) || {}; } catch { return {}; }
}
function keep() {
  try { localStorage.setItem(KEPT, JSON.stringify(state)); } catch { /* private windows keep nothing */ }
}
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
function headers() {
  const key = sessionStorage.getItem(KEPT + "-key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: "Bearer " + key } : {}) };
}

// ---- the conversation
function draw() {
  const talk = $("talk");
  talk.replaceChildren();
  if (!state.turns.length) {
    const ideas = ["Tell me a story about a fox.", "What is 48 + 37?", "Write a Python function that adds two numbers."];
    const idea = (text) => element("button", { type: "button", onclick: () => ask(text) }, text);
    talk.append(element("div", { className: "welcome" }, element("p", {}, "Everything said here stays on this machine."), ...ideas.map(idea)));
  }
  state.turns.forEach((turn, i) => talk.append(view(turn, i)));
}
function view(turn, i) {
  const said = element("div", { className: "said" });
  const tools = element("div", { className: "tools" });
  const node = element("article", { className: "turn " + turn.role, ariaLabel: turn.role === "user" ? "You" : "Answer" }, said, tools);
  if (turn.role === "user") said.textContent = turn.content; else render(turn.content, said);
  if (turn.problem) said.after(element("div", { className: "problem", role: "alert" }, turn.problem));
  const tool = (name, act) => tools.append(element("button", { type: "button", className: "plain", onclick: act }, name));
  if (turn.role === "user") tool("Edit", () => edit(i, node));
  else {
    tool("Copy", (event) => copy(turn.content, event.target));
    tool("Again", () => { if (!writing) { state.turns.length = i; answer(); } });
    if (turn.figures) tools.append(element("span", { className: "figures" }, turn.figures));
  }
  return node;
}
async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch { button.textContent = "Not allowed"; }
  setTimeout(() => { button.textContent = "Copy"; }, 1200);
}
function edit(i, node) {
  if (writing) return;
  const box = element("textarea", { value: state.turns[i].content, ariaLabel: "Edit your message" });
  const done = () => {
    if (!box.value.trim()) return;
    state.turns.length = i;
    ask(box.value);
  };
  const back = () => { draw(); $("words").focus(); };
  box.onkeydown = (event) => {
    if (event.key === "Escape") { event.stopPropagation(); back(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); done(); }
  };
  const row = element("div", { className: "tools" },
    element("button", { type: "button", className: "main", onclick: done }, "Send"),
    element("button", { type: "button", onclick: back }, "Cancel"));
  node.replaceChildren(box, row);
  box.focus();
}

function ask(text) {
  if (writing || !text.trim()) return;
  state.turns.push({ role: "user", content: text.trim() });
  answer();
}
async function answer() {
  const system = (state.settings.system || "").trim();
  const messages = state.turns.filter((turn) => turn.content).map(({ role, content }) => ({ role, content }));
  if (system) messages.unshift({ role: "system", content: system });
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  for (const name of SAMPLING) if (state.settings[name] !== undefined) body[name] = state.settings[name];

  const turn = { role: "assistant", content: "" };
  state.turns.push(turn);
  draw();
  const node = $("talk").lastChild, said = node.querySelector(".said");
  node.classList.add("writing");
  node.querySelector(".tools").hidden = true;
  // Drawn once a frame, however fast tokens come.
  let due = false;
  const later = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      if (!said.isConnected) return;
      render(turn.content, said);
      toEnd();
    });
  };
  writing = new AbortController();
  busy(true);
  toEnd(true);
  try {
    const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal: writing.signal });
    if (!response.ok) throw await problem(response);
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      if (choice?.delta?.content) {
        turn.content += choice.delta.content;
        later();
      }
      if (choice?.finish_reason === "length") turn.cut = true;
      if (event.timings) turn.figures = figures(event.timings, turn.cut);
    }
  } catch (error) {
    if (error.name === "AbortError") turn.figures = "stopped";
    else turn.problem = error instanceof TypeError ? "The server cannot be reached." : error.message;
  }
  writing = null;
  busy(false);
  keep();
  draw();
  toEnd();
  $("words").focus();
}
async function problem(response) {
  let message = response.status + " " + response.statusText;
  try { message = (await response.json()).error.message; } catch { /* not ours */ }
  if (response.status === 401 && !$("settings").open) $("open").click();
  return new Error(message);
}
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    for (let end; (end = held.indexOf("\n\n")) >= 0; held = held.slice(end + 2)) {
      const data = held.slice(0, end).split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
function figures(timings, cut) {
  const parts = [timings.predicted_n + " tokens"];
  if (timings.predicted_per_second) parts.push(timings.predicted_per_second.toFixed(1) + " tok/s");
  if (timings.cache_n) parts.push(timings.cache_n + " reused");
  if (cut) parts.push("cut off at its limit");
  return parts.join(" · ");
}
function busy(is) {
  $("stop").hidden = !is;
  $("send").hidden = is;
}
// Follows the text unless the reader has scrolled up.
function toEnd(always) {
  const box = $("scroll");
  if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
}

// ---- the box
function grow() {
  const box = $("words");
  box.style.height = "auto";
  box.style.height = box.scrollHeight + 2 + "px";
}
$("ask").onsubmit = (event) => {
  event.preventDefault();
  const text = $("words").value;
  if (writing || !text.trim()) return;
  $("words").value = "";
  grow();
  ask(text);
};
$("words").oninput = grow;
$("words").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
  if (event.key === "ArrowUp" && !$("words").value && !writing) {
    const last = state.turns.findLastIndex((turn) => turn.role === "user");
    if (last >= 0) { event.preventDefault(); edit(last, $("talk").children[last]); }
  }
};
$("stop").onclick = () => writing?.abort();
$("fresh").onclick = () => { writing?.abort(); setTimeout(() => { state.turns = []; keep(); draw(); $("words").focus(); }); };
document.onkeydown = (event) => {
  if (event.key === "Escape" && !$("settings").open) writing?.abort();
  if (event.altKey && event.code === "KeyN") { event.preventDefault(); $("fresh").click(); }
  if (event.altKey && event.code === "KeyM") { event.preventDefault(); $("map").click(); }
  if (event.altKey && event.code === "KeyS") { event.preventDefault(); $("open").click(); }
};

// ---- settings
const form = $("settings").querySelector("form");
$("open").onclick = () => {
  for (const name of ["system", ...SAMPLING]) form[name].value = state.settings[name] ?? "";
  for (const name of SAMPLING) if (defaults[name] !== undefined) form[name].placeholder = +(+defaults[name]).toFixed(3);
  form.key.value = sessionStorage.getItem(KEPT + "-key") || "";
  if (!$("settings").open) $("settings").showModal();
};
$("defaults").onclick = () => { for (const name of ["system", ...SAMPLING]) form[name].value = ""; };
$("settings").onclose = () => {
  state.settings = {};
  if (form.system.value.trim()) state.settings.system = form.system.value;
  for (const name of SAMPLING) if (form[name].value !== "" && form[name].validity.valid) state.settings[name] = +form[name].value;
  if (form.key.value) sessionStorage.setItem(KEPT + "-key", form.key.value); else sessionStorage.removeItem(KEPT + "-key");
  keep();
  greet();
};

// ---- light and dark
function paint() {
  const dark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}
$("theme").onclick = () => { state.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; keep(); paint(); };
matchMedia("(prefers-color-scheme: dark)").onchange = paint;

// ---- which model, and how it is set up
async function greet() {
  try {
    const response = await fetch("props", { headers: headers() });
    if (!response.ok) throw await problem(response);
    const props = await response.json();
    defaults = props.default_generation_settings.params;
    $("model").textContent = $("model").title = `${props.model_alias} · ${props.default_generation_settings.n_ctx} positions`;
  } catch (error) {
    $("model").textContent = error instanceof TypeError ? "the server cannot be reached" : error.message;
    if (!(error instanceof TypeError) && /loaded/.test(error.message)) setTimeout(greet, 1000);
  }
}
state.turns.forEach((turn) => { if (turn.role === "assistant" && !turn.content && !turn.problem) turn.figures = "stopped"; });
paint();
draw();
toEnd(true);
greet();
