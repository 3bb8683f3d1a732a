// The controls, the questions they ask, and what the answers look like.

import { band, chart, dot, label, line, nothing, number, star, upright } from "./chart.js";
import { loadMap, markCase } from "./heat.js";

const byId = (id) => document.getElementById(id);
const drawing = (id) => byId(id).querySelector("svg");
const controls = [...document.querySelectorAll(".control")];
let shown = null, errors = null, cursor = null;

// --- controls: a slider beside a number; the number is what counts -------------------------------

const STEPS = 1000;

function setUp(control) {
  const { name, log, min, max, step, words } = control.dataset;
  const [slider, box] = control.querySelectorAll("input[type=range], input[type=text], select");
  const choices = words?.split(" ");
  const spread = log !== undefined ? Math.log(max / min) : 0;
  Object.assign(slider, { min: 0, max: STEPS, step: 1 });
  if (choices) slider.max = choices.length - 1;
  else if (!spread) Object.assign(slider, { min, max, step });
  const fromSlider = () => {
    if (choices) return choices[slider.value];
    if (!spread) return slider.value;
    return String(Number((min * Math.exp((spread * slider.value) / STEPS)).toPrecision(3)));
  };
  const follow = () => {
    const value = Number(box.value);
    if (choices) slider.value = choices.indexOf(box.value);
    else if (Number.isFinite(value)) {
      slider.value = spread ? (STEPS * Math.log(value / min)) / spread : value;
    }
    slider.setAttribute("aria-valuetext", `${control.querySelector("label").textContent} ${box.value}`);
  };
  slider.setAttribute("aria-label", control.querySelector("label").textContent);
  slider.id = `${name}-slider`;
  const take = (exact) => { control.exact = exact; box.title = exact; follow(); };
  slider.addEventListener("input", () => { box.value = fromSlider(); take(""); ask(); });
  box.addEventListener(choices ? "change" : "input", () => { take(""); ask(); });
  control.set = (value) => { box.value = brief(value); take(String(value)); };
  follow();
}

// What a box has room for; what is asked has all digits until the box is changed.
function brief(value) {
  const text = String(value);
  return text.length <= 9 ? text : number(value, 4).replaceAll("−", "-");
}

export function setControls(values) {
  for (const control of controls) {
    if (control.dataset.name in values) control.set(values[control.dataset.name]);
  }
  ask();
}

function question(names) {
  const words = new URLSearchParams();
  for (const control of controls) {
    const { name } = control.dataset;
    if (names.includes(name)) words.set(name, control.exact || byId(name).value);
  }
  return words.toString();
}

// --- questions: one under way at a time, the latest next ------------------------------------------

function asker(path, names, take) {
  let busy = false, wanted = null, last = null;
  return async function ask() {
    wanted = question(names);
    if (busy) return;
    busy = true;
    while (wanted !== last) {
      last = wanted;
      const begin = performance.now();
      const late = setTimeout(() => say(
        "Compiling this depth and smoothing: once, for some seconds to a minute …"), 700);
      try {
        const answer = await (await fetch(`${path}?${last}`)).json();
        clearTimeout(late);
        take(answer, performance.now() - begin);
      } catch (error) {
        clearTimeout(late);
        say(`No answer: ${error.message}. Is jaxmd-sign explore still running?`, true);
        last = null;
        break;
      }
    }
    busy = false;
  };
}

const DATA = ["x1", "x2", "y", "alpha", "depth", "smoothing"];
const askCase = asker("case", ["epsilon", ...DATA], takeCase);
const askCurve = asker("curve", DATA, takeCurve);

function ask() { askCase(); askCurve(); }

function say(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", wrong);
}

function takeCase(answer, wait) {
  const refused = answer.error ?? "";
  for (const control of controls) {
    const { name } = control.dataset;
    byId(name).setAttribute("aria-invalid", refused.split(" ").slice(0, 3).includes(name));
  }
  if (refused) { show(null); say(refused, true); return; }
  const begin = performance.now();
  show(answer);
  const wrong = [answer.result, answer.trajectory.result].filter((text) => text !== "successful");
  const spent = Math.round(wait + performance.now() - begin);
  say(wrong.length ? `Failed: ${wrong[0]}` : `Solved, sent and drawn in ${spent} ms.`, wrong.length > 0);
  byId("status").dataset.milliseconds = spent;
}

function takeCurve(answer) {
  errors = answer.error ? null : answer;
  if (shown) drawCurve(shown);
}

// --- what is seen ---------------------------------------------------------------------------------

function show(answer) {
  shown = answer;
  writeNumbers(answer);
  const flows = answer !== null && answer.trajectory.result === "successful";
  const solved = answer !== null && answer.result === "successful";
  cursor = null;
  if (flows) {
    const parts = [drawPlane(answer, solved), drawTimes(answer, "primal"), drawTimes(answer, "dual")];
    cursor = (t) => parts.forEach((part) => part(t));
  } else {
    for (const id of ["plane", "primal", "dual"]) nothing(drawing(id), "no solution to show");
  }
  if (answer) drawCurve(answer);
  else nothing(drawing("curve"), "no solution to show");
  markCase(answer);
  moveTime();
}

