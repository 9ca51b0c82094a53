"use strict";
// The web page of a gapray server. There is no build step.

const KEY = "gapray-key";
const $ = (id) => document.getElementById(id);
const reducedMotion = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
const STAGES = { fetch: "fetching", package: "cutting out the product", render: "drawing the turn", encode: "encoding", score: "scoring" };
let picture = "mask";
let video = null;
let views = [];
let eventsController = null;
let viewer = null;

const headers = () => {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}` } : {};
};

async function request(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  const error = body.error || {};
  throw new Error([error.message || `The server answered ${response.status}.`, error.remedy].filter(Boolean).join("\n"));
}

function showError(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message || String(error) : "";
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key-form").hidden = true;
  showError(null);
});

// ---- uploading photos

$("files").addEventListener("change", () => { if ($("files").files.length) send([...$("files").files]); });
for (const kind of ["dragenter", "dragover"]) {
  $("drop").addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length) send([...event.dataTransfer.files]);
});
$("sample").addEventListener("click", async () => {
  try {
    const names = Array.from({ length: 8 }, (_, step) => `mug_${String(45 * step).padStart(3, "0")}.jpg`);
    const blobs = await Promise.all(names.map(async (name) => (await request(`/assets/sample/${name}`)).blob()));
    send(blobs.map((blob, index) => new File([blob], names[index], { type: "image/jpeg" })));
  } catch (error) { showError(error); }
});

async function send(files) {
  showError(null);
  reset();
  const form = new FormData();
  const byName = new Intl.Collator(undefined, { numeric: true });
  files.sort((a, b) => byName.compare(a.name, b.name));
  form.append("prompt", "a product photo on a plain white background");
  form.append("direction", $("clockwise").checked ? "cw" : "ccw");
  form.append("names", $("in-order").checked ? "order" : "auto");
  for (const file of files) form.append("input_reference[]", file, file.name);
  $("work").hidden = false;
  $("stage").textContent = "sending";
  try {
    video = await (await request("/v1/videos", { method: "POST", body: form })).json();
    followProgress();
  } catch (error) {
    $("work").hidden = true;
    showError(error);
  }
}

function reset() {
  if (eventsController) eventsController.abort();
  if (viewer) viewer.stop();
  viewer = null;
  for (const image of document.querySelectorAll("#views img")) URL.revokeObjectURL(image.src);
  views = [];
  $("views").replaceChildren();
  $("result").hidden = true;
  $("progress").value = 0;
}

// ---- progress: server-sent events, read with fetch because EventSource cannot send a key

async function followProgress() {
  eventsController = new AbortController();
  const id = video.id;
  while (video && video.id === id) {
    try {
      const response = await request(`/v1/videos/${id}/events`, { signal: eventsController.signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const [, kind] = part.match(/^event: (\w+)/m) || [];
          const [, data] = part.match(/^data: (.*)$/m) || [];
          if (kind === "gone") return reset();
          if (data && (await handleEvent(JSON.parse(data), kind === "done"))) return;
        }
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      $("stage").textContent = "the connection was lost; trying again";
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function handleEvent(data, done) {
  video = data.video;
  const stage = STAGES[video.gap.stage] || (video.status === "queued" ? "waiting for a worker" : video.status);
  $("progress").value = video.progress;
  $("stage").textContent = done ? video.status : stage;
  await showViews(data.views);
  if (!done) return false;
  if (video.error) showError({ message: [video.error.message, video.gap.remedy].filter(Boolean).join("\n") });
  if (video.status === "completed") await showResult();
  return true;
}

async function showViews(current) {
  for (const view of current) {
    let item = document.querySelector(`[data-view="${view.view}"]`);
    if (!item) {
      item = document.createElement("li");
      item.dataset.view = view.view;
      item.innerHTML = '<span class="none"></span><span class="name"></span>';
      item.querySelector(".name").textContent = `${view.azimuth_deg}°`;
      $("views").append(item);
    }
  }
  views = current;
  await Promise.all(current.map(showView));
}

async function showView(view) {
  const shown = view.pictures.includes(picture) ? picture : view.pictures.includes("mask") ? "mask" : view.pictures[0];
  const item = document.querySelector(`[data-view="${view.view}"]`);
  if (!shown || item.dataset.shown === shown) return;
  item.dataset.shown = shown;
  const blob = await (await request(`/v1/videos/${video.id}/views/${view.view}/${shown}`)).blob();
  const image = new Image();
  image.alt = `${shown === "mask" ? "cut out" : shown} at ${view.azimuth_deg}°`;
  image.src = URL.createObjectURL(blob);
  item.replaceChild(image, item.firstChild);
}

for (const button of document.querySelectorAll("[data-picture]")) {
  button.addEventListener("click", () => {
    picture = button.dataset.picture;
    for (const other of document.querySelectorAll("[data-picture]")) other.setAttribute("aria-pressed", String(other === button));
    showViews(views).catch(showError);
  });
}

$("cancel").addEventListener("click", async () => {
  if (!video) return;
  try {
    await request(`/v1/videos/${video.id}`, { method: "DELETE" });
    video = null;
    reset();
    $("work").hidden = true;
  } catch (error) { showError(error); }
});

// ---- the result

async function showResult() {
  const facts = video.gap.video;
  const sheet = await createImageBitmap(await (await request(`/v1/videos/${video.id}/content?variant=spritesheet`)).blob());
  const clip = await (await request(`/v1/videos/${video.id}/content`)).blob();
  viewer = new TurntableViewer($("viewer"), sheet, facts);
  showScores(video.gap.scores);
  const links = [[facts.name, clip], ["scores.json", new Blob([JSON.stringify(video.gap, null, 2)], { type: "application/json" })]];
  $("downloads").replaceChildren(...links.map(([name, blob]) => {
    const link = document.createElement("a");
    link.className = "button";
    link.download = name;
    link.href = URL.createObjectURL(blob);
    link.textContent = `Download ${name}`;
    return link;
  }));
  $("warnings").textContent = (video.gap.warnings || []).join(" ");
  $("cancel").textContent = "Delete";
  $("result").hidden = false;
  if (!reducedMotion) viewer.play();
}

class TurntableViewer {
  constructor(canvas, sheet, facts) {
    Object.assign(this, { canvas, sheet, facts, frame: 0, timer: 0 });
    this.side = sheet.width / facts.sprite_columns;
    canvas.width = canvas.height = this.side;
    this.draw();
    let dragStart = null;
    canvas.onpointerdown = (event) => { this.pause(); dragStart = { x: event.clientX, frame: this.frame }; canvas.setPointerCapture(event.pointerId); };
    canvas.onpointermove = (event) => {
      // Dragging across the whole width is one turn; the product follows the pointer.
      if (dragStart) this.show(dragStart.frame - Math.round((event.clientX - dragStart.x) / canvas.clientWidth * facts.frames));
    };
    canvas.onpointerup = canvas.onpointercancel = () => { dragStart = null; };
    canvas.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 6, PageDown: -6 }[event.key];
      if (step) this.show(this.frame + step);
      else if (event.key === "Home") this.show(0);
      else if (event.key === "End") this.show(-1);
      else if (event.key === " ") $("play").click();
      else return;
      event.preventDefault();
      if (event.key !== " ") this.pause();
    };
    $("play").onclick = () => (this.timer ? this.pause() : this.play());
  }
  show(frame) {
    this.frame = ((frame % this.facts.frames) + this.facts.frames) % this.facts.frames;
    this.draw();
  }
  draw() {
    const columns = this.facts.sprite_columns;
    const x = (this.frame % columns) * this.side, y = Math.floor(this.frame / columns) * this.side;
    this.canvas.getContext("2d").drawImage(this.sheet, x, y, this.side, this.side, 0, 0, this.side, this.side);
    const azimuth = Math.round(this.facts.azimuths_deg[this.frame]);
    this.canvas.setAttribute("aria-valuenow", String(azimuth));
    this.canvas.setAttribute("aria-valuetext", `${azimuth} degrees`);
    $("angle").textContent = `${azimuth}°`;
    const hand = document.querySelector("#polar .now");
    if (hand) hand.setAttribute("transform", `rotate(${azimuth} 150 150)`);
  }
  play() {
    this.stop();
    this.timer = setInterval(() => this.show(this.frame + 1), 1000 / this.facts.fps);
    $("play").textContent = "Pause";
    $("play").setAttribute("aria-pressed", "true");
  }
  pause() {
    this.stop();
    $("play").textContent = "Play";
    $("play").setAttribute("aria-pressed", "false");
  }
  stop() { clearInterval(this.timer); this.timer = 0; }
}

function showScores(scores) {
  const number = (value) => (value === null || value === undefined ? "not measured" : value.toFixed(3));
  if (!scores || scores.error) {
    $("polar").replaceChildren();
    $("verdict").textContent = scores ? `Not scored: ${scores.error.message}` : "Not scored.";
    return;
  }
  const max = Math.max(0.1, ...scores.angles.map((angle) => angle.lpips)) * 1.1;
  const radiusOf = (value) => 20 + 110 * value / max;
  const position = (azimuth, value) => {
    const radians = (azimuth - 90) * Math.PI / 180, radius = radiusOf(value);
    return [150 + radius * Math.cos(radians), 150 + radius * Math.sin(radians)].map((coordinate) => coordinate.toFixed(1));
  };
  const dots = scores.angles.map((angle) => {
    const [x, y] = position(angle.azimuth_deg, angle.lpips);
    const kind = angle.kind === "key" ? "key" : "between";
    return `<circle class="${kind}" cx="${x}" cy="${y}" r="5"><title>${angle.azimuth_deg}° ${angle.kind}: LPIPS ${angle.lpips.toFixed(3)}</title></circle>`;
  });
  const rings = [max / 3, 2 * max / 3, max].map((value) => `<circle class="ring" cx="150" cy="150" r="${radiusOf(value).toFixed(1)}"/>` +
    `<text x="153" y="${(148 - radiusOf(value)).toFixed(1)}">${value.toFixed(2)}</text>`);
  $("polar").innerHTML = `<svg viewBox="0 0 300 300" role="img" aria-label="LPIPS by angle">${rings.join("")}` +
    `<line class="now" x1="150" y1="150" x2="150" y2="12"/>${dots.join("")}</svg>`;
  const baselines = Object.entries(scores.baselines || {}).map(([name, value]) => `${name} ${number(value)}`).join(", ");
  $("verdict").textContent = `LPIPS ${number(scores.lpips)} at angles drawn without their own photo (filled), ` +
    `${number(scores.key_lpips)} at captured ones (open); lower is better.` + (baselines ? ` Baselines: ${baselines}.` : "") +
    ` Gate: ${scores.gate}${scores.reasons.length ? ` (${scores.reasons.join("; ")})` : ""}.`;
}
