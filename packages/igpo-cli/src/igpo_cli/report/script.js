"use strict";
// The numbers under the pointer, for every chart.
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
  const hide = () => { cursor.remove(); tip.remove(); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const want = first + ((event.clientX - box.left) * scale - left) / (right - left) * (last - first);
    const near = (points) => points.reduce((a, b) => Math.abs(b[0] - want) < Math.abs(a[0] - want) ? b : a);
    const step = near(curves.flatMap((curve) => curve.points))[0];
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
  });
}
// The canvas of a rollout as it was at a step.
for (const text of document.querySelectorAll(".tokens")) {
  const own = [...text.querySelectorAll("[data-s]")];
  const steps = Number(text.dataset.steps);
  for (const token of own) {
    token.style.backgroundColor = `rgba(var(--order), ${(0.26 * (1 - token.dataset.s / (steps + 1))).toFixed(3)})`;
  }
  const show = (step) => own.forEach((token) => token.classList.toggle("later", token.dataset.s > step));
  text.addEventListener("pointerover", (event) => show(event.target.dataset.s || steps));
  text.addEventListener("pointerleave", () => show(steps));
  const button = text.previousElementSibling.querySelector("button");
  if (!button) continue;
  let timer = 0;
  button.hidden = false;
  button.addEventListener("click", () => {
    clearInterval(timer);
    let step = 0;
    show(step);
    timer = setInterval(() => { show(++step); if (step >= steps) clearInterval(timer); }, Math.min(400, 6000 / steps));
  });
}