function writeNumbers(answer) {
  const pair = (values) => `(${number(values[0], 4)}, ${number(values[1], 4)})`;
  const write = (id, text) => { byId(id).textContent = text; };
  const ok = answer !== null && answer.result === "successful";
  write("kkt-error", ok ? number(answer.kkt_error) : "–");
  write("gap", ok ? number(answer.bregman_gap, 4) : "–");
  write("distance", ok ? number(answer.distance_to_minimizer, 4) : "–");
  write("beta", ok ? pair(answer.beta) : "–");
  write("minimizer", ok ? pair(answer.minimizer) : "–");
  const flow = answer !== null && answer.trajectory.result === "successful" ? answer.trajectory : null;
  write("warmup", flow ? number(flow.warmup_end, 4) : "–");
  write("sign", flow ? pair(flow.sign_end) : "–");
  const holds = answer?.assumptions;
  write("assumption", !holds ? "–" : holds.smallness ? "holds" : holds.alpha_margin < 0
    ? "α is too large" : "ε is too large");
}

function drawPlane(answer, solved) {
  const [[left, right], [low, high]] = answer.box;
  const axes = chart(drawing("plane"), {
    x: [Math.min(left, right), Math.max(left, right)],
    y: [Math.min(low, high), Math.max(low, high)], xlabel: "β₁", ylabel: "β₂",
  });
  answer.levels.forEach(({ lines }, i) => {
    for (const points of lines) {
      const kind = i === 3 ? "touching" : "level";  // the fourth is that of D(β*)
      line(axes, points.map(([x]) => x), points.map(([, y]) => y), kind, axes.back);
    }
  });
  solutions(axes, answer);
  const { ts, beta, warmup_end: warmup, sign_end: sign } = answer.trajectory;
  line(axes, ...beta, "path ahead");
  const behind = line(axes, [], [], "path");
  const sides = [["end", -8], ["start", 8]];
  for (const [time, text] of [[warmup, "T₁"], [Math.min(...sign), "T₂"]]) {
    if (!(time > 0)) continue;
    const [x, y] = beta.map((values) => at(ts, values, time));
    dot(axes, x, y, "dot", 3);
    const [anchor, shift] = sides[text === "T₁" ? 0 : 1];
    label(axes, axes.x(x) + shift, axes.y(y) + (shift < 0 ? -4 : 14), text, "tick", anchor);
  }
  if (solved) {
    star(axes, ...answer.minimizer);
    const near = axes.x(answer.minimizer[0]) > axes.area.right - 60;
    label(axes, axes.x(answer.minimizer[0]) + (near ? -12 : 12), axes.y(answer.minimizer[1]) - 6,
      "β*", "star-text", near ? "end" : "start");
  }
  const now = dot(axes, beta[0].at(-1), beta[1].at(-1));
  describe("plane", `Path of β from 0 to (${number(answer.beta[0], 4)}, ${number(answer.beta[1], 4)})`);
  return (t) => {
    const count = ts.findIndex((time) => time > t);
    const here = beta.map((values) => at(ts, values, t));
    const past = beta.map((values, i) => [...values.slice(0, count < 0 ? undefined : count), here[i]]);
    const path = past[0].map((x, i) => `${i ? "L" : "M"}${axes.x(x)} ${axes.y(past[1][i])}`);
    behind.setAttribute("d", path.join(""));
    now.setAttribute("cx", axes.x(here[0]));
    now.setAttribute("cy", axes.y(here[1]));
  };
}

// The line Xβ = y through the frame: two points far outside, cut off by the frame.
function solutions(axes, { x: [a, b], y, box }) {
  const size = 4 * Math.max(...box.flat().map(Math.abs));
  const square = a * a + b * b, norm = Math.sqrt(square);
  const foot = [(a * y) / square, (b * y) / square], along = [-b / norm, a / norm];
  const ends = [-size, size].map((s) => foot.map((value, i) => value + s * along[i]));
  line(axes, ends.map(([first]) => first), ends.map(([, second]) => second), "solutions", axes.back);
}

