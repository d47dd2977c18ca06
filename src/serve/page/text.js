// ---- what an answer looks like: the Markdown that models write. Everything becomes text nodes, so words stay words.
function render(text, into) {
  into.replaceChildren(...blocks(text.split("\n")));
}

function blocks(lines) {
  const out = [];
  for (let at = 0; at < lines.length; ) {
    const taken = fence(lines, at) || heading(lines, at) || rule(lines, at) || quote(lines, at) || table(lines, at) || list(lines, at);
    if (taken) {
      out.push(taken.node);
      at = taken.end;
      continue;
    }
    const start = at;
    while (at < lines.length && lines[at].trim() && (at === start || !begins(lines, at))) at += 1;
    if (at > start) out.push(element("p", {}, ...inline(lines.slice(start, at).join("\n"))));
    else at += 1;
  }
  return out;
}
// Whether a line ends the paragraph above it.
function begins(lines, at) {
  return /^ {0,3}(```|~~~|#{1,6} |> ?|[-*+] +\S|1[.)] +\S)/.test(lines[at]) || rule(lines, at) || table(lines, at);
}
function fence(lines, at) {
  const open = /^( *)(```+|~~~+)\s*([\w+#.-]*)/.exec(lines[at]);
  if (!open) return null;
  let end = at + 1;
  while (end < lines.length && !(lines[end].trim().startsWith(open[2]) && !lines[end].trim().slice(open[2].length).trim())) end += 1;
  const body = lines.slice(at + 1, end).map((line) => line.replace(new RegExp(`^ {0,${open[1].length}}`), "")).join("\n");
  return { node: element("pre", { tabIndex: 0 }, element("code", {}, body)), end: end + 1 };
}
function heading(lines, at) {
  const found = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/.exec(lines[at]);
  // The page has headings of its own: an answer's begin below them.
  return found && { node: element("h" + Math.min(6, found[1].length + 2), {}, ...inline(found[2])), end: at + 1 };
}
function rule(lines, at) {
  return /^ {0,3}([-*_])( *\1){2,} *$/.test(lines[at]) ? { node: element("hr"), end: at + 1 } : null;
}
function quote(lines, at) {
  let end = at;
  while (end < lines.length && /^ {0,3}>/.test(lines[end])) end += 1;
  return end > at && { node: element("blockquote", {}, ...blocks(lines.slice(at, end).map((line) => line.replace(/^ {0,3}> ?/, "")))), end };
}
function table(lines, at) {
  if (!lines[at].includes("|") || !/^ *\|?( *:?-+:? *\|)+ *(:?-+:?)? *\|? *$/.test(lines[at + 1] ?? "")) return null;
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const sides = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : ""));
  const row = (tag, line) => element("tr", {}, ...cells(line).slice(0, sides.length).map((cell, i) => {
    const made = element(tag, {}, ...inline(cell));
    made.style.textAlign = sides[i];
    return made;
  }));
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const body = element("tbody", {}, ...lines.slice(at + 2, end).map((line) => row("td", line)));
  const node = element("table", {}, element("thead", {}, row("th", lines[at])), body);
  return { node: element("div", { className: "wide", tabIndex: 0 }, node), end };
}
function list(lines, at) {
  const mark = /^( *)([-*+]|\d{1,9}[.)])( +)(?=\S)/;
  const first = mark.exec(lines[at]);
  if (!first || first[1].length > 3) return null;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const found = mark.exec(lines[end]);
    if (found && found[1].length <= first[1].length + 1 && /\d/.test(found[2]) === ordered) {
      items.push([lines[end].slice(found[0].length)]);
    } else if (!lines[end].trim()) {
      // A blank line ends the list unless it goes on behind it.
      const next = lines[end + 1] ?? "";
      if (!/^ {2,}\S/.test(next) && !mark.test(next)) break;
      items.at(-1).push("");
    } else if (/^ {2,}/.test(lines[end])) {
      items.at(-1).push(lines[end].replace(new RegExp(`^ {1,${first[0].length}}`), ""));
    } else break;
    end += 1;
  }
  const item = (lines) => {
    const inside = blocks(lines);
    const tight = inside[0]?.tagName === "P" ? [...inside[0].childNodes, ...inside.slice(1)] : inside;
    return element("li", {}, ...tight);
  };
  const node = element(ordered ? "ol" : "ul", {}, ...items.map(item));
  if (ordered) node.start = parseInt(first[2], 10);
  return { node, end };
}
const SPANS = /(`+)(?!`)(.+?)(?<!`)\1(?!`)|\*\*(?=\S)([^\n]+?)(?<=\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])|(?<!\w)_(?=[^\s_])([^_\n]+?)(?<=[^\s_])_(?!\w)|~~(?=\S)([^\n]+?)(?<=\S)~~/su;
function inline(text) {
  const out = [];
  for (let found; (found = SPANS.exec(text)); text = text.slice(found.index + found[0].length)) {
    out.push(text.slice(0, found.index));
    const [, , code, strong, star, line, gone] = found;
    if (code !== undefined) out.push(element("code", {}, code));
    else if (strong !== undefined) out.push(element("strong", {}, ...inline(strong)));
    else if (gone !== undefined) out.push(element("s", {}, ...inline(gone)));
    else out.push(element("em", {}, ...inline(star ?? line)));
  }
  return [...out, text];
}

