// Says what model answers, and what it was proven to be.

import { service } from "./service.js";

const byId = (id) => document.getElementById(id);

/** The label of each class. */
export const classes = [];

/** The names of what the network is made to see of an X-ray besides. */
export const views = [];

const KNEES = "Kellgren-Lawrence";

/** What the grades are of, and which of them are written below it; null where there are none. */
export let scale = { name: KNEES, ticks: [0, 1, 2, 3, 4] };

/** Whether classes are grades of a knee: nothing of knees is said of other X-rays. */
export const ofKnees = () => scale?.name === KNEES;

function scaleOf({ grades, scale: name }) {
  const all = (grades ?? []).flat();
  if (!all.length) return null;
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const counted = all.every(Number.isInteger) && most - least <= 10;
  const ticks = counted ? Array.from({ length: most - least + 1 }, (_, i) => least + i) : [least, most];
  return { name, ticks };
}

/** Name what /info, where it was refused, has not named. */
export function nameClasses(count) {
  while (classes.length < count) classes.push(`class ${classes.length}`);
}

function fact(name, value, title = "") {
  const [term, text] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name;
  text.textContent = value;
  text.title = title;
  byId("facts").append(term, text);
}

function proofOf({ passed, samples, max_abs: differences }) {
  if (!passed) return "Not proven equal to PyTorch";
  const largest = Math.max(0, ...Object.values(differences ?? {}));
  return `Equal to PyTorch on ${samples} samples; largest difference ${largest.toExponential(1)}`;
}

function ruleOf({ positive, threshold, sensitivity, specificity }) {
  const [from, found, left] = [threshold, sensitivity, specificity].map(
    (share) => `${(100 * share).toFixed(1)} %`,
  );
  return `“${positive}” from ${from} on: sensitivity ${found}, specificity ${left} when it was chosen`;
}

async function introduce() {
  const problem = byId("model-problem");
  problem.textContent = "";
  try {
    const found = await service("info");
    byId("facts").replaceChildren();
    classes.splice(0, classes.length, ...found.classes);
    views.splice(0, views.length, ...(found.views ?? []));
    scale = scaleOf(found);
    for (const each of document.querySelectorAll(".knee")) each.hidden = !ofKnees();
    for (const each of document.querySelectorAll(".other")) each.hidden = ofKnees();
    if (!ofKnees()) document.title = "Classify an X-ray";
    fact("Name", found.model);
    fact("File", `SHA-256 ${found.model_sha256.slice(0, 12)}`, found.model_sha256);
    fact("Proof", proofOf(found.equivalence ?? {}));
    const active = String(found.provider?.active ?? "").replace("ExecutionProvider", "");
    fact("Runs on", [active, found.precision].filter(Boolean).join(", "));
    const grades = (index) => found.grades?.[index]?.join(", ");
    const named = classes.map((each, i) => (grades(i) ? `${each} (${grades(i)})` : each));
    fact("Classes", named.join(", "), scale ? `with their ${scale.name} grades` : "");
    if (found.operating_point) fact("Decision", ruleOf(found.operating_point));
    if (!found.ready) {
      introduction = null;
      problem.textContent = `Not ready: ${found.reason}`;
    }
  } catch (error) {
    introduction = null;
    problem.textContent = error.message;
  }
  problem.hidden = problem.textContent === "";
  byId("model").hidden = false;
}

let introduction = null;

/** Wait until it is said. Where it could not be, or was not ready, the next call asks again. */
export function introduced() {
  introduction ??= introduce();
  return introduction;
}
