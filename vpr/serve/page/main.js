// The question, its answer, and what both show on the map.

import { createGround } from "./ground.js";
import { showPair } from "./pair.js";
import { showCandidates } from "./strip.js";

const byId = (id) => document.getElementById(id);
const WORLD = [-180, -90, 180, 90];
const FEATURES = 800; // on the map at once; more are clustered by the server
const PAUSE_MS = 200; // after the map has moved, before its images are asked for

let settings;
let ground;
let photo = null; // a File or Blob
let photoUrl = "";
let asking = null; // AbortController of the question that is being answered
let moving = null; // the same of the images on the map
let pause = 0;

/** The JSON of an address. Throws an Error with the server's sentence. */
async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Does it still run?");
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const wait = response.headers.get("Retry-After");
  const sentence = body.detail || `The server answers with status ${response.status}.`;
  throw new Error(wait ? `${sentence} (Try again in ${wait} s.)` : sentence);
}

function complain(error) {
  if (error.name !== "AbortError") byId("wrong").textContent = error.message;
}

/** The place in the form: {lat, lon, radius}, or null if its fields are empty. Throws an Error for anything else. */
function placeInForm() {
  const texts = ["lat", "lon"].map((id) => byId(id).value.trim());
  if (texts.every((text) => !text)) return null;
  const radiusText = byId("radius").value.trim();
  const [lat, lon, radius] = [...texts, radiusText || "500"].map((text) => (text ? Number(text.replace(",", ".")) : NaN));
  if (!(Math.abs(lat) <= 90 && Math.abs(lon) <= 180)) throw new Error("Latitude is -90 to 90 degrees, longitude -180 to 180.");
  if (!(radius > 0 && radius < Infinity)) throw new Error("The radius is a number of metres, more than 0.");
  return { lat, lon, radius };
}

function setPlace(place) {
  byId("lat").value = place ? place.lat.toFixed(6) : "";
  byId("lon").value = place ? place.lon.toFixed(6) : "";
  showPlace();
  if (photo) locate();
}

function showPlace() {
  byId("wrong").textContent = "";
  try {
    ground.prior(placeInForm());
  } catch (error) {
    ground.prior(null);
    complain(error);
  }
}

function choose(file) {
  if (!file) return;
  if (file.size > settings.upload_mb * 1e6) {
    byId("wrong").textContent = `The file has ${(file.size / 1e6).toFixed(1)} MB, the server takes ${settings.upload_mb} MB; choose a smaller one.`;
    return;
  }
  URL.revokeObjectURL(photoUrl);
  photo = file;
  photoUrl = URL.createObjectURL(file);
  byId("photo").src = photoUrl;
  byId("photo").hidden = false;
  byId("photo-name").textContent = file.name || "pasted image";
  byId("ask").disabled = false;
  locate();
}

function form(fields) {
  const made = new FormData();
  made.append("image", photo, photo.name || "photo");
  for (const [name, value] of Object.entries(fields)) made.append(name, String(value));
  return made;
}

async function locate() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  byId("wrong").textContent = "";
  try {
    const place = placeInForm();
    byId("said").textContent = "Looking …";
    byId("answer").setAttribute("aria-busy", "true");
    const fields = place ? { lat: place.lat, lon: place.lon, radius_m: place.radius } : {};
    show(await ask("v1/locate", { method: "POST", body: form(fields), signal }));
  } catch (error) {
    if (!signal.aborted) show(null);
    complain(error);
  } finally {
    if (!signal.aborted) byId("answer").removeAttribute("aria-busy");
  }
}