function drawTimes(answer, id) {
  const flow = answer.trajectory;
  const values = id === "primal" ? flow.beta : flow.dual;
  const numbers = values.flat(), room = 0.08 * (Math.max(...numbers, 0) - Math.min(...numbers, 0));
  const axes = chart(drawing(id), {
    x: [0, flow.view_end],
    y: [Math.min(...numbers, 0) - room, Math.max(...numbers, 0) + room],
    xlabel: "time t", ylabel: id === "primal" ? "β" : "θ", right: 42,
  });
  const sign = Math.min(...flow.sign_end);
  band(axes, 0, flow.warmup_end);
  band(axes, sign, flow.view_end);
  for (const [time, text] of [[flow.warmup_end, "T₁"], [sign, "T₂"]]) {
    if (!(time > 0)) continue;
    upright(axes, time);
    label(axes, axes.x(time), axes.area.top - 5, text, "", "middle");
  }
  const ends = values.map((one) => at(flow.ts, one, flow.view_end));
  const places = ends.map(axes.y);
  const apart = Math.abs(places[0] - places[1]) < 13 ? 7 : 0, up = places[0] <= places[1] ? 1 : -1;
  const dots = ["one", "two"].map((kind, i) => {
    line(axes, flow.ts, values[i], kind);
    const shift = (i ? 1 : -1) * up * apart;
    label(axes, axes.area.right + 5, places[i] + 4 + shift, `${id === "primal" ? "β" : "θ"}${"₁₂"[i]}`,
      `${kind}-text`);
    const time = flow.sign_end[i];
    if (time > 0) dot(axes, time, at(flow.ts, values[i], time), `dot ${kind}-dot`, 3.5);
    return dot(axes, 0, 0, `dot ${kind}-dot`, 4.5);
  });
  const now = upright(axes, 0, "now");
  describe(id, `${id} curves up to time ${number(flow.view_end, 4)}`);
  return (t) => {
    now.setAttribute("d", `M${axes.x(t)} ${axes.area.top}V${axes.area.bottom}`);
    dots.forEach((mark, i) => {
      mark.setAttribute("cx", axes.x(t));
      mark.setAttribute("cy", axes.y(at(flow.ts, values[i], t)));
    });
  };
}

function drawCurve(answer) {
  if (!errors) { nothing(drawing("curve"), "no solution to show"); return; }
  const solved = answer.result === "successful";
  const points = errors.epsilon.map((x, i) => [x, errors.kkt_error[i]]);
  if (solved) points.push([answer.epsilon, answer.kkt_error]);  // so that the mark is on the line
  points.sort(([one], [other]) => one - other);
  const heights = points.map(([, y]) => y).filter((y) => y !== null);
  const low = Math.min(errors.epsilon[0], answer.epsilon);
  const high = Math.max(errors.epsilon.at(-1), answer.epsilon);
  const top = 1.1 * Math.max(...heights, 1e-12);
  const axes = chart(drawing("curve"), {
    x: [low, high], y: [0, top], xlog: true, xlabel: "ε", ylabel: "KKT error ‖e‖",
  });
  const { epsilon_margin: margin, alpha_margin: other } = answer.assumptions;
  if (other >= 0 && margin !== null) {
    const bound = answer.epsilon / (1 - margin);
    band(axes, low, bound);
    label(axes, (axes.area.left + Math.min(axes.x(bound), axes.area.right)) / 2,
      axes.area.bottom - 8, "Assumption 3.3", "tick", "middle");
  }
  line(axes, points.map(([x]) => x), points.map(([, y]) => y), "curve");
  upright(axes, answer.epsilon);
  if (solved) dot(axes, answer.epsilon, answer.kkt_error);
  describe("curve", `KKT error over ε; at ε = ${number(answer.epsilon)} it is ${number(answer.kkt_error)}`);
}

function describe(id, text) { drawing(id).setAttribute("aria-label", text); }

// A value at a time between those that are known.
function at(ts, values, time) {
  const next = ts.findIndex((t) => t >= time);
  if (next < 0) return values.at(-1);
  if (next === 0) return values[0];
  const share = (time - ts[next - 1]) / (ts[next] - ts[next - 1]);
  return values[next - 1] + share * (values[next] - values[next - 1]);
}

// --- time -----------------------------------------------------------------------------------------

const SECONDS = 5;
let playing = null;

function moveTime() {
  const slider = byId("time");
  if (!cursor) { byId("now").textContent = ""; return; }
  const { ts, beta, residual, view_end: end } = shown.trajectory;
  const t = (end * slider.value) / slider.max;
  cursor(t);
  const [first, second] = beta.map((values) => number(at(ts, values, t), 4));
  byId("now").textContent =
    `t = ${number(t, 4)}, β = (${first}, ${second}), Xβ − y = ${number(at(ts, residual, t), 3)}`;
  slider.setAttribute("aria-valuetext", `t = ${number(t, 4)}`);
}

function play(running) {
  cancelAnimationFrame(playing);
  playing = null;
  byId("play").textContent = running ? "Pause" : "Play";
  if (!running) return;
  const slider = byId("time");
  const from = Number(slider.value) >= Number(slider.max) ? 0 : Number(slider.value);
  let begin = null;
  const step = (now) => {
    begin ??= now;
    slider.value = from + (slider.max * (now - begin)) / (1000 * SECONDS);
    moveTime();
    if (Number(slider.value) >= Number(slider.max)) play(false);
    else playing = requestAnimationFrame(step);
  };
  playing = requestAnimationFrame(step);
}

controls.forEach(setUp);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("time").addEventListener("input", () => { play(false); moveTime(); });
byId("play").addEventListener("click", () => play(playing === null));
for (const svg of document.querySelectorAll("figure svg")) nothing(svg, "…");
loadMap(setControls, say);
ask();
