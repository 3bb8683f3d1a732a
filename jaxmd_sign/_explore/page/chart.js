// Axes, lines and labels as SVG.

const SPACE = "http://www.w3.org/2000/svg";
const MARGIN = { left: 50, right: 14, top: 18, bottom: 36 };
const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

export function add(parent, tag, attributes = {}, text = "") {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

// A number with so many significant digits, without trailing zeros; what is no number is a dash.
export function number(value, digits = 6) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Math.abs(value) < 1e-15) return "0";  // rounding
  const size = Math.abs(value);
  const text = size < 1e-4 || size >= 1e6
    ? value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e")
    : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", "−");
}

// Empty the drawing and draw axes; the answer maps numbers to places, clipped lines included.
export function chart(svg, { x, y, xlog = false, ylog = false, xlabel, ylabel, right = MARGIN.right }) {
  svg.replaceChildren();
  const { width, height } = svg.viewBox.baseVal;
  const area = {
    left: MARGIN.left, right: width - right, top: MARGIN.top, bottom: height - MARGIN.bottom,
  };
  const axes = {
    svg, area,
    x: scale(x, [area.left, area.right], xlog),
    y: scale(y, [area.bottom, area.top], ylog),
  };
  const name = `clip-${svg.parentElement.id || svg.closest("figure").id}`;
  const clip = add(add(svg, "clipPath", { id: name }), "rect", frame(area));
  clip.setAttribute("y", area.top - 1);
  clip.setAttribute("height", area.bottom - area.top + 2);
  axes.back = add(svg, "g", { "clip-path": `url(#${name})` });
  for (const [value, text] of ticks(x, xlog, (area.right - area.left) / 70)) {
    const at = axes.x(value);
    add(svg, "path", { class: "axis", d: `M${at} ${area.bottom}v4` });
    add(svg, "text", { class: "tick", x: at, y: area.bottom + 16, "text-anchor": "middle" }, text);
  }
  for (const [value, text] of ticks(y, ylog, (area.bottom - area.top) / 34)) {
    const at = axes.y(value);
    add(svg, "path", { class: "axis", d: `M${area.left} ${at}h-4` });
    add(svg, "text", { class: "tick", x: area.left - 7, y: at + 4, "text-anchor": "end" }, text);
  }
  add(svg, "rect", { class: "frame-line", ...frame(area) });
  const middle = (area.left + area.right) / 2;
  add(svg, "text", { x: middle, y: height - 4, "text-anchor": "middle" }, xlabel);
  add(svg, "text", { x: area.left - 40, y: area.top - 6 }, ylabel);
  axes.front = add(svg, "g", { "clip-path": `url(#${name})` });
  axes.above = add(svg, "g");
  return axes;
}

function frame(area) {
  return {
    x: area.left, y: area.top, width: area.right - area.left, height: area.bottom - area.top,
  };
}

function scale([low, high], [from, to], log) {
  const see = log ? Math.log10 : (value) => value;
  const start = see(low), size = see(high) - start || 1;
  const place = (value) => from + ((see(value) - start) / size) * (to - from);
  const map = (value) => Math.round(Math.min(Math.max(place(value), -1e4), 1e4) * 100) / 100;
  map.back = (at) => {
    const value = start + ((at - from) / (to - from)) * size;
    return log ? 10 ** value : value;
  };
  return map;
}

function ticks([low, high], log, most) {
  if (low > high) [low, high] = [high, low];
  const found = [];
  if (log) {
    const decades = Math.log10(high / low);
    const factors = decades > 2 ? [1] : decades > 0.7 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
    const stride = Math.max(1, Math.ceil(decades / most));
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) + 1e-9; power++) {
      if (factors.length === 1 && power % stride) continue;
      for (const factor of factors) {
        const value = factor * 10 ** power;
        if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) {
          found.push([value, factors.length === 1 ? powerOfTen(power) : number(value, 3)]);
        }
      }
    }
    return found;
  }
  const rough = (high - low) / most;
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * ten).find((size) => size >= rough);
  for (let k = Math.ceil(low / step - 1e-9); k <= high / step + 1e-9; k++) {
    found.push([k * step, number(Math.abs(k * step) < step / 2 ? 0 : k * step, 4)]);
  }
  return found;
}

function powerOfTen(power) {
  if (power >= 0 && power <= 1) return String(10 ** power);
  const digits = [...String(Math.abs(power))].map((digit) => SUPERSCRIPTS[digit]).join("");
  return `10${power < 0 ? "⁻" : ""}${digits}`;
}

// A polyline; it is broken where a number is missing.
export function line(axes, xs, ys, kind, layer = axes.front) {
  let path = "", pen = "M";
  xs.forEach((x, i) => {
    if (x === null || ys[i] === null) { pen = "M"; return; }
    path += `${pen}${axes.x(x)} ${axes.y(ys[i])}`;
    pen = "L";
  });
  return add(layer, "path", { class: kind, d: path });
}

export function dot(axes, x, y, kind = "dot", radius = 5) {
  return add(axes.above, "circle", { class: kind, cx: axes.x(x), cy: axes.y(y), r: radius });
}

export function star(axes, x, y) {
  const cx = axes.x(x), cy = axes.y(y);
  const points = Array.from({ length: 10 }, (_, i) => {
    const angle = (Math.PI / 5) * i, radius = i % 2 ? 3.2 : 8;
    return `${cx + radius * Math.sin(angle)},${cy - radius * Math.cos(angle)}`;
  });
  return add(axes.above, "polygon", { class: "star", points: points.join(" ") });
}

export function upright(axes, x, kind = "rule", layer = axes.front) {
  const at = axes.x(x);
  return add(layer, "path", { class: kind, d: `M${at} ${axes.area.top}V${axes.area.bottom}` });
}

export function band(axes, from, to, kind = "stage") {
  const left = Math.max(axes.x(from), axes.area.left), right = Math.min(axes.x(to), axes.area.right);
  if (right <= left) return;
  const { top, bottom } = axes.area;
  add(axes.back, "rect", { class: kind, x: left, y: top, width: right - left, height: bottom - top });
}

export function label(axes, x, y, text, kind = "", anchor = "start") {
  return add(axes.above, "text", { x, y, class: kind, "text-anchor": anchor }, text);
}

export function nothing(svg, text) {
  svg.replaceChildren();
  const { width, height } = svg.viewBox.baseVal;
  add(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "tick" }, text);
}
