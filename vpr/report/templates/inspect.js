"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const FRAME = { left: 52, top: 26, width: 390, height: 340 };
  const GAP = 12;
  const two = data.runs.length > 1;
  const shown = Object.keys(data.pairs).map(Number).sort((a, b) => a - b);
  let chosen = -1, candidate = 0;

  function element(name, attributes, text) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function drawn(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // --- metrics and categories
  const axes = data.runs.flatMap((run, i) => Object.keys(run.metrics).map((name) => ({ run: i, name })));
  const label = (axis) => (two ? `${"AB"[axis.run]}: ` : "") + axis.name;
  const value = (axis, item) => data.runs[axis.run].metrics[axis.name][item];
  function text(number) {
    if (number === null || number === undefined) return "not known";
    return number === "inf" ? "failed" : String(Number(number.toPrecision(4)));
  }
  function category(item) {
    const right = data.runs.map((run) => run.right[item]);
    if (right.some((each) => each === null)) return "unknown";
    if (right.every((each) => each)) return "both";
    if (right.every((each) => !each)) return "neither";
    return right[0] ? "first" : "second";
  }
  const WORDS = two
    ? { both: "both right", first: "only A right", second: "only B right", neither: "both wrong", unknown: "not judged" }
    : { both: "right", neither: "wrong", unknown: "not judged" };

  // --- the scatter
  function scale(axis, logarithmic) {
    const known = data.names.map((_, item) => value(axis, item)).filter((each) => typeof each === "number");
    const move = (number) => (logarithmic ? Math.sign(number) * Math.log10(1 + Math.abs(number)) : number);
    let low = Math.min(...known.map(move)), high = Math.max(...known.map(move));
    if (!known.length) { low = 0; high = 1; }
    if (low > 0 && !logarithmic && low < 0.5 * high) low = 0;
    if (low === high) { low -= 0.5; high += 0.5; }
    const back = (number) => (logarithmic ? Math.sign(number) * (10 ** Math.abs(number) - 1) : number);
    const fails = data.names.some((_, item) => value(axis, item) === "inf");
    const room = fails ? 0.92 : 1;  // failures stand beyond the largest value
    const place = (number) => {
      if (number === null || number === undefined) return null;
      return number === "inf" ? 0.98 : room * (move(number) - low) / (high - low);
    };
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => [room * part, text(back(low + part * (high - low)))]);
    if (fails) ticks.push([0.98, "failed"]);
    return { place, ticks };
  }
  function drawScatter() {
    const svg = byId("scatter"), x = axes[byId("x-axis").value], y = axes[byId("y-axis").value];
    const across = scale(x, byId("log").checked), upwards = scale(y, byId("log").checked);
    svg.replaceChildren();
    svg.append(drawn("rect", { class: "frame", x: FRAME.left, y: FRAME.top, width: FRAME.width, height: FRAME.height }));
    for (const [part, said] of across.ticks) {
      svg.append(drawn("text", { x: FRAME.left + part * FRAME.width, y: FRAME.top + FRAME.height + 16, "text-anchor": "middle" }, said));
    }
    for (const [part, said] of upwards.ticks) {
      svg.append(drawn("text", { x: FRAME.left - 5, y: FRAME.top + (1 - part) * FRAME.height + 4, "text-anchor": "end" }, said));
    }
    svg.append(drawn("text", { x: FRAME.left + FRAME.width / 2, y: 412, "text-anchor": "middle" }, label(x)));
    svg.append(drawn("text", { x: 4, y: 10 }, label(y)));
    let hidden = 0;
    data.names.forEach((name, item) => {
      const right = across.place(value(x, item)), up = upwards.place(value(y, item));
      if (right === null || up === null) { hidden += 1; return; }
      const filled = item in data.pairs;
      const mark = drawn("circle", {
        class: `mark ${category(item)}${filled ? "" : " plain"}${item === chosen ? " chosen" : ""}`, "data-item": item,
        cx: FRAME.left + right * FRAME.width, cy: FRAME.top + (1 - up) * FRAME.height, r: filled ? 5 : 3.5,
      });
      mark.append(drawn("title", {}, `${name}\n${label(x)} ${text(value(x, item))}\n${label(y)} ${text(value(y, item))}`));
      svg.append(mark);
    });
    byId("counts").textContent = `${data.names.length} ${data.kind}, matches of ${shown.length} to show`
      + (hidden ? `; ${hidden} have no value on these axes` : "");
  }
  function drawLegend() {
    const legend = byId("legend");
    for (const [name, words] of Object.entries(WORDS)) {
      const count = data.names.filter((_, item) => category(item) === name).length;
      if (!count) continue;
      const part = element("span"), sign = drawn("svg", { viewBox: "0 0 12 12" });
      sign.append(drawn("circle", { class: name, cx: 6, cy: 6, r: 5 }));
      part.append(sign, `${words} (${count})`);
      legend.append(part);
    }
    legend.append(element("span", {}, `right: ${data.runs[0].rightness}`));
  }

  // --- one item
  const colour = (confidence) => `hsl(${300 - 2.4 * confidence} 90% 60%)`;  // magenta at 0, yellow at 100
  function lines(rows, left, style) {
    const groups = new Map();
    for (const [x0, y0, x1, y1, confidence] of rows) {
      const level = Math.min(9, Math.floor(confidence / 10));
      groups.set(level, (groups.get(level) || "") + `M${x0} ${y0}L${x1 + left} ${y1}`);
    }
    return [...groups].sort((a, b) => a[0] - b[0]).map(([level, d]) => drawn("path", style(level, d)));
  }
  function drawPair(pair) {
    const [first, second] = pair.images.map((number) => (number === null ? null : data.images[number]));
    const size = (image) => (image ? [image.width, image.height] : [560, 420]);
    const [w0, h0] = size(first), [w1, h1] = size(second), left = w0 + GAP;
    const svg = drawn("svg", { class: "drawing", viewBox: `0 0 ${left + w1} ${Math.max(h0, h1)}` });
    [[first, 0], [second, left]].forEach(([image, x]) => {
      if (image) svg.append(drawn("image", { href: image.uri, x, y: 0, width: image.width, height: image.height }));
    });
    if (byId("show-keypoints").checked) {
      pair.keypoints.forEach((points, side) => {
        const d = points.map(([x, y]) => `M${x + side * left} ${y}h0`).join("");
        if (d) svg.append(drawn("path", { class: "dots", d }));
      });
    }
    if (byId("show-rejected").checked) svg.append(...lines(pair.rejected, left, (level, d) => ({ class: "reject", d })));
    if (byId("show-inliers").checked) {
      svg.append(...lines(pair.inliers, left, (level, d) => ({ class: "inlier", d, stroke: colour(10 * level + 5) })));
    }
    if (byId("show-lines").checked) {
      for (const [x0, y0, x1, y1, u0, v0, u1, v1, stroke] of pair.segments) {
        svg.append(drawn("path", { class: "segment", d: `M${x0} ${y0}L${x1} ${y1}M${u0 + left} ${v0}L${u1 + left} ${v1}`, stroke }));
      }
    }
    return svg;
  }
  function drawItem() {
    byId("name").textContent = chosen < 0 ? "" : data.names[chosen];
    const methods = byId("methods");
    methods.replaceChildren();
    const found = data.pairs[chosen];
    byId("with-lines").hidden = !found || !found.flat().some((pair) => pair.segments.length);
    byId("candidate").hidden = !found || found.every((pairs) => pairs.length < 2);
    data.runs.forEach((run, i) => {
      const box = element("div", { class: "method", "data-run": i });
      box.append(element("h3", {}, two ? `${"AB"[i]}: ${run.title}` : run.title));
      const pairs = found ? found[i] : [];
      if (!pairs.length) {
        box.append(element("p", { class: "facts" }, found ? "An image of this item cannot be read."
          : "The matches of this item are not in this page; make it again with a larger --items."));
      } else {
        const pair = pairs[candidate % pairs.length];
        box.append(element("p", { class: "facts" }, `${pair.title}: ${pair.facts}`), drawPair(pair));
        const names = element("div", { class: "names" });
        names.append(element("span", {}, pair.names[0]), element("span", {}, pair.names[1]));
        box.append(names);
      }
      methods.append(box);
    });
    drawMetrics();
  }
  function drawMetrics() {
    const table = byId("metrics"), head = element("tr");
    table.replaceChildren(head);
    head.append(element("th", {}, "metric"), ...data.runs.map((run, i) => element("th", {}, two ? "AB"[i] : "value")));
    for (const name of new Set(axes.map((axis) => axis.name))) {
      const row = element("tr");
      row.append(element("td", {}, name));
      data.runs.forEach((run) => row.append(element("td", {}, name in run.metrics ? text(run.metrics[name][chosen]) : "")));
      table.append(row);
    }
  }
  function choose(item) {
    chosen = item;
    candidate = 0;
    byId("item").value = item;
    for (const mark of document.querySelectorAll(".mark")) mark.classList.toggle("chosen", Number(mark.dataset.item) === item);
    drawItem();
  }
  function step(by) {
    if (!shown.length) return;
    const place = shown.indexOf(chosen);
    const next = place >= 0 ? place + by : by > 0 ? shown.findIndex((item) => item > chosen) : shown.filter((item) => item < chosen).length - 1;
    choose(shown[(next + shown.length) % shown.length]);
  }

  // --- controls
  axes.forEach((axis, i) => ["x-axis", "y-axis"].forEach((id) => byId(id).append(element("option", { value: i }, label(axis)))));
  data.names.forEach((name, item) => byId("item").append(element("option", { value: item }, (item in data.pairs ? "" : "· ") + name)));
  const main = (run) => axes.findIndex((axis) => axis.run === run && axis.name === data.runs[run].main);
  const beside = axes.findIndex((axis) => axis.run === 0 && axis.name !== data.runs[0].main);
  byId("x-axis").value = main(0);
  byId("y-axis").value = two ? main(1) : Math.max(0, beside);
  for (const id of ["x-axis", "y-axis", "log"]) byId(id).addEventListener("change", drawScatter);
  for (const id of ["show-inliers", "show-rejected", "show-keypoints", "show-lines"]) byId(id).addEventListener("change", drawItem);
  byId("item").addEventListener("change", () => choose(Number(byId("item").value)));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("candidate").addEventListener("click", () => { candidate += 1; drawItem(); });
  byId("scatter").addEventListener("click", (event) => {
    const mark = event.target.closest(".mark");
    if (mark) choose(Number(mark.dataset.item));
  });
  const KEYS = { i: "show-inliers", r: "show-rejected", k: "show-keypoints", l: "show-lines" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    if (event.key === "ArrowRight") step(1);
    else if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "c") { candidate += 1; drawItem(); }
    else if (event.key in KEYS) { const box = byId(KEYS[event.key]); box.checked = !box.checked; drawItem(); }
    else return;
    event.preventDefault();
  });
  drawLegend();
  drawScatter();
  choose(shown.length ? shown[0] : 0);
})();
