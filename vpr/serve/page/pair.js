// A dialog with the photograph, one candidate, and lines between their matches.

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SIDE = 480; // of both images across the direction in which they stand side by side
const GAP = 8;
const NARROW = 700; // pixels of the window: below, the images stand one above the other

let loading = null; // AbortController
let shown = null; // what `showPair` was called with, for the buttons

/** Open the dialog at a candidate. `matches(id, signal)` asks the server. */
export async function showPair(rank, candidates, source) {
  loading?.abort();
  loading = new AbortController();
  const { signal } = loading;
  const candidate = candidates[rank];
  shown = { rank, candidates, source };
  byId("pair-title").textContent = `${rank + 1}. ${candidate.name}`;
  byId("previous").disabled = rank === 0;
  byId("next").disabled = rank === candidates.length - 1;
  byId("drawing").replaceChildren();
  byId("pair-said").textContent = "Matching …";
  if (!byId("pair").open) byId("pair").showModal();
  try {
    const found = await source.matches(candidate.id, signal);
    byId("pair-said").textContent = said(found);
    byId("drawing").replaceChildren(drawing(found, candidate, source));
  } catch (error) {
    if (!signal.aborted) byId("pair-said").textContent = error.message;
  }
}

function said(found) {
  const chance = Math.round(found.inliers_by_chance);
  return `${found.inliers} inliers of ${found.matches.length} matches; unrelated images give about ${chance}.`;
}

function drawing(found, candidate, { photoUrl, thumbnails }) {
  const stacked = window.innerWidth < NARROW;
  const scales = [found.query, found.candidate].map((size) => SIDE / Math.max(1, stacked ? size.width : size.height));
  const [first, second] = [found.query, found.candidate].map((size, side) => [size.width * scales[side], size.height * scales[side]]);
  const offset = stacked ? [0, first[1] + GAP] : [first[0] + GAP, 0];
  const svg = element("svg", { viewBox: `0 0 ${offset[0] + second[0]} ${offset[1] + second[1]}`, role: "img" });
  svg.setAttribute("aria-label", `The photograph and ${candidate.name}, ${found.inliers} inliers as lines between them`);
  const address = thumbnails ? `v1/images/${candidate.id}/thumbnail?longest=1024` : "";
  svg.append(...picture(photoUrl, [0, 0], first), ...picture(address, offset, second));
  for (const inlier of [false, true]) {
    const group = element("g", { class: inlier ? "inliers" : "rejected" });
    for (const each of found.matches.filter((one) => one.inlier === inlier)) {
      const [x1, y1] = each.query.map((value) => value * scales[0]);
      const [x2, y2] = each.candidate.map((value, axis) => value * scales[1] + offset[axis]);
      group.append(element("line", { x1, y1, x2, y2 }));
    }
    svg.append(group);
  }
  return svg;
}

/** A grey rectangle, and above it the image if there is one. */
function picture(address, [x, y], [width, height]) {
  const box = { x, y, width, height };
  const ground = element("rect", { ...box, class: "lacking" });
  if (!address) return [ground];
  const image = element("image", { ...box, href: address, preserveAspectRatio: "none" });
  image.addEventListener("error", () => image.remove());
  return [ground, image];
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function step(by) {
  showPair(shown.rank + by, shown.candidates, shown.source);
  byId("pair-title").focus();
}

byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => byId("pair").close());
byId("pair").addEventListener("close", () => loading?.abort());
byId("rejected").addEventListener("change", (event) => byId("drawing").classList.toggle("all", event.target.checked));
