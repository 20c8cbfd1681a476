// Keeps the page current: the server makes it anew, and each part that differs is put in place.
"use strict";

const INTERVAL_MS = 2000; // milliseconds
const TIMEOUT_MS = 5000;
const button = document.getElementById("pause");
let paused = false;

async function refresh() {
  const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const fetched = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fetched.getElementById(part.id);
    if (!other) throw new Error("not this page"); // somebody in between answers
    if (part.isEqualNode(other)) continue;
    part.className = other.className;
    part.replaceChildren(...other.childNodes); // the element stays: what is read out is its change
  }
  document.title = fetched.title;
}

function showDisconnected() {
  const summary = document.getElementById("summary");
  if (summary.dataset.disconnected) return;
  summary.dataset.disconnected = "yes"; // differs from whatever the server makes, so it is replaced then
  summary.className = "summary critical";
  const sentence = document.createElement("strong");
  sentence.textContent = "This page's server does not answer";
  const advice = document.createElement("p");
  advice.textContent = `The figures below are old. It is tried again every ${INTERVAL_MS / 1000} seconds.`;
  summary.replaceChildren(sentence, advice);
  document.title = "InstaChat: no answer";
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
  button.textContent = paused ? "Go on" : "Pause";
});
document.addEventListener("visibilitychange", () => {
  if (!paused && document.visibilityState === "visible") refresh().catch(showDisconnected);
});
setTimeout(poll, INTERVAL_MS);
