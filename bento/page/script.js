// The list of X-rays: how they come in, and how what was said of them goes out.

import { Card, say } from "./card.js";
import { classes, introduced, ofKnees, scale } from "./model.js";
import { guarded, service } from "./service.js";

const byId = (id) => document.getElementById(id);

let cards = [];
let stop = new AbortController();

function counted() {
  const done = cards.filter((each) => each.done).length;
  const word = cards.length === 1 ? "X-ray" : "X-rays";
  byId("count").textContent =
    done === cards.length ? `${done} ${word}` : `${done} of ${cards.length} ${word}`;
  byId("results").hidden = cards.length === 0;
  byId("download").disabled = done === 0;
  document.body.classList.toggle("begun", cards.length > 0);
}

/** The newest come first, in the order in which they were given. */
function add(files) {
  const added = [...files].map((file) => new Card(file, stop.signal, counted));
  cards = [...added, ...cards];
  byId("cards").prepend(...added.map((each) => each.element));
  for (const each of added) {
    each.preview();
    each.predict();
  }
}

function clear() {
  stop.abort();
  stop = new AbortController();
  cards = [];
  byId("cards").replaceChildren();
  counted();
  say("The list is empty");
  byId("choose").focus();
}

/** A field of a CSV file that no spreadsheet takes for a formula, whatever stands before that. */
function field(value) {
  const text = String(value ?? "");
  const formula = /^[\p{Z}\p{C}]|^[^\p{L}\p{N}]*[=+\-−@]/u;
  const safe = typeof value === "string" && formula.test(text.normalize("NFKC")) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}

function csv() {
  const names = classes.map((label) => `p_${label}`);
  const grade = scale ? ["expected_grade"] : [];
  const decides = cards.some(({ prediction }) => prediction?.decision !== undefined);
  const decision = decides ? ["decision"] : [];
  const head = ["file", "class", "label", ...names, ...grade, "abstain", "in_scope", ...decision];
  const rows = cards.filter((each) => each.done).map(({ name, prediction, problem }) => {
    const found = prediction ?? {};
    const shares = classes.map((_, index) => found.probabilities?.[index]);
    const grades = grade.map((each) => found[each]);
    const decided = decision.map((each) => found[each]);
    const rest = [found.abstain, found.in_scope, ...decided, found.model_sha256];
    return [name, found.class, found.label, ...shares, ...grades, ...rest, problem?.message];
  });
  const lines = [[...head, "model_sha256", "problem"], ...rows].map((row) => row.map(field).join());
  return `${lines.join("\r\n")}\r\n`;
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Where a token is asked for, the link by itself would lead to a refusal. */
async function saveInterface(event) {
  if (!guarded) return;
  event.preventDefault();
  try {
    const found = await service("docs.json");
    save("docs.json", "application/json", JSON.stringify(found, null, 2));
  } catch (error) {
    say(error.message);
  }
}

function listen() {
  // A click on its button comes by here too.
  byId("drop").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", ({ target }) => {
    add(target.files);
    target.value = "";
  });
  byId("download").addEventListener("click", () => save(ofKnees() ? "knees.csv" : "answers.csv", "text/csv", csv()));
  byId("interface").addEventListener("click", saveInterface);
  byId("clear").addEventListener("click", clear);
  byId("ask-not").addEventListener("click", () => byId("ask").close());
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("ask").close("given");
  });
  document.addEventListener("paste", ({ clipboardData }) => add(clipboardData.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    add(event.dataTransfer.files);
  });
}

listen();
introduced();
byId("drop").hidden = false;
