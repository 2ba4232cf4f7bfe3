// One picture on the page: asks for its answer, and shows it with what belongs to it.

import { draw } from "./overlay.js";
import { call, patiently, Refusal } from "./service.js";
import * as words from "./words.js";

const SHOWN = 5; // labels at first
const ASKED = 20; // labels that a single-label model is asked for
const NEAR = 3; // labels shown below their thresholds, if they reach this share of them:
const NEARLY = 0.25;

const template = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

export class Card {
  /** picture: {blob, name, sample: its path or null}. page: {limits, find, signedIn, say}. */
  constructor(picture, page) {
    this.picture = picture;
    this.page = page;
    this.element = template("card");
    this.find = (selector) => this.element.querySelector(selector);
    this.asking = new AbortController();
    this.#show();
  }

  #show() {
    const image = this.find(".picture");
    const address = URL.createObjectURL(this.picture.blob);
    image.src = address;
    image.alt = this.picture.name;
    image.onload = () => {
      this.find(".frame").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
      URL.revokeObjectURL(address);
    };
    image.onerror = () => {
      this.find(".frame").hidden = true;
      this.find(".no-picture").hidden = false;
    };
    this.find(".name").textContent = this.picture.name;
    const remove = this.find(".remove");
    remove.setAttribute("aria-label", `Remove ${this.picture.name}`);
    remove.onclick = () => this.remove();
    this.find(".again button").onclick = () => this.again();
    this.find(".dim input").oninput = (event) => this.#dim(event.target.value / 100);
    for (const snippet of this.element.querySelectorAll(".snippet")) {
      snippet.querySelector(".copy").onclick = () => copy(snippet, this.page.say);
    }
  }

  remove() {
    this.asking.abort();
    this.element.dispatchEvent(new Event("removed"));
  }

  /** Whoever waits for the next try need not wait any longer; after an error, ask once more. */
  again() {
    if (this.element.ariaBusy === "true") this.asking.signal.dispatchEvent(new Event("hurry"));
    else this.ask(this.model);
  }

  /** Ask the model, and show its answer or why there is none. */
  async ask(model) {
    this.asking.abort();
    const { signal } = (this.asking = new AbortController());
    this.model = model;
    this.#reset();
    const request = this.#request(model);
    try {
      const tooLarge = words.tooLarge(this.picture.blob, this.page.limits());
      if (tooLarge) throw new Refusal("body_too_large", tooLarge);
      const [answer, ms] = await this.#answer(request, signal);
      this.#answered(answer, await this.page.find(answer.model, signal), ms);
      this.#asCode(request);
    } catch (error) {
      if (signal.aborted) return;
      this.#failed(error instanceof Refusal ? error : new Refusal("internal", "the page failed"));
      if (!(error instanceof Refusal)) throw error;
    }
    this.element.ariaBusy = "false";
  }

  #request({ name, task, labels, maps }) {
    const single = task === "single";
    const query = { model: name };
    if (single) query.top_k = String(Math.min(ASKED, labels.length));
    else query.threshold = "0"; // the page compares, so that it can show what is just below
    if (maps) query.maps = "true";
    return { path: single ? "classify" : "tag", query, ...this.picture };
  }

  async #answer({ path, query }, signal) {
    const options = { method: "POST", body: this.picture.blob, signal };
    let sent;
    const response = await patiently(
      () => {
        sent = performance.now();
        return call(`${path}?${new URLSearchParams(query)}`, options);
      },
      {
        told: (refusal, seconds) => {
          this.find(".verdict").textContent = "Waiting…";
          this.#explain(words.waiting(refusal, seconds), "Try now");
        },
        hurry: signal,
        signedIn: this.page.signedIn,
        signal,
      },
    );
    const answer = await response.json();
    return [answer, Math.round(performance.now() - sent)];
  }

  #reset() {
    this.element.ariaBusy = "true";
    this.element.classList.remove("failed");
    this.find(".verdict").textContent = "Looking…";
    this.find(".bars").replaceChildren();
    for (const name of [".share", ".compared", ".by", ".explained"]) this.find(name).textContent = "";
    for (const name of [".strange", ".again", ".explained", ".code"]) this.find(name).hidden = true;
    this.box = null;
    this.#look(null);
  }

  #explain(text, again) {
    this.find(".explained").textContent = text;
    this.find(".explained").hidden = false;
    this.find(".again").hidden = !again;
    this.find(".again button").textContent = again ?? "";
  }

  #failed(refusal) {
    const [title, text] = words.refused(refusal);
    const again = ["deadline_exceeded", "read_timeout", "internal", "model_failed"];
    this.element.classList.add("failed");
    this.find(".verdict").textContent = title;
    this.#explain(text, again.includes(refusal.code) && "Try again");
    this.page.say(`${this.picture.name}: ${title}. ${text}`);
  }

  #answered(answer, model, ms) {
    this.#explain("", null);
    this.find(".explained").hidden = true;
    this.box = answer.box;
    const groups = model.task === "single" ? likeliest(answer) : tags(answer, model);
    const strange = answer.novelty?.unknown && words.strange(answer.novelty);
    const [verdict, share] = strange ? ["None of these", ""] : verdictOf(groups[0], model);
    const guesses = groups.some(({ labels }) => labels.length) ? " All the same, it would say:" : "";
    this.find(".strange").textContent = strange ? strange + guesses : "";
    this.find(".strange").hidden = !strange;
    this.find(".verdict").textContent = verdict;
    this.find(".share").textContent = share;
    this.find(".bars").replaceChildren(...groups.flatMap((group) => this.#group(group)));
    this.#look(null);
    const by = `${answer.model.name} ${answer.model.version} · ${words.providerOf(model)}`;
    this.find(".by").textContent = `${by} · ${ms} ms`;
    this.page.say(`${this.picture.name}: ${verdict} ${share || strange || ""}`);
  }

  /** A list of labels under a title; those after the first SHOWN on demand. */
  #group({ title, labels }) {
    if (!labels.length) return [];
    const list = document.createElement("ul");
    const rows = labels.map((label) => this.#bar(label));
    list.append(...rows.slice(0, SHOWN));
    const parts = [list];
    if (title) {
      const heading = document.createElement("h3");
      heading.textContent = list.ariaLabel = title;
      parts.unshift(heading);
    } else list.ariaLabel = "Labels";
    if (rows.length > SHOWN) {
      const more = document.createElement("button");
      more.type = "button";
      more.className = "more";
      more.textContent = `Show ${rows.length - SHOWN} more`;
      more.onclick = () => {
        list.append(...rows.slice(SHOWN));
        rows[SHOWN].querySelector("button").focus();
        more.remove();
      };
      parts.push(more);
    }
    return parts;
  }

  #bar(label) {
    const row = template("bar");
    const button = row.querySelector(".bar");
    row.querySelector(".label").textContent = label.label;
    row.querySelector(".percent").textContent = words.percent(label.probability);
    row.querySelector(".fill").style.width = `${100 * label.probability}%`;
    if (label.needs !== undefined) {
      const tick = row.querySelector(".tick");
      tick.hidden = false;
      tick.style.left = `${100 * label.needs}%`;
      row.querySelector(".needs").textContent = `needs ${words.percent(label.needs)}`;
    }
    if (label.map) button.onclick = () => this.#look(button.ariaPressed === "true" ? null : label);
    else button.disabled = true;
    label.button = button;
    return row;
  }

  /** Show where the network looked for the label; null: the picture alone. */
  #look(label) {
    for (const button of this.element.querySelectorAll(".bar")) {
      button.ariaPressed = String(button === label?.button);
    }
    this.find(".seen").hidden = this.find(".dim input").disabled = !label;
    this.find("figcaption").classList.toggle("looking", Boolean(label));
    if (!label) {
      this.find(".compared").textContent = this.box ? "Choose a label to see where it looked." : "";
      return this.#dim(0);
    }
    const [left, top, right, bottom] = this.box.map((share) => 100 * share);
    const style = this.find(".seen").style;
    style.left = `${left}%`;
    style.top = `${top}%`;
    style.width = `${right - left}%`;
    style.height = `${bottom - top}%`;
    draw(this.find("canvas"), label.map);
    const rather = label.against ? ` rather than ${label.against}` : "";
    const strong = document.createElement("strong");
    strong.textContent = label.label;
    this.find(".compared").replaceChildren("What speaks for ", strong, rather);
    this.#dim(this.find(".dim input").value / 100);
  }

  #dim(share) {
    this.find(".frame").style.setProperty("--looked", share);
  }

  #asCode(request) {
    this.find(".code").hidden = false;
    this.find(".curl").textContent = words.curl(request);
    this.find(".python").textContent = words.python(request);
  }
}

