"use strict";
// The player: traces are [{title, tables: [[where, value]], steps: [[who, ring, at, text, cr3, [[where, old, new]], exit]]}].
(() => {
  const WHO = 0, RING = 1, AT = 2, TEXT = 3, CR3 = 4, CHANGES = 5, EXIT = 6, AROUND = 5;
  const by = (id) => document.getElementById(id);
  const traces = JSON.parse(by("traces").textContent);
  const places = traces.map(() => 0);
  let current = 0;

  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const drawn = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const isOutside = (step) => step[RING] < 0;
  const isExit = (step) => Boolean(step[EXIT]);
  const kindOf = (step) => isExit(step) ? "monitor" : isOutside(step) ? (step[WHO] === "CPU" ? "CPU" : "host") : step[WHO];
  const lanesOf = (trace) => {
    const of = (kind) => new Set(trace.steps.filter((step) => kindOf(step) === kind).map((step) => step[WHO]));
    return [...new Set(["program", "kernel", ...of("CPU"), ...of("monitor"), ...of("host")])];
  };

  const kindOfLane = (trace, who) => {
    const step = trace.steps.find((one) => one[WHO] === who);
    return step ? kindOf(step) : who;
  };

  // Who is in control over the whole run, all traces to one scale.
  const longest = Math.max(...traces.map((trace) => trace.steps.length));
  const strip = (trace) => {
    const lanes = lanesOf(trace), rows = Math.max(3, lanes.length), shown = drawn("svg",
      {viewBox: `0 0 ${longest} ${rows}`, preserveAspectRatio: "none", "aria-hidden": "true"});
    shown.append(drawn("rect", {x: 0, y: 0, width: trace.steps.length, height: rows, class: "rest"}));
    const wide = Math.max(1, longest / 200);
    for (let first = 0; first < trace.steps.length;) {
      let end = first;
      while (end < trace.steps.length && trace.steps[end][WHO] === trace.steps[first][WHO]) end++;
      const step = trace.steps[first];
      shown.append(drawn("rect", {x: first, y: lanes.indexOf(step[WHO]) + 0.08, width: Math.max(end - first, wide), height: 0.84,
        class: kindOf(step)}));
      first = end;
    }
    shown.append(drawn("line", {y1: 0, y2: rows, class: "cursor"}));
    return shown;
  };
  traces.forEach((trace, number) => {
    const button = element("button"), label = element("span"), exits = trace.steps.filter(isExit).length,
      instructions = trace.steps.filter((step) => !isOutside(step)).length;
    button.type = "button";
    label.append(element("strong", trace.title),
      element("small", `${instructions} instructions, ${exits} exit${exits === 1 ? "" : "s"}`));
    button.append(label, strip(trace));
    button.addEventListener("click", () => choose(number));
    by("systems").append(button);
  });

  const choose = (number) => { if (number < traces.length) { current = number; show(); } };
  const go = (place) => {
    places[current] = Math.max(0, Math.min(place, traces[current].steps.length - 1));
    show();
  };
  const nextExit = () => {
    const steps = traces[current].steps, found = steps.findIndex((step, at) => at > places[current] && isExit(step));
    go(found < 0 ? steps.length - 1 : found);
  };

  const showTables = (trace, place) => {
    const now = new Map(trace.tables);
    for (const step of trace.steps.slice(0, place + 1)) for (const [where, , value] of step[CHANGES]) now.set(where, value);
    const changes = new Map(trace.steps[place][CHANGES].map(([where, old]) => [where, old]));
    by("tables").replaceChildren(...[...now].filter(([, value]) => value).map(([where, value]) => {
      const row = element("tr", undefined, changes.has(where) ? "changed" : "");
      row.append(element("td", where), element("td", value),
        element("td", changes.has(where) ? `was ${changes.get(where) || "not there"}` : "", "was"));
      return row;
    }));
    document.querySelector(".stage .tables").hidden = !now.size;
  };
  const showListing = (trace, place) => {
    const first = Math.max(0, Math.min(place - AROUND, trace.steps.length - 2 * AROUND - 1));
    by("listing").replaceChildren(...trace.steps.slice(first, first + 2 * AROUND + 1).map((step, offset) => {
      const at = first + offset, line = element("li", undefined, (at === place ? "here" : "") + (isExit(step) ? " exit" : ""));
      line.append(...[at + 1, step[WHO], step[AT], step[TEXT]].map((text) => element("span", text)));
      line.addEventListener("click", () => go(at));
      return line;
    }));
  };
  const sentence = (step) => {
    if (!isOutside(step)) return `The ${step[WHO]} runs`;
    if (step[WHO] === "CPU") return "The CPU does it by itself: no exit";
    const who = ["Xen", "Dom0"].includes(step[WHO]) ? step[WHO] : `The ${step[WHO]}`;
    return isExit(step) ? `${who} is in control: an exit` : `${who} is at work: no exit`;
  };
  const show = () => {
    const trace = traces[current], place = places[current], step = trace.steps[place];
    by("who").textContent = sentence(step);
    by("what").textContent = step[TEXT];
    by("ring").textContent = isOutside(step) ? "–" : step[RING];
    by("at").textContent = step[AT] || "–";
    by("cr3").textContent = step[CR3] ? "0x" + step[CR3].toString(16) : "–";
    by("lanes").replaceChildren(...lanesOf(trace).map((who) =>
      element("div", who, `lane ${kindOfLane(trace, who)}${who === step[WHO] ? " here" : ""}`)));
    by("position").max = trace.steps.length - 1;
    by("position").value = place;
    by("count").textContent = `step ${place + 1} of ${trace.steps.length}`;
    by("back").disabled = place === 0;
    by("next").disabled = by("next-exit").disabled = place === trace.steps.length - 1;
    showTables(trace, place);
    showListing(trace, place);
    [...by("systems").children].forEach((button, number) => {
      button.setAttribute("aria-pressed", number === current);
      const cursor = button.querySelector(".cursor");
      cursor.setAttribute("x1", places[number] + 0.5);
      cursor.setAttribute("x2", places[number] + 0.5);
    });
    history.replaceState(null, "", `#${current + 1}.${place + 1}`);
  };

  by("back").addEventListener("click", () => go(places[current] - 1));
  by("next").addEventListener("click", () => go(places[current] + 1));
  by("next-exit").addEventListener("click", nextExit);
  by("position").addEventListener("input", (event) => go(Number(event.target.value)));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target === by("position")) return;
    if (event.key === "ArrowRight") go(places[current] + 1);
    else if (event.key === "ArrowLeft") go(places[current] - 1);
    else if (event.key === "n" || event.key === "N") nextExit();
    else if (event.key >= "1" && event.key <= "9") choose(Number(event.key) - 1);
    else return;
    event.preventDefault();
  });

  by("player").hidden = false;
  const [system, place] = location.hash.slice(1).split(".").map(Number);
  if (system >= 1 && system <= traces.length && place >= 1) { current = system - 1; go(place - 1); } else show();
})();
