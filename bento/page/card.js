// One X-ray in the list: its picture, and what the service says of it.

import { classes, introduced, nameClasses, scale, views } from "./model.js";
import { Refusal, lane, service } from "./service.js";

const AT_ONCE = 3;

const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const previewing = lane(AT_ONCE);
const predicting = lane(AT_ONCE);
const explaining = lane(1);

/** Tell those who do not see the page. */
export function say(text) {
  byId("said").textContent = text;
}

/** The file as a form; its name, which may be a patient's, stays here. */
async function formOf(file) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new Refusal("It cannot be read: give files, not folders.");
  });
  const form = new FormData();
  form.append("xray", file, "xray");
  return form;
}

/** An item of the list; `changed` is called when its state may have. */
export class Card {
  constructor(file, signal, changed) {
    this.file = file;
    this.signal = signal;
    this.changed = changed;
    this.prediction = null;
    this.problem = null;
    this.element = byId("card").content.cloneNode(true).firstElementChild;
    this.name = file.name || "pasted picture";
    this.part(".name").textContent = this.name;
    this.part("article").setAttribute("aria-label", this.name);
    this.part(".again").addEventListener("click", () => this.predict());
    this.part(".explain").addEventListener("click", () => this.explain());
    introduced().then(() => (this.part(".view figcaption").textContent = spoken(views[0] ?? "")));
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  get done() {
    return this.prediction !== null || this.problem !== null;
  }

  preview() {
    return previewing(() => this.showPicture());
  }

  async showPicture() {
    const text = this.part(".xray p");
    const head = await this.file.slice(128, 132).text().catch(() => "");
    if (head === "DICM") {
      text.textContent = "Browsers cannot show DICOM. What it looked at shows it.";
      text.hidden = false;
      return;
    }
    const picture = this.part(".xray img");
    const address = URL.createObjectURL(this.file);
    picture.src = address;
    try {
      await picture.decode();
      picture.alt = `The X-ray ${this.name}`;
      picture.hidden = false;
    } catch {
      text.textContent = "No picture that this browser can show.";
      text.hidden = false;
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  state(text) {
    this.part(".state").textContent = text;
    this.part(".state").hidden = text === "";
  }

  async predict() {
    this.problem = null;
    this.part(".problem").hidden = true;
    this.part(".pictures").hidden = false;
    this.state("Waiting");
    this.changed();
    try {
      await predicting(async () => {
        this.signal.throwIfAborted();
        this.state("Reading");
        this.prediction = await service("predict", {
          body: await formOf(this.file),
          signal: this.signal,
          waits: (seconds) => this.state(`The service is busy: asking again in ${seconds} s`),
        });
      });
      // Bars need the names of the classes.
      await introduced();
      this.show();
    } catch (error) {
      if (this.signal.aborted) return;
      this.refused(error);
    }
    this.changed();
  }

  refused(error) {
    this.problem = error;
    this.state("");
    this.part(".problem p").textContent = error.message;
    this.part(".problem").hidden = false;
    this.part(".pictures").hidden = true;
    say(`${this.name}: ${error.message}`);
  }

  show() {
    const found = this.prediction;
    nameClasses(found.probabilities.length);
    this.state("");
    this.part(".label").textContent = found.label;
    this.part(".share").textContent = percent(found.probabilities[found.class]);
    this.part(".unlike").hidden = found.in_scope !== false;
    this.part(".unsure").hidden = found.abstain !== true || found.in_scope === false;
    this.element.classList.toggle("nothing", found.in_scope === false);
    this.part(".bars").replaceChildren(
      ...found.probabilities.map((share, index) => bar(index, share, index === found.class)),
    );
    // Of a picture that means nothing, a grade or a decision would look like a finding.
    if (found.decision !== undefined && found.in_scope !== false) {
      this.part(".decision strong").textContent = found.decision;
      this.part(".decision").hidden = false;
    }
    if (found.expected_grade !== undefined && found.in_scope !== false) {
      this.showGrade(found.expected_grade);
    }
    this.part(".answer").hidden = false;
    this.part(".explain").disabled = false;
    const notes = [".decision", ".unlike", ".unsure"].filter((each) => !this.part(each).hidden);
    const words = notes.map((each) => this.part(each).textContent.replace(/\s+/g, " "));
    say(`${this.name}: ${found.label}, ${this.part(".share").textContent}. ${words.join(" ")}`);
  }

  showGrade(grade) {
    const { name, ticks } = scale;
    const [least, most] = [ticks[0], ticks.at(-1)];
    const line = this.part(".scale");
    const mark = line.querySelector("i");
    this.part(".grade strong").textContent = grade.toFixed(1);
    this.part(".of").textContent = name ? `on the ${name} scale` : `between ${least} and ${most}`;
    mark.style.left = `${(100 * (grade - least)) / (most - least)}%`;
    line.replaceChildren(mark, ...ticks.map(tick));
    this.part(".grade").hidden = false;
  }

  async explain() {
    const button = this.part(".explain");
    const text = this.part(".view p");
    if (button.getAttribute("aria-disabled")) return;
    // A disabled button would lose the focus.
    button.setAttribute("aria-disabled", "true");
    text.textContent = "Looking";
    say(`${this.name}: looking`);
    try {
      const body = await formOf(this.file);
      const waits = (seconds) => (text.textContent = `Busy: asking again in ${seconds} s`);
      const found = await explaining(() =>
        service("explain", { body, signal: this.signal, waits }),
      );
      await this.showHeat(found);
    } catch (error) {
      if (this.signal.aborted) return;
      text.textContent = error.message;
      say(`${this.name}: ${error.message}`);
    }
    button.removeAttribute("aria-disabled");
  }

  async showHeat({ label, views: shown, heat }) {
    const place = this.part(".view");
    const figure = this.part(".heat");
    const picture = figure.querySelector("img");
    const button = this.part(".explain");
    const focused = document.activeElement === button;
    const pictures = Object.entries(shown).map(([name, view]) => {
      const each = place.cloneNode(true);
      each.querySelector("p").remove();
      each.querySelector("button").remove();
      each.querySelector("figcaption").textContent = spoken(name);
      const image = each.querySelector("img");
      image.src = `data:image/png;base64,${view}`;
      image.alt = `The ${spoken(name).toLowerCase()} of ${this.name}`;
      image.hidden = false;
      return each;
    });
    picture.src = `data:image/png;base64,${heat}`;
    const names = ["X-ray", ...Object.keys(shown).map((name) => spoken(name).toLowerCase())];
    picture.alt = `The ${names.join(" and its ")}, coloured by what spoke for ${label}`;
    const images = pictures.map((each) => each.querySelector("img"));
    await Promise.all([picture, ...images].map((each) => each.decode()));
    figure.querySelector("figcaption").textContent =
      `Red regions speak for “${label}”: with one covered, the network is less sure of it. ` +
      "Blue ones speak against it. All pictures are on one scale.";
    place.replaceWith(...pictures);
    figure.hidden = false;
    if (focused) figure.focus({ preventScroll: true });
    figure.scrollIntoView({ block: "nearest" });
    say(`${this.name}: ${[...names.slice(1), "heat"].join(" and ")} shown`);
  }
}

function tick(grade) {
  const mark = document.createElement("span");
  mark.textContent = grade;
  return mark;
}

/** What a view is called in a sentence. */
function spoken(name) {
  return name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
}

function bar(index, share, chosen) {
  const label = classes[index];
  const row = document.createElement("li");
  const name = document.createElement("span");
  const meter = document.createElement("div");
  const number = document.createElement("span");
  row.className = chosen ? "chosen" : "";
  name.textContent = label;
  number.textContent = percent(share);
  number.className = "number";
  meter.className = "meter";
  for (const [key, value] of Object.entries({
    role: "meter",
    "aria-label": label,
    "aria-valuemin": 0,
    "aria-valuemax": 1,
    "aria-valuenow": share,
    "aria-valuetext": percent(share),
  }))
    meter.setAttribute(key, value);
  meter.append(document.createElement("i"));
  meter.firstChild.style.width = `${100 * share}%`;
  row.append(name, meter, number);
  return row;
}
