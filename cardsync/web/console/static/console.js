// Refreshes the regions of a page, copies ids, and leads by the keyboard. Every page works without it.
//
// A page is asked for again with its ETag, as often as the viewer prefers and never while the tab is hidden. Regions whose text
// changed are exchanged; what has the focus, an open form or a selection is left alone until the viewer is done with it.

const seconds = Number(document.documentElement.dataset.refresh || 0);
let tag = document.documentElement.dataset.tag || null;
let timer = null;
let under_way = false;
let behind = null; // the newest text of the page, while a region that is in use does not show it yet

function in_use(region) {
  const selection = document.getSelection();
  return region.contains(document.activeElement)
    || region.querySelector("details[open] form") !== null
    || (selection && !selection.isCollapsed && region.contains(selection.anchorNode));
}

// Returns whether a region was left alone.
function exchange(text) {
  let left_alone = false;
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const region of document.querySelectorAll("[data-region][id]")) {
    const other = fresh.getElementById(region.id);
    if (!other || other.innerHTML === region.innerHTML) continue;
    if (in_use(region)) { left_alone = true; continue; }
    const open = [...region.querySelectorAll("details")].map((one) => one.open);
    region.replaceChildren(...[...other.childNodes].map((node) => document.importNode(node, true)));
    region.querySelectorAll("details").forEach((one, n) => { one.open = open[n] || false; });
    add_copy_buttons(region);
  }
  return left_alone;
}

async function refresh() {
  if (document.hidden || under_way) return;
  under_way = true;
  try {
    const answer = await fetch(location.href, {
      headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store", credentials: "same-origin", redirect: "manual",
    });
    if (answer.type === "opaqueredirect" || answer.status === 403) { stop(); location.reload(); return; }
    const text = answer.status === 200 ? await answer.text() : behind;
    if (answer.status === 200) tag = answer.headers.get("ETag");
    if (text !== null) behind = exchange(text) ? text : null;
  } catch { /* the network is away: the next turn tries again */ } finally { under_way = false; }
}

function start() {
  stop();
  if (seconds && document.querySelector("[data-region]")) timer = setInterval(refresh, seconds * 1000);
}
function stop() { if (timer) { clearInterval(timer); timer = null; } }

// A region that is being counted is there within seconds: it is asked for a few times, whatever the viewer prefers.
function ask_soon(times) {
  if (times && document.querySelector("[data-soon]")) setTimeout(() => refresh().then(() => ask_soon(times - 1)), 1000);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) stop(); else { refresh(); start(); }
});

// A button beside what may be copied; the text itself stays readable and selectable.
function add_copy_buttons(root) {
  for (const one of root.querySelectorAll("[data-copy]")) {
    if (one.nextElementSibling?.classList.contains("copy")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy link";
    button.textContent = document.documentElement.dataset.labelCopy;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(one.textContent.trim());
      button.textContent = document.documentElement.dataset.labelCopied;
      setTimeout(() => { button.textContent = document.documentElement.dataset.labelCopy; }, 2000);
    });
    one.after(button);
  }
}

// g, then a letter: a section. / : find. ? : the list of keys. A viewer may turn them off (WCAG 2.2, 2.1.4).
let waits_for_letter = false;
document.addEventListener("keydown", (event) => {
  if (document.documentElement.dataset.keys === "off") return;
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, [contenteditable]")) return;
  if (waits_for_letter) {
    waits_for_letter = false;
    const link = document.querySelector(`a[data-key="${CSS.escape(event.key)}"]`);
    if (link) { event.preventDefault(); location.href = link.href; }
    return;
  }
  if (event.key === "g") { waits_for_letter = true; setTimeout(() => { waits_for_letter = false; }, 1500); }
  if (event.key === "/") {
    const find = document.querySelector('a[data-key="f"]');
    if (find) { event.preventDefault(); location.href = find.href; }
  }
  if (event.key === "?") { event.preventDefault(); location.href = document.documentElement.dataset.keysPage; }
});

// Once: the browser's own time zone, where no other was chosen.
if (!/(^|; )console-zone=/.test(document.cookie)) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone) {
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `console-zone=${zone}; Path=/; Max-Age=31536000; SameSite=Strict${secure}`;
  }
}

add_copy_buttons(document);
start();
ask_soon(5);