/** The groups of labels of a single-label answer. */
function likeliest({ predictions }) {
  return [{ title: "", labels: predictions }];
}

/** The groups of a multi-label answer: what reaches its threshold, and what nearly does. */
function tags(answer, { labels, thresholds }) {
  const needs = new Map(labels.map((label, number) => [label, thresholds[number]]));
  const all = answer.tags.map((tag) => ({ ...tag, needs: needs.get(tag.label) }));
  const reaches = ({ probability, needs }) => Math.fround(probability) >= Math.fround(needs);
  const near = ({ probability, needs }) => probability / needs;
  const below = all.filter((tag) => !reaches(tag) && near(tag) >= NEARLY);
  below.sort((a, b) => near(b) - near(a));
  return [
    { title: "Tags", labels: all.filter(reaches) },
    { title: "Just below", labels: below.slice(0, NEAR) },
  ];
}

/** What the card says first, and how sure the model is of it. */
function verdictOf({ labels }, model) {
  if (model.task === "single") return [labels[0].label, words.percent(labels[0].probability)];
  if (labels.length) return [labels.map(({ label }) => label).join(", "), ""];
  return [`None of its ${words.counted(model.labels.length, "label")}`, ""];
}

async function copy(snippet, say) {
  const code = snippet.querySelector("code");
  const button = snippet.querySelector(".copy");
  getSelection().selectAllChildren(code);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Selected"; // without HTTPS a page may not write to the clipboard
  }
  say(button.textContent);
}
