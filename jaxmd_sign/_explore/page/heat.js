// A sweep's KKT errors as a map over ε × α. A click on a cell asks for its case.

import { add, chart, number } from "./chart.js";

const COLORS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];  // viridis
const figure = document.getElementById("heat");
const svg = figure.querySelector("svg"), canvas = figure.querySelector("canvas");
const cell = document.getElementById("cell"), row = document.getElementById("row");
let map = null, axes = null, chosen = null, choose = null;

export async function loadMap(setControls, say) {
  choose = setControls;
  const answer = await (await fetch("store")).json();
  if (answer.error) { say(answer.error, true); return; }
  if (!answer.store) { figure.querySelector(".frame").hidden = true; return; }
  map = answer;
  const finite = map.kkt_error.flat().filter((value) => value !== null);
  map.top = finite.reduce((most, value) => Math.max(most, value), 0);
  map.edges = { epsilon: edges(map.epsilon), alpha: edges(map.alpha) };
  map.pairs.forEach((pair, i) => row.append(new Option(
    `${pair.row}: x = (${number(pair.x[0], 4)}, ${number(pair.x[1], 4)}), y = ${number(pair.y, 4)}`, i)));
  document.getElementById("rows").hidden = map.pairs.length < 2;
  draw();
  svg.addEventListener("click", clicked);
  svg.addEventListener("keydown", pressed);
  row.addEventListener("change", () => chosen && pick(...chosen));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  const first = map.pairs[0];
  const flow = !first ? "for its ε and α; the flow is that of x and y at the left"
    : map.rows > 1 ? "to see the flow of one row" : "to see its flow";
  tell(`${map.cases.toLocaleString("en")} cases of a ${map.problem}: click one ${flow}.`);
  if (first) {
    choose({
      x1: first.x[0], x2: first.x[1], y: first.y, depth: map.depth, smoothing: map.smoothing,
    });
  }
}

function edges(centres) {
  const logs = centres.map(Math.log), n = logs.length;
  const middle = logs.slice(1).map((value, i) => (value + logs[i]) / 2);
  const first = n > 1 ? (logs[1] - logs[0]) / 2 : 0.1, last = n > 1 ? (logs[n - 1] - logs[n - 2]) / 2 : 0.1;
  return [logs[0] - first, ...middle, logs[n - 1] + last].map(Math.exp);
}

function color(value) {
  const place = (Math.min(value / (map.top || 1), 1) * (COLORS.length - 1)) || 0;
  const i = Math.min(Math.floor(place), COLORS.length - 2), share = place - i;
  return `rgb(${COLORS[i].map((low, k) => Math.round(low + share * (COLORS[i + 1][k] - low))).join(" ")})`;
}

function draw() {
  const { epsilon, alpha } = map.edges;
  axes = chart(svg, {
    x: [epsilon[0], epsilon.at(-1)], y: [alpha[0], alpha.at(-1)], xlog: true, ylog: true,
    xlabel: "ε", ylabel: "α", right: 66,
  });
  scaleBar();
  const { width, height } = svg.viewBox.baseVal, { left, right, top, bottom } = axes.area;
  const share = (value, whole) => `${(100 * value) / whole}%`;
  canvas.style.left = share(left, width);
  canvas.style.top = share(top, height);
  canvas.style.width = share(right - left, width);
  canvas.style.height = share(bottom - top, height);
  canvas.width = 3 * (right - left);
  canvas.height = 3 * (bottom - top);
  svg.setAttribute("aria-label", `KKT errors of ${map.store} over ε and α; arrow keys choose a case`);
  paint();
}

function paint() {
  const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const { left, top } = axes.area;
  const xs = map.edges.epsilon.map((value) => Math.round(3 * (axes.x(value) - left)));
  const ys = map.edges.alpha.map((value) => Math.round(3 * (axes.y(value) - top)));
  map.kkt_error.forEach((values, j) => values.forEach((value, i) => {
    const code = map.result[j][i];
    pen.fillStyle = code === 0 && value !== null ? color(value)
      : style.getPropertyValue(code < 0 ? "--undone" : "--failed");
    pen.fillRect(xs[i], ys[j + 1], xs[i + 1] - xs[i], ys[j] - ys[j + 1]);
  }));
}

