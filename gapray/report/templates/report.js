// One script for both pages. No network, no library: it runs from disk.
"use strict";
const store = (() => {
  const key = "gapray-decisions";
  let memory = {};
  try { memory = JSON.parse(localStorage.getItem(key) || "{}"); } catch (error) { /* no storage: decisions last as long as the page */ }
  return {
    get: id => memory[id] || null,
    all: () => memory,
    set(id, video, decision) {
      if (decision) memory[id] = {video, decision}; else delete memory[id];
      try { localStorage.setItem(key, JSON.stringify(memory)); } catch (error) { /* as above */ }
    },
  };
})();

function overview(rows) {
  const PER_PAGE = 50;
  const body = document.querySelector("#products tbody"), find = document.getElementById("find");
  const status = document.getElementById("status"), least = document.getElementById("least");
  let sorted = {by: "id", up: true}, page = 0;
  const decided = row => { const entry = store.get(row.id); return entry && entry.video === row.video ? entry.decision : ""; };
  const value = (row, by) => by === "decision" ? decided(row) : row[by];
  function chosen() {
    const words = find.value.trim().toLowerCase(), floor = parseFloat(least.value);
    const kept = rows.filter(row => row.id.toLowerCase().includes(words) && (!status.value || row.status === status.value)
      && (Number.isNaN(floor) || (row.lpips !== null && row.lpips >= floor)));
    return kept.sort((a, b) => {
      const x = value(a, sorted.by), y = value(b, sorted.by);
      if (x === null || y === null) return (x === null) - (y === null);  // what has no number comes last either way
      const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), undefined, {numeric: true});
      return sorted.up ? order : -order;
    });
  }
  function cell(row, text, kind) { const td = row.insertCell(); td.textContent = text; if (kind) td.className = kind; return td; }
  const number = (value, digits) => value === null ? "" : value.toFixed(digits);
  function draw() {
    const kept = chosen(), pages = Math.max(1, Math.ceil(kept.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    body.replaceChildren();
    for (const item of kept.slice(page * PER_PAGE, (page + 1) * PER_PAGE)) {
      const row = body.insertRow();
      const picture = row.insertCell();
      if (item.thumb) picture.append(Object.assign(new Image(), {src: item.thumb, alt: "", className: "thumb", loading: "lazy"}));
      const name = row.insertCell();
      if (item.page) name.append(Object.assign(document.createElement("a"), {href: item.page, textContent: item.id})); else name.textContent = item.id;
      cell(row, item.status, item.status);
      cell(row, number(item.lpips, 3), "number"); cell(row, number(item.worst, 3), "number"); cell(row, number(item.iou, 3), "number");
      cell(row, item.azimuths_by || ""); cell(row, item.reason); const decision = decided(item); cell(row, decision, decision);
    }
    document.getElementById("page").textContent = `${kept.length} products, page ${page + 1} of ${pages}`;
    document.getElementById("before").disabled = page === 0;
    document.getElementById("after").disabled = page >= pages - 1;
    document.getElementById("decided").textContent = `${rows.filter(decided).length} decided`;
    for (const button of document.querySelectorAll("[data-sort]")) {
      const head = button.closest("th");
      if (button.dataset.sort === sorted.by) head.setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  }
  for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => {
    sorted = {by: button.dataset.sort, up: sorted.by === button.dataset.sort ? !sorted.up : true}; draw();
  });
  for (const control of [find, status, least]) control.addEventListener("input", () => { page = 0; draw(); });
  document.getElementById("before").addEventListener("click", () => { page -= 1; draw(); });
  document.getElementById("after").addEventListener("click", () => { page += 1; draw(); });
  document.getElementById("download").addEventListener("click", () => {
    const quoted = text => `"${String(text).replaceAll('"', '""')}"`;
    const lines = rows.filter(decided).map(row => [row.id, row.video, decided(row)].map(quoted).join(","));
    const file = new Blob([["product_id,video_key,decision", ...lines].join("\r\n") + "\r\n"], {type: "text/csv"});
    const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(file), download: "decisions.csv"});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  draw();
}

function product(facts) {
  const cut = (element, sprite, index) => {
    const {columns, rows} = sprite, x = index % columns, y = Math.floor(index / columns);
    element.style.backgroundImage = `url("${sprite.src}")`;
    element.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
    element.style.backgroundPosition = `${columns > 1 ? x / (columns - 1) * 100 : 0}% ${rows > 1 ? y / (rows - 1) * 100 : 0}%`;
  };
  const apart = (a, b) => Math.abs((a - b + 540) % 360 - 180);
  const nearest = (angles, to) => angles.reduce((best, angle, index) => apart(angle, to) < apart(angles[best], to) ? index : best, 0);
  const ring = document.getElementById("ring");
  facts.photos.angles.forEach(angle => {
    const figure = document.createElement("figure"), stage = document.createElement("div"), caption = document.createElement("figcaption");
    stage.className = "stage"; cut(stage, facts.photos, facts.photos.angles.indexOf(angle)); caption.textContent = `${angle}°`;
    figure.append(stage, caption); ring.append(figure);
    if (facts.turn) stage.addEventListener("click", () => { stop(); show(nearest(facts.turn.angles, angle)); });
  });
  if (!facts.turn) return;
  const {angles} = facts.turn, count = angles.length;
  const spin = document.getElementById("spin"), photo = document.getElementById("photo"), slider = document.getElementById("angle");
  const playing = document.getElementById("play");
  let at = 0, timer = null;
  function show(position) {
    at = ((position % count) + count) % count;
    const index = Math.floor(at), angle = angles[index], view = nearest(facts.photos.angles, angle);
    cut(spin, facts.turn, index); cut(photo, facts.photos, view);
    const off = apart(facts.photos.angles[view], angle);
    document.getElementById("at").textContent = `${angle}°, ${off < 0.5 ? "a captured angle" : "in between"}`;
    document.getElementById("photo-at").textContent = `${facts.photos.angles[view]}°`;
    spin.setAttribute("aria-valuenow", Math.round(angle)); spin.setAttribute("aria-valuetext", `${angle} degrees`);
    slider.value = index;
  }
  function stop() { clearInterval(timer); timer = null; playing.setAttribute("aria-pressed", "false"); }
  function play() { stop(); timer = setInterval(() => show(Math.floor(at) + 1), 100); playing.setAttribute("aria-pressed", "true"); }
  playing.addEventListener("click", () => timer ? stop() : play());
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  let held = null;
  spin.addEventListener("pointerdown", event => { stop(); held = {x: event.clientX, at}; spin.setPointerCapture(event.pointerId); });
  spin.addEventListener("pointermove", event => { if (held) show(held.at - (event.clientX - held.x) / spin.clientWidth * count / 2); });
  for (const kind of ["pointerup", "pointercancel"]) spin.addEventListener(kind, () => { held = null; });
  spin.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: count / 8, PageDown: -count / 8}[event.key];
    if (step) { stop(); show(Math.floor(at) + Math.round(step)); }
    else if (event.key === "Home") { stop(); show(0); }
    else if (event.key === "End") { stop(); show(count - 1); }
    else if (event.key === " ") { timer ? stop() : play(); }
    else return;
    event.preventDefault();
  });
  const {product: id, video} = document.body.dataset;
  const buttons = document.querySelectorAll("[data-decide]");
  const decision = () => { const entry = store.get(id); return entry && entry.video === video ? entry.decision : null; };
  const mark = () => buttons.forEach(button => button.setAttribute("aria-pressed", String(button.dataset.decide === decision())));
  buttons.forEach(button => button.addEventListener("click", () => {
    store.set(id, video, decision() === button.dataset.decide ? null : button.dataset.decide); mark();
  }));
  mark();
  show(0);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play();
}

if (window.GAPRAY_PRODUCTS) overview(window.GAPRAY_PRODUCTS);
if (window.GAPRAY_PRODUCT) product(window.GAPRAY_PRODUCT);
