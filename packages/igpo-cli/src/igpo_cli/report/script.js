"use strict";
// The numbers under the pointer, or at the step that arrow keys chose, for every chart.
for (const svg of document.querySelectorAll("svg[data-x]")) {
  const [first, last, left, right] = svg.dataset.x.split(" ").map(Number);
  const curves = [...svg.querySelectorAll("[data-p]")].map((line) => ({
    line, points: line.dataset.p.split(" ").map((pair) => pair.split(":").map(Number)),
  }));
  const cursor = document.createElementNS(svg.namespaceURI, "line");
  const tip = document.createElement("div");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y2", svg.viewBox.baseVal.height - 34);
  tip.className = "tip";
  tip.setAttribute("role", "status");
  const hide = () => { cursor.remove(); tip.remove(); };
  const steps = [...new Set(curves.flatMap((curve) => curve.points.map(([step]) => step)))].sort((a, b) => a - b);
  let place = -1;
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const want = first + ((event.clientX - box.left) * svg.viewBox.baseVal.width / box.width - left) / (right - left) * (last - first);
    show(steps.reduce((a, b) => Math.abs(b - want) < Math.abs(a - want) ? b : a));
  });
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length }[event.key];
    if (!move) return;
    event.preventDefault();
    place = Math.max(0, Math.min(steps.length - 1, place + move));
    show(steps[place]);
  });
  function show(step) {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const near = (points) => points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
    const at = left + (step - first) / (last - first) * (right - left);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    tip.replaceChildren("step " + step);
    for (const { line, points } of curves) {
      const swatch = document.createElement("span");
      swatch.className = "swatch " + line.classList[1];
      const row = document.createElement("div");
      row.append(swatch, line.dataset.label + "  " + near(points)[1]);
      tip.append(row);
    }
    svg.append(cursor);
    svg.parentElement.append(tip);
    const frame = svg.parentElement.getBoundingClientRect();
    const x = box.left - frame.left + at / scale;
    const beside = x < frame.width / 2 ? x + 10 : x - 10 - tip.offsetWidth;
    tip.style.left = Math.max(4, Math.min(frame.width - tip.offsetWidth - 4, beside)) + "px";
    tip.style.top = box.top - frame.top + 6 + "px";
  }
}
// Rollouts: filters, and the canvas as it was at a step. Text enters the page as text nodes only.
function make(tag, { text, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}
function browse(home, data) {
  const PAGE = 6, words = data.words;
  const state = { arm: "", step: "", kind: "all", text: "", colour: "order", shown: PAGE };
  const KINDS = {
    all: ["all", () => true],
    correct: ["correct", (row) => row[0] & 1],
    wrong: ["wrong", (row) => !(row[0] & 1)],
    hinted: ["with hints", (row) => row[0] & 4],
    stuck: ["stuck", (row, group) => group.stuck],
  };
  const list = make("div"), count = make("output", { class: "fine" }), more = make("button", { type: "button", text: "more groups" });
  const choice = (label, key, options) => {
    const select = make("select", {}, ...options.map(([value, text]) => make("option", { value, text })));
    select.addEventListener("change", () => { state[key] = select.value; render(); });
    return make("label", { text: label + " " }, select);
  };
  const kinds = make("div", { class: "kinds", role: "group", "aria-label": "Which rollouts" });
  for (const [kind, [text]] of Object.entries(KINDS)) {
    const button = make("button", { type: "button", text, "data-kind": kind, "aria-pressed": kind === "all" });
    button.addEventListener("click", () => {
      state.kind = kind;
      for (const other of kinds.children) other.setAttribute("aria-pressed", other === button);
      render();
    });
    kinds.append(button);
  }
  const search = make("input", { type: "search", placeholder: "search", "aria-label": "Search prompts, traces and rollouts" });
  search.addEventListener("input", () => { state.text = search.value.toLowerCase(); render(); });
  const steps = [...new Set(data.groups.map((group) => group.step))].sort((a, b) => a - b);
  const tools = make("div", { class: "tools" }, kinds, search);
  if (data.arms.length > 1) {
    tools.append(choice("run", "arm", [["", "all"], ...data.arms.map(([name], index) => [index, words[name]])]));
  }
  tools.append(
    choice("step", "step", [["", "all"], ...steps.map((step) => [step, step])]),
    choice("colour", "colour", [["order", "when committed"], ["doubt", "low confidence"]]),
  );
  const scale = make("div", { class: "scale", "aria-hidden": "true" });
  const text = (row) => row[2].map((at) => words[at]).join("").toLowerCase() + " " + words[row[1]].toLowerCase();
  const about = (group) => ["key", "prompt", "trace"].map((name) => words[group[name]] || "").join(" ").toLowerCase();

  function render() {
    state.shown = PAGE;
    draw();
  }
  function draw() {
    const fits = KINDS[state.kind][1];
    const found = [];
    for (const group of data.groups) {
      if ((state.arm !== "" && group.arm !== +state.arm) || (state.step !== "" && group.step !== +state.step)) continue;
      const whole = !state.text || about(group).includes(state.text);
      const rows = group.rows.filter((row) => fits(row, group) && (whole || text(row).includes(state.text)));
      if (rows.length) found.push([group, rows]);
    }
    const total = found.reduce((sum, [, rows]) => sum + rows.length, 0);
    count.textContent = `${total} rollouts in ${found.length} groups`;
    list.replaceChildren(...found.slice(0, state.shown).map(([group, rows]) => article(group, rows)));
    more.hidden = found.length <= state.shown;
    scale.replaceChildren(...(state.colour === "order" ? ["early", "late"] : ["sure", "in doubt"]).flatMap((word, index) =>
      index ? [make("i", { class: "ramp " + state.colour }), word] : [word]));
  }
  more.addEventListener("click", () => { state.shown += PAGE; draw(); });

  function article(group, rows) {
    const [name, colour] = data.arms[group.arm];
    const head = make("header", {}, make("b", { text: "step " + group.step }), make("span", { text: words[group.key] }), make("span", { text: words[group.state] }));
    if (data.arms.length > 1) head.prepend(make("b", {}, make("span", { class: "swatch a" + colour }), words[name]));
    const facts = make("dl", {}, make("dt", { text: "prompt" }), make("dd", { text: words[group.prompt] }));
    if (group.trace !== undefined) facts.append(make("dt", { text: "trace" }), make("dd", { text: words[group.trace] }));
    const last = 1 + Math.max(-1, ...group.rows.flatMap((row) => row[3]));
    const slider = make("input", { type: "range", min: 0, max: last, value: last, "aria-label": "Step of the canvas" });
    const says = make("output"), play = make("button", { type: "button", text: "replay" });
    const stepper = make("div", { class: "stepper" }, make("span", { text: "canvas" }), slider, says, play);
    const body = make("div"), whole = make("article", {}, head, facts, stepper, body);
    const tokens = [];
    let timer = 0;
    const show = (step) => {
      slider.value = step;
      says.textContent = `step ${step} of ${last}`;
      for (const [token, at] of tokens) {
        token.classList.toggle("later", at > step);
        token.classList.toggle("new", at === step && step < last);
      }
    };
    const stop = () => clearInterval(timer);
    slider.addEventListener("input", () => { stop(); show(+slider.value); });
    play.addEventListener("click", () => {
      stop();
      let step = 0;
      show(step);
      timer = setInterval(() => { if (!slider.isConnected || step >= last) stop(); else show(++step); }, Math.min(400, 6000 / last));
    });
    const add = (row) => body.append(line(row, last, tokens, (at, word) => {
      stop();
      show(at);
      says.textContent = word;
    }, () => show(last)));
    const first = state.kind === "all" && !state.text ? rows.slice(0, 2) : rows;
    first.forEach(add);
    if (rows.length > first.length) {
      const rest = make("button", { type: "button", class: "rest", text: `all ${rows.length} rollouts of this group` });
      rest.addEventListener("click", () => { rest.remove(); rows.slice(first.length).forEach(add); show(+slider.value); });
      whole.append(rest);
    }
    show(last);
    return whole;
  }
  function line([flags, facts, ids, order, confidence, cut], last, tokens, point, leave) {
    const verdict = make("div", { class: "verdict" }, flags & 1 ? make("b", { class: "ok", text: "correct" }) : make("b", { class: "no", text: "wrong" }));
    if (flags & 6) verdict.append(make("b", { class: "hinted", text: flags & 4 ? "with hints" : "second rollout" }));
    verdict.append(make("span", { text: words[facts] }));
    const canvas = make("p", { class: "tokens" });
    ids.forEach((id, index) => {
      const text = words[id], word = text.trimStart(), at = order[index] + 1;
      canvas.append(text.slice(0, text.length - word.length));
      const token = make("i", { text: word });
      if (at) {
        const sure = confidence[index];
        const shade = state.colour === "order" ? 0.06 + 0.5 * (1 - (at - 1) / Math.max(1, last - 1)) : sure < 0 ? 0 : 0.6 * (1 - sure / 100);
        token.style.backgroundColor = `rgba(var(--${state.colour}), ${shade.toFixed(3)})`;
        token.dataset.s = at;
        const says = `“${word}” at step ${at} of ${last}` + (sure < 0 ? "" : `, confidence ${(sure / 100).toFixed(2)}`);
        token.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") point(at, says); });
        tokens.push([token, at]);
      } else {
        token.className = "hint";
      }
      canvas.append(token);
    });
    canvas.addEventListener("pointerleave", leave);
    if (cut > 0) canvas.append(make("small", { text: ` and ${cut} more` }));
    return make("div", { class: "row" }, verdict, canvas);
  }
  home.append(tools, make("div", { class: "found" }, count, scale), list, more);
  draw();
}
const data = document.getElementById("data");
if (data) browse(document.getElementById("browser"), JSON.parse(data.textContent));
