// The page: takes pictures in every way, and holds what all of its cards share.

import { Card } from "./card.js";
import { call, key, patiently, Refusal } from "./service.js";
import { about, refused, waiting } from "./words.js";

const part = (id) => document.getElementById(id);
const cards = [];
let models = [];
let limits = { body_mb: Infinity };
let model = null;
let keyGiven = null; // a promise while the page asks for a key

// What the cards use.

const page = {
  limits: () => limits,
  signedIn,
  say: (text) => (part("spoken").textContent = text),
  /** The description of the model that answered: another version may have been released. */
  async find(answered, signal) {
    const same = (m) => m.name === answered.name && m.version === answered.version;
    if (!models.some(same)) await load(signal);
    return models.find(same) ?? models.find((m) => m.name === answered.name);
  },
};

// The service: its models, its key, its state.

async function load(signal) {
  const told = (refusal, seconds) => notice(waiting(refusal, seconds));
  const response = await patiently(() => call("models", { signal }), { told, signedIn, signal });
  ({ models, limits } = await response.json());
  notice("");
  model = models.find(({ name }) => name === model?.name) ?? models[0];
  part("chooser").replaceChildren(...models.map(({ name }) => new Option(name)));
  part("chooser").value = model.name;
  part("several-models").hidden = models.length < 2;
  part("one-model").hidden = models.length > 1;
  part("one-model").textContent = `${model.name} ${model.version}`;
  part("about").textContent = about(model);
}

function notice(text) {
  part("notice").hidden = !text;
  part("notice").textContent = text;
}

function refusedNotice(error) {
  if (!(error instanceof Refusal)) throw error;
  notice(refused(error).join(". "));
}

/** Ask for a key, once for all who wait for it. */
function signedIn() {
  keyGiven ??= new Promise((resolve) => {
    const form = part("key-form");
    if (key.get()) part("key-help").textContent = "The service does not know that key.";
    form.hidden = false;
    part("key").focus();
    form.onsubmit = (event) => {
      event.preventDefault();
      key.set(part("key").value.trim());
      part("key").value = "";
      form.hidden = true;
      keyGiven = null;
      resolve();
    };
  });
  return keyGiven;
}

// Pictures.

function add(picture) {
  const card = new Card(picture, page);
  cards.push(card);
  card.element.addEventListener("removed", () => {
    cards.splice(cards.indexOf(card), 1);
    card.element.remove();
    document.body.classList.toggle("answering", cards.length > 0);
    part("choose").focus();
  });
  document.body.classList.add("answering");
  part("answers").prepend(card.element);
  loaded.then(() => card.ask(model), () => {}); // why not is told once, above
}

function addFiles(files) {
  if (!files.length) page.say("There is no picture in it");
  for (const file of files) add({ blob: file, name: file.name, sample: null });
}

async function showSamples() {
  const list = part("samples").querySelector("ul");
  const of = model;
  list.replaceChildren();
  part("samples").hidden = !of.samples;
  for (let number = 1; number <= of.samples; number++) {
    const path = `models/${encodeURIComponent(of.name)}/samples/${number}`;
    const blob = await (await call(path)).blob(); // an <img> could not send a key
    if (of !== model) return;
    const button = document.createElement("button");
    const image = new Image();
    image.src = URL.createObjectURL(blob);
    image.alt = `Sample ${number}`;
    button.type = "button";
    button.append(image);
    button.onclick = () => add({ blob, name: `sample ${number}`, sample: path });
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
}

part("choose").onclick = () => part("files").click();
part("photograph").onclick = () => part("camera").click();
for (const input of [part("files"), part("camera")]) {
  input.onchange = () => {
    addFiles([...input.files]);
    input.value = ""; // so that the same file can be chosen again
  };
}

part("chooser").onchange = () => {
  model = models.find(({ name }) => name === part("chooser").value);
  part("about").textContent = about(model);
  showSamples().catch(refusedNotice);
  for (const card of cards) card.ask(model);
};

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length || event.target.tagName !== "INPUT") addFiles(files);
});

let inside = 0; // elements that the dragged files are over
const holdsFiles = (event) => event.dataTransfer.types.includes("Files");
addEventListener("dragenter", (event) => {
  inside += 1;
  document.body.classList.toggle("dragging", holdsFiles(event));
});
addEventListener("dragleave", () => {
  inside -= 1;
  if (!inside) document.body.classList.remove("dragging");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("dragging");
  addFiles([...event.dataTransfer.files]);
});

const loaded = load();
loaded.then(showSamples).catch(refusedNotice);
