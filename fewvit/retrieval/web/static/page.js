"use strict";
// What makes the page quicker: paste, drop, keys. Everything it does can be done without it, by links and forms.

const root = document.documentElement;
root.classList.add("js");
const form = document.getElementById("upload");
const file = document.getElementById("file");
const help = document.getElementById("help");
const busy = document.getElementById("busy");

// ---- images that come in

function send(files) {
  const images = Array.from(files).filter((one) => one.type.startsWith("image/"));
  if (!form || images.length === 0) return false;
  const list = new DataTransfer();
  images.forEach((one) => list.items.add(one));
  file.files = list.files;
  form.requestSubmit();
  return true;
}

if (form) {
  file.addEventListener("change", () => file.files.length && form.requestSubmit());
  form.addEventListener("submit", () => { busy.hidden = false; });
  document.addEventListener("paste", (event) => {
    if (send(event.clipboardData.files)) event.preventDefault();
  });
  let depth = 0; // dragenter and dragleave come for every element on the way
  const over = (change) => { depth = Math.max(0, depth + change); document.body.classList.toggle("over", depth > 0); };
  document.addEventListener("dragenter", (event) => { event.preventDefault(); over(1); });
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(0);
    if (send(event.dataTransfer.files)) return;
    const address = event.dataTransfer.getData("text/uri-list"); // one of this page's own images, by its link
    const card = Array.from(document.querySelectorAll(".card")).find((one) =>
      Array.from(one.querySelectorAll("a, img")).some((part) => (part.href || part.src) === address));
    if (card) go(card.querySelector(".plus"));
  });
}
window.addEventListener("pageshow", () => { // also when one comes back to it
  if (!form) return;
  busy.hidden = true;
  form.reset();
});

// ---- keys

function go(link) {
  if (link) link.click();
}

function cards() {
  return Array.from(document.querySelectorAll(".card .more"));
}

function neighbour(all, at, key) {
  if (key === "ArrowLeft") return at - 1;
  if (key === "ArrowRight") return at + 1;
  const columns = all.filter((one) => one.offsetParent && one.parentElement.offsetTop === all[0].parentElement.offsetTop).length;
  return key === "ArrowUp" ? at - columns : at + columns;
}

function move(event) {
  const all = cards();
  if (all.length === 0) return;
  const current = document.activeElement.closest(".card");
  const at = current ? all.indexOf(current.querySelector(".more")) : -1;
  const next = at < 0 ? 0 : neighbour(all, at, event.key);
  if (next < 0 || next >= all.length) return;
  event.preventDefault();
  all[next].focus();
  all[next].scrollIntoView({ block: "nearest" });
}

function leave() {
  const active = document.activeElement;
  if (location.hash === "#help") {
    location.hash = "results";
    document.getElementById("help-link").focus();
  } else if (active && active !== document.body) {
    active.blur();
  } else if (location.pathname !== "/" || location.search) {
    location.assign("/");
  }
}

const keys = {
  "/": (event) => { event.preventDefault(); document.getElementById("class")?.focus(); },
  "u": (event) => { event.preventDefault(); file?.click(); },
  "?": () => { if (help) { location.hash = "help"; help.focus(); } },
  "+": () => go(document.activeElement.closest(".card")?.querySelector(".plus")),
  "-": () => go(document.activeElement.closest(".card")?.querySelector(".minus")),
  "o": () => go(document.activeElement.closest(".card")?.querySelector(".alone")),
  "n": () => go(document.querySelector("a[rel=next]")),
  "p": () => go(document.querySelector("a[rel=prev]")),
  "ArrowLeft": move, "ArrowRight": move, "ArrowUp": move, "ArrowDown": move,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "Escape") { leave(); return; }
  if (event.target.closest("input, textarea, select") && event.target.type !== "file") return;
  if (location.hash === "#help" && event.key !== "?") return;
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action) action(event);
});

const dialogLink = document.getElementById("help-link");
if (dialogLink) dialogLink.addEventListener("click", () => setTimeout(() => help.focus()));
