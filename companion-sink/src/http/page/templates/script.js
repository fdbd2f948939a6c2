// The pages work without this. With it they show what changes while they are open.
"use strict";

const ROWS_MAX = 500;

// A part of the page that the server sends again when it has changed.
function keepShowing(part) {
  const source = new EventSource(part.dataset.live);
  source.onmessage = (event) => {
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const places = [...part.querySelectorAll("a, summary, [tabindex]")];
    const place = places.indexOf(focused);
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    const scrolled = [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    part.innerHTML = event.data;
    part.querySelectorAll("details").forEach((one, i) => { one.open = open[i] || false; });
    part.querySelectorAll(".scroll").forEach((one, i) => { one.scrollLeft = scrolled[i] || 0; });
    if (place >= 0) {
      const again = part.querySelectorAll("a, summary, [tabindex]")[place];
      if (again) again.focus({ preventScroll: true });
    }
    part.dataset.shown = Number(part.dataset.shown || 0) + 1;
  };
}

// A table into which records come.
function follow(rows) {
  const source = new EventSource(rows.dataset.follow);
  const told = document.querySelector("[data-live-state]");
  source.onopen = () => { told.hidden = false; };
  source.onerror = () => { told.hidden = true; };
  source.onmessage = (event) => {
    rows.insertAdjacentHTML("afterbegin", event.data);
    while (rows.rows.length > ROWS_MAX) rows.deleteRow(-1);
    document.getElementById("nothing").hidden = rows.rows.length > 0;
  };
  source.addEventListener("trouble", (event) => {
    source.close();
    told.textContent = "· " + event.data;
    told.hidden = false;
  });
}

// A form whose answer is a part of the page: it is shown as soon as a field changes.
function answerAtOnce(form) {
  const into = document.getElementById(form.dataset.into);
  const output = form.querySelector("output");
  const from = form.elements.from;
  let asking = null;
  form.querySelector("button").hidden = true;
  const ask = async () => {
    if (asking) asking.abort();
    asking = new AbortController();
    const address = new URL(form.action);
    for (const [name, value] of new FormData(form)) {
      if (value !== "") address.searchParams.set(name, value);
    }
    history.replaceState(null, "", address);
    address.searchParams.set("part", form.dataset.part);
    try {
      const answer = await fetch(address, { signal: asking.signal });
      if (answer.ok && !answer.redirected) into.innerHTML = await answer.text();
      else location.reload();
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  };
  form.addEventListener("input", () => {
    output.value = form.elements.version.value;
    from.placeholder = form.elements.version.value - 1;
    ask();
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
}

// On a narrow screen the list of parts is wider than the window.
const current = document.querySelector(".bar [aria-current]");
if (current) current.scrollIntoView({ block: "nearest", inline: "center" });
document.querySelectorAll("[data-live]").forEach(keepShowing);
document.querySelectorAll("[data-follow]").forEach(follow);
document.querySelectorAll("[data-part]").forEach(answerAtOnce);
