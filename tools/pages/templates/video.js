// The page of one video: the slider finds its events anew.
const root = document.querySelector("main"), video = document.querySelector("video");
const svg = document.querySelector(".player svg"), seek = follow(video, svg);
const bytes = (name) => Uint8Array.from(atob(root.dataset[name]), (c) => c.charCodeAt(0)).buffer;
const scores = new Float32Array(bytes("scores"));
const [starts, ends] = [new Float64Array(bytes("starts")), new Float64Array(bytes("ends"))];
const classOf = new Uint16Array(bytes("classes")), names = JSON.parse(root.dataset.names);
const given = JSON.parse(root.dataset.rule);
const slider = document.querySelector("#threshold"), shown = document.querySelector("#value");
const rows = document.querySelector("#events tbody"), row = document.querySelector("#row");
const lane = svg.querySelector(".lane"), dashed = svg.querySelector(".threshold");
const [left, floor] = [Number(svg.dataset.left), Number(svg.dataset.floor)];
const seconds = Number(svg.dataset.seconds), width = svg.viewBox.baseVal.width - left;
// The pictures were drawn for the events at the run's threshold, known by their peaks.
const first = new Map([...rows.children].map((each) => [each.dataset.at, each]));
let events = [];

const clock = (second) => {
  const [whole, tenth] = second.toFixed(1).split("."), pad = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return `${h ? `${h}:${pad(m)}` : m}:${pad(s)}.${tenth}`;
};

function draw(rule) {
  events = findEvents(scores, starts, ends, rule);
  rows.replaceChildren(...events.map((event) => {
    const known = first.get(String(event.at));
    if (known && known.dataset.start === String(event.start)
        && known.dataset.end === String(event.end)) return known;
    const made = row.content.firstElementChild.cloneNode(true);
    const say = (field, text) => { made.querySelector(`.${field} .say`).textContent = text; };
    say("start", clock(event.start));
    say("end", clock(event.end));
    say("peak", event.peak.toFixed(3));
    say("at", clock(event.peak_time));
    say("mean", event.mean.toFixed(3));
    say("class", names.length ? names[classOf[event.at]] : "–");
    if (known) {
      made.querySelector(".picture").replaceWith(known.querySelector(".picture").cloneNode(true));
      made.querySelector(".caption").textContent = known.querySelector(".caption").textContent;
    }
    made.querySelector("button").dataset.to = event.start;
    return made;
  }));
  lane.replaceChildren(...events.map((event) => {
    const bar = document.createElementNS(svg.namespaceURI, "rect");
    const x = (second) => left + Math.min(second / seconds, 1) * width;
    const size = {x: x(event.start), width: Math.max(1.5, x(event.end) - x(event.start)),
                  y: lane.dataset.y, height: lane.dataset.height, fill: "var(--arm0)"};
    for (const [name, value] of Object.entries(size)) bar.setAttribute(name, value);
    bar.setAttribute("class", "event");
    return bar;
  }));
  const y = 4 + (1 - Math.min(Math.max(rule.threshold, 0), 1)) * (floor - 4);
  for (const end of ["y1", "y2"]) dashed.setAttribute(end, y.toFixed(1));
  shown.textContent = rule.threshold.toFixed(3);
  document.querySelector("#count").textContent =
    `${events.length} event${events.length === 1 ? "" : "s"}`;
  document.querySelector("#none").hidden = events.length > 0;
  document.querySelector("#events").hidden = !events.length;
  document.querySelector("#other").hidden = rule.threshold === given.threshold;
}

const rule = () => ({...given, threshold: Number(slider.value)});
slider.addEventListener("input", () => draw(rule()));
document.querySelector("#reset").addEventListener("click", () => {
  slider.value = given.threshold;
  draw(given);
});
document.querySelector("#events").addEventListener("click", (click) => {
  const button = click.target.closest("button");
  if (!button) return;
  seek(Number(button.dataset.to));
  video.focus();
});
// n and p go to the next and the previous event, k plays and pauses, wherever the focus is.
document.addEventListener("keydown", (key) => {
  if (key.ctrlKey || key.metaKey || key.altKey) return;
  const now = video.currentTime, begins = events.map((event) => event.start);
  const next = begins.find((second) => second > now + 0.05);
  const before = begins.findLast((second) => second < now - 0.5);
  if (key.key === "n" && next !== undefined) seek(next);
  if (key.key === "p" && before !== undefined) seek(before);
  if (key.key === "k") video.paused ? video.play() : video.pause();
});
draw(given);
