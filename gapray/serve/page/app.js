"use strict";
// The page of a gapray server. No build step: what is written here is what runs.

const KEY = "gapray-key";
const $ = (id) => document.getElementById(id);
const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
const STAGES = { fetch: "fetching", package: "cutting out the product", render: "drawing the turn", encode: "encoding", score: "scoring" };
let picture = "mask";
let video = null;
let views = [];
let stopEvents = null;
let turn = null;

const headers = () => {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}` } : {};
};

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  const error = told.error || {};
  throw new Error([error.message || `The server answered ${answer.status}.`, error.remedy].filter(Boolean).join("\n"));
}

function say(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message || String(error) : "";
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key-form").hidden = true;
  say(null);
});

// ---- giving photos

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
    const blobs = await Promise.all(names.map(async (name) => (await ask(`/assets/sample/${name}`)).blob()));
    send(blobs.map((blob, index) => new File([blob], names[index], { type: "image/jpeg" })));
  } catch (error) { say(error); }
});

async function send(files) {
  say(null);
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
    video = await (await ask("/v1/videos", { method: "POST", body: form })).json();
    follow();
  } catch (error) {
    $("work").hidden = true;
    say(error);
  }
}

function reset() {
  if (stopEvents) stopEvents.abort();
  if (turn) turn.stop();
  turn = null;
  for (const image of document.querySelectorAll("#views img")) URL.revokeObjectURL(image.src);
  views = [];
  $("views").replaceChildren();
  $("result").hidden = true;
  $("progress").value = 0;
}

// ---- watching the work: server-sent events, read by fetch because EventSource sends no key

async function follow() {
  stopEvents = new AbortController();
  const id = video.id;
  while (video && video.id === id) {
    try {
      const answer = await ask(`/v1/videos/${id}/events`, { signal: stopEvents.signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
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
          if (data && (await told(JSON.parse(data), kind === "done"))) return;
        }
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      $("stage").textContent = "the connection was lost; trying again";
    }
    await new Promise((again) => setTimeout(again, 1000));
  }
}

async function told(data, done) {
  video = data.video;
  const stage = STAGES[video.gap.stage] || (video.status === "queued" ? "waiting for a worker" : video.status);
  $("progress").value = video.progress;
  $("stage").textContent = done ? video.status : stage;
  await showViews(data.views);
  if (!done) return false;
  if (video.error) say({ message: [video.error.message, video.gap.remedy].filter(Boolean).join("\n") });
  if (video.status === "completed") await showResult();
  return true;
}

async function showViews(now) {
  for (const view of now) {
    let item = document.querySelector(`[data-view="${view.view}"]`);
    if (!item) {
      item = document.createElement("li");
      item.dataset.view = view.view;
      item.innerHTML = '<span class="none"></span><span class="name"></span>';
      item.querySelector(".name").textContent = `${view.azimuth_deg}°`;
      $("views").append(item);
    }
  }
  views = now;
  await Promise.all(now.map(showView));
}

async function showView(view) {
  const shown = view.pictures.includes(picture) ? picture : view.pictures.includes("mask") ? "mask" : view.pictures[0];
  const item = document.querySelector(`[data-view="${view.view}"]`);
  if (!shown || item.dataset.shown === shown) return;
  item.dataset.shown = shown;
  const blob = await (await ask(`/v1/videos/${video.id}/views/${view.view}/${shown}`)).blob();
  const image = new Image();
  image.alt = `${shown === "mask" ? "cut out" : shown} at ${view.azimuth_deg}°`;
  image.src = URL.createObjectURL(blob);
  item.replaceChild(image, item.firstChild);
}

for (const button of document.querySelectorAll("[data-picture]")) {
  button.addEventListener("click", () => {
    picture = button.dataset.picture;
    for (const other of document.querySelectorAll("[data-picture]")) other.setAttribute("aria-pressed", String(other === button));
    showViews(views).catch(say);
  });
}

$("cancel").addEventListener("click", async () => {
  if (!video) return;
  try {
    await ask(`/v1/videos/${video.id}`, { method: "DELETE" });
    video = null;
    reset();
    $("work").hidden = true;
  } catch (error) { say(error); }
});

// ---- the result

async function showResult() {
  const facts = video.gap.video;
  const sheet = await createImageBitmap(await (await ask(`/v1/videos/${video.id}/content?variant=spritesheet`)).blob());
  const clip = await (await ask(`/v1/videos/${video.id}/content`)).blob();
  turn = new Turn($("viewer"), sheet, facts);
  showScores(video.gap.scores, 0);
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
  if (!calm) turn.play();
}

class Turn {
  constructor(canvas, sheet, facts) {
    Object.assign(this, { canvas, sheet, facts, frame: 0, timer: 0 });
    this.side = sheet.width / facts.sprite_columns;
    canvas.width = canvas.height = this.side;
    this.draw();
    let from = null;
    canvas.onpointerdown = (event) => { this.pause(); from = { x: event.clientX, frame: this.frame }; canvas.setPointerCapture(event.pointerId); };
    canvas.onpointermove = (event) => {
      // A whole turn is one width of the picture. The product follows the finger.
      if (from) this.show(from.frame - Math.round((event.clientX - from.x) / canvas.clientWidth * facts.frames));
    };
    canvas.onpointerup = canvas.onpointercancel = () => { from = null; };
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
  const most = Math.max(0.1, ...scores.angles.map((one) => one.lpips)) * 1.1;
  const rings = [most / 3, 2 * most / 3, most];
  const at = (azimuth, value) => {
    const turned = (azimuth - 90) * Math.PI / 180, radius = 20 + 110 * value / most;
    return [150 + radius * Math.cos(turned), 150 + radius * Math.sin(turned)].map((one) => one.toFixed(1));
  };
  const dots = scores.angles.map((one) => {
    const [x, y] = at(one.azimuth_deg, one.lpips);
    const kind = one.kind === "key" ? "key" : "between";
    return `<circle class="${kind}" cx="${x}" cy="${y}" r="5"><title>${one.azimuth_deg}° ${one.kind}: LPIPS ${one.lpips.toFixed(3)}</title></circle>`;
  });
  const lines = rings.map((value) => `<circle class="ring" cx="150" cy="150" r="${(20 + 110 * value / most).toFixed(1)}"/>` +
    `<text x="153" y="${(150 - 22 - 110 * value / most).toFixed(1)}">${value.toFixed(2)}</text>`);
  $("polar").innerHTML = `<svg viewBox="0 0 300 300" role="img" aria-label="LPIPS by angle">${lines.join("")}` +
    `<line class="now" x1="150" y1="150" x2="150" y2="12"/>${dots.join("")}</svg>`;
  const rivals = Object.entries(scores.baselines || {}).map(([name, value]) => `${name} ${number(value)}`).join(", ");
  $("verdict").textContent = `LPIPS ${number(scores.lpips)} at angles drawn without their own photo (filled), ` +
    `${number(scores.key_lpips)} at captured ones (open); lower is better.` + (rivals ? ` Beside it: ${rivals}.` : "") +
    ` Gate: ${scores.gate}${scores.reasons.length ? ` (${scores.reasons.join("; ")})` : ""}.`;
}