function scaleBar() {
  const { right, top, bottom } = axes.area, steps = 40, height = (bottom - top) / steps;
  for (let k = 0; k < steps; k++) {
    add(svg, "rect", {
      x: right + 8, y: bottom - (k + 1) * height, width: 10, height: height + 0.5,
      fill: color((map.top * (k + 0.5)) / steps),
    });
  }
  for (const share of [0, 0.5, 1]) {
    const y = bottom - share * (bottom - top) + 4 + 4 * (share === 1) - 4 * (share === 0);
    add(svg, "text", { class: "tick", x: right + 22, y }, number(share * map.top, 2));
  }
  add(svg, "text", { x: right + 58, y: top - 8, "text-anchor": "end" }, "KKT error ‖e‖");
  const kinds = [["failed", map.failed, "failed"], ["undone", map.to_do, "not solved"]];
  let x = axes.area.left + 40;
  for (const [kind, count, text] of kinds) {
    if (!count) continue;
    add(svg, "rect", { class: kind, x, y: top - 15, width: 10, height: 10 });
    add(svg, "text", { class: "tick", x: x + 14, y: top - 6 }, `${text}: ${count}`);
    x += 100;
  }
}

function clicked(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const { left, right, top, bottom } = axes.area;
  if (point.x < left || point.x > right || point.y < top || point.y > bottom) return;
  const place = (bounds, value) => Math.max(bounds.findIndex((edge) => edge > value) - 1, 0);
  pick(place(map.edges.epsilon, axes.x.back(point.x)), place(map.edges.alpha, axes.y.back(point.y)));
}

function pressed(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const clamp = (value, count) => Math.min(Math.max(value, 0), count - 1);
  const [i, j] = chosen ?? [0, 0];
  pick(clamp(i + step[0], map.epsilon.length), clamp(j + step[1], map.alpha.length));
}

function pick(i, j) {
  chosen = [i, j];
  const epsilon = map.epsilon[i], alpha = map.alpha[j], code = map.result[j][i];
  const pair = map.pairs[row.value || 0];
  const [name, sentence] = map.codes[code];
  const all = map.rows > 1 ? ` of all ${map.rows} rows; the flow is that of one row` : "";
  const said = code === 0 ? `KKT error ${number(map.kkt_error[j][i])}${all}.` : `${name}. ${sentence}`;
  const whose = pair ? "" : " The store keeps no row of two numbers: the flow is that of x and y at the left.";
  const from = map.reference === "start" ? "" : " The store measures D from T₁, this page from 0⁺.";
  tell(`ε = ${number(epsilon, 4)}, α = ${number(alpha, 4)} in the store: ${said}${whose}${from}`, code > 0);
  choose({
    ...(pair ? { x1: pair.x[0], x2: pair.x[1], y: pair.y } : {}),
    epsilon, alpha, depth: map.depth, smoothing: map.smoothing,
  });
}

function tell(text, wrong = false) {
  cell.textContent = text;
  cell.classList.toggle("wrong", wrong);
}

// A frame around the cell of the case that is shown.
export function markCase(answer) {
  if (!axes) return;
  svg.querySelectorAll(".chosen, .chosen-edge").forEach((old) => old.remove());
  if (!answer || !chosen) return;
  const [i, j] = chosen;
  if (answer.epsilon !== map.epsilon[i] || answer.alpha !== map.alpha[j]) return;
  const { epsilon, alpha } = map.edges;
  const x = axes.x(epsilon[i]), y = axes.y(alpha[j + 1]);
  const size = { x, y, width: axes.x(epsilon[i + 1]) - x, height: axes.y(alpha[j]) - y };
  add(axes.above, "rect", { class: "chosen-edge", ...size });
  add(axes.above, "rect", { class: "chosen", ...size });
}