/** The answer in words, on the map and as a strip of candidates; null: there is none. */
function show(answer) {
  byId("answer").classList.toggle("here", Boolean(answer?.here));
  byId("said").textContent = answer ? sentence(answer) : "";
  const candidates = answer?.candidates ?? [];
  const open = (rank) => showPair(rank, candidates, {
    photoUrl,
    thumbnails: settings.thumbnails,
    matches: (id, signal) => ask("v1/matches", { method: "POST", body: form({ id }), signal }),
  });
  byId("candidates").hidden = !candidates.length;
  showCandidates(byId("strip"), candidates, { thumbnails: settings.thumbnails, open });
  const placed = candidates.map((each, rank) => ({ ...degrees(each.position), rank, open: () => open(rank), name: each.name }));
  ground.candidates(placed.filter((each) => each.lat !== undefined));
  const position = answer?.here ? degrees(answer.position) : {};
  ground.answer(position.lat === undefined ? null : { ...position, label: percent(answer.probability) });
  const seen = [...(position.lat === undefined ? [] : [position]), ...placed.slice(0, 3)];
  ground.reveal(seen.filter((each) => each.lat !== undefined));
  if (answer) byId("answer").scrollIntoView({ block: "nearest" });
}

const percent = (probability) => (probability === null ? "?" : `${Math.round(100 * probability)}\u00a0%`);

function degrees(position) {
  return position?.latitude == null ? {} : { lat: position.latitude, lon: position.longitude };
}

function sentence(answer) {
  const first = answer.candidates[0];
  if (!first) return "Not here: no image of the map is compared with it.";
  const likely = answer.probability === null ? "" : ` Probability ${percent(answer.probability)}.`;
  if (!answer.here) return `Not here, as far as the map can tell.${likely} The nearest image is ${first.name}.`;
  return `${positionText(answer.position)}.${likely} As ${first.name}.`;
}

function positionText(position) {
  if (position?.latitude != null) return `${position.latitude.toFixed(6)}, ${position.longitude.toFixed(6)}`;
  if (position?.east_m != null) return `${position.east_m.toFixed(1)} m east, ${position.north_m.toFixed(1)} m north`;
  return "Here, but the position of the image is not known";
}

async function showImages(box) {
  moving?.abort();
  moving = new AbortController();
  const found = await ask(`v1/map?bbox=${box.join(",")}&limit=${FEATURES}`, { signal: moving.signal });
  const places = found.features.filter((each) => each.geometry).map((each) => ({
    lat: each.geometry.coordinates[1],
    lon: each.geometry.coordinates[0],
    count: each.properties.count ?? 1,
    name: each.properties.name ?? "",
  }));
  ground.images(places);
  return places;
}

function moved() {
  clearTimeout(pause);
  pause = setTimeout(() => showImages(ground.box()).catch(complain), PAUSE_MS);
}

function listen() {
  for (const id of ["file", "camera"]) {
    byId(id).addEventListener("change", (event) => {
      choose(event.target.files[0]);
      event.target.value = ""; // the same file may be chosen again
    });
  }
  for (const id of ["lat", "lon", "radius"]) byId(id).addEventListener("change", showPlace);
  byId("question").addEventListener("submit", (event) => {
    event.preventDefault();
    if (photo) locate();
  });
  byId("centre").addEventListener("click", () => setPlace(ground.centre()));
  byId("forget").addEventListener("click", () => setPlace(null));
  document.addEventListener("paste", (event) => choose(event.clipboardData?.files[0]));
  const dragging = (on) => document.body.classList.toggle("dragging", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    dragging(true);
  });
  document.addEventListener("dragleave", (event) => !event.relatedTarget && dragging(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    dragging(false);
    choose(event.dataTransfer.files[0]);
  });
  byId("photo").addEventListener("error", () => {
    byId("photo").hidden = true; // a format that this browser does not show; the server may read it
  });
}

async function start() {
  settings = await ask("page/settings.json");
  byId("about").textContent = `Asked of a map of ${settings.images.toLocaleString("en")} images.`;
  byId("attribution").textContent = settings.tiles?.attribution ?? "";
  ground = await createGround(byId("map"), settings, { pick: setPlace, moved });
  listen();
  document.body.dataset.ground = settings.leaflet ? "leaflet" : "plain";
  const places = await showImages(WORLD);
  if (places.length) ground.fit(places);
  else byId("place-hint").textContent = "No image of this map has a latitude and longitude.";
}

start().catch(complain);
