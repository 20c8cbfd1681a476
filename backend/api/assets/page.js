// Keeps the page current: fetches it again, and replaces each part that differs.
"use strict";

const INTERVAL_MS = 2000;
const TIMEOUT_MS = 5000;
const button = document.getElementById("pause");
let paused = false;

async function refresh() {
  const response = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const fetched = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fetched.getElementById(part.id);
    if (!other) throw new Error("not this page"); // a proxy answered
    if (part.isEqualNode(other)) continue;
    part.className = other.className;
    part.replaceChildren(...other.childNodes); // keep the element, so that screen readers announce the change
  }
  document.title = fetched.title;
}

function showDisconnected() {
  const summary = document.getElementById("summary");
  if (summary.dataset.disconnected) return;
  summary.dataset.disconnected = "yes"; // the server never sends this, so the next refresh replaces it
  summary.className = "summary critical";
  const sentence = document.createElement("strong");
  sentence.textContent = "This page's server does not answer";
  const advice = document.createElement("p");
  advice.textContent = `The figures below are old. The page retries every ${INTERVAL_MS / 1000} seconds.`;
  summary.replaceChildren(sentence, advice);
  document.title = "InstaChat: disconnected";
}

async function poll() {
  if (!paused && document.visibilityState === "visible") {
    try {
      await refresh();
      delete document.getElementById("summary").dataset.disconnected;
    } catch {
      showDisconnected();
    }
  }
  setTimeout(poll, INTERVAL_MS);
}

button.hidden = false;
button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Resume" : "Pause";
});
document.addEventListener("visibilitychange", () => {
  if (!paused && document.visibilityState === "visible") refresh().catch(showDisconnected);
});
setTimeout(poll, INTERVAL_MS);
