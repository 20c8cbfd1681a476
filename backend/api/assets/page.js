// Keeps the page current: the server makes it anew, and each part that differs is put in place.
"use strict";

const PERIOD = 2000; // milliseconds
const PATIENCE = 5000;
const button = document.getElementById("pause");
let paused = false;

async function renew() {
  const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const made = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = made.getElementById(part.id);
    if (!other) throw new Error("not this page"); // somebody in between answers
    if (part.isEqualNode(other)) continue;
    part.className = other.className;
    part.replaceChildren(...other.childNodes); // the element stays: what is read out is its change
  }
  document.title = made.title;
}

function lost() {
  const verdict = document.getElementById("verdict");
  if (verdict.dataset.lost) return;
  verdict.dataset.lost = "yes"; // differs from whatever the server makes, so it is replaced then
  verdict.className = "verdict bad";
  const sentence = document.createElement("strong");
  sentence.textContent = "This page's server does not answer";
  const advice = document.createElement("p");
  advice.textContent = `The figures below are old. It is tried again every ${PERIOD / 1000} seconds.`;
  verdict.replaceChildren(sentence, advice);
  document.title = "InstaChat: no answer";
}

async function keepCurrent() {
  if (!paused && document.visibilityState === "visible") {
    try {
      await renew();
      delete document.getElementById("verdict").dataset.lost;
    } catch {
      lost();
    }
  }
  setTimeout(keepCurrent, PERIOD);
}

button.hidden = false;
button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Go on" : "Pause";
});
document.addEventListener("visibilitychange", () => {
  if (!paused && document.visibilityState === "visible") renew().catch(lost);
});
setTimeout(keepCurrent, PERIOD);
