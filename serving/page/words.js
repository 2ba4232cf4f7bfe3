// The page's sentences, and what it did as code.

import { key, url } from "./service.js";

export const percent = (share) =>
  share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
export const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;
const SMALLER = "A smaller copy works as well: the network sees far fewer pixels anyway.";
const RESAVE = "Save it again as JPEG or PNG, and try that.";
const BUSY = "The service is busy";

// code of a refusal -> its title, and what helps beside the service's own words
const REFUSALS = {
  format_unsupported: ["It cannot read this format", ""],
  image_undecodable: ["It cannot read this file", RESAVE],
  image_missing: ["This file is empty", ""],
  image_too_large: ["This picture has too many pixels", SMALLER],
  body_too_large: ["This file is too large", SMALLER],
  model_failed: ["The model failed on this picture", "Another one may fare better."],
  model_unknown: ["This model is no longer served", "Load this page again."],
  read_timeout: ["The picture arrived too slowly", ""],
  deadline_exceeded: ["The answer took too long", ""],
  overloaded: [BUSY, ""],
  not_ready: ["The service is not ready", ""],
  unreachable: ["The service does not answer", "Is it running, and are you online?"],
};

/** A refusal's title, and an explanation of one or two sentences. */
export function refused(refusal) {
  const [title, helps] = REFUSALS[refusal.code] ?? ["Something went wrong", ""];
  const own = refusal.message ? sentence(refusal.message) : "";
  return [title, `${own} ${helps}`.trim()];
}

export const waiting = (refusal, seconds) =>
  `${refused(refusal).join(". ")} It is asked again in ${counted(seconds, "second")}.`;

/** Why a file is not even sent; null if it is. The service would say the same, after its upload. */
export function tooLarge(file, limits) {
  if (file.size <= limits.body_mb * 2 ** 20) return null;
  const size = (file.size / 2 ** 20).toFixed(1);
  return `the file has ${size} MiB, more than the limit of ${limits.body_mb} MiB`;
}

/** How unusual a picture is that is unlike those that the model is for. */
export function strange({ p_value }) {
  const share = Math.floor(1000 * (1 - p_value) + 1e-6) / 10; // rounded up it could say 100 %
  return `It is stranger than ${share} % of the pictures that the model was checked on.`;
}

/** What a model does, for who has never heard of it. */
export function about(model) {
  const labels = counted(model.labels.length, "label");
  const does =
    model.task === "single"
      ? `The model ${model.name} tells ${labels} apart, and shows where it looked.`
      : `The model ${model.name} finds any of ${labels}, and shows where it looked.`;
  const error = model.metrics.error;
  if (!error) return does;
  const right = [error.value, error.high, error.low].map((e) => Math.round(100 * (1 - e)));
  return `${does} It was right on ${right[0]} % of its validation images (${right[1]}–${right[2]} %).`;
}

export const providerOf = (model) =>
  `${model.precision} on ${model.provider.replace("ExecutionProvider", "")}`;

// request: {path, query, name, sample: the sample's path, or null for a file}

export function curl({ path, query, name, sample }) {
  const to = `'${url(path)}?${new URLSearchParams(query)}'`;
  const header = key.get() ? ` -H "Authorization: Bearer $KEY"` : "";
  if (sample) return `curl -s${header} '${url(sample)}' |\n  curl${header} --data-binary @- \\\n  ${to}`;
  return `curl${header} --data-binary @${quoted(name)} \\\n  ${to}`;
}

const quoted = (name) => (/^[\w.-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

export function python({ path, query, name, sample }) {
  const keyed = key.get() ? ", headers=headers" : "";
  const picture = sample
    ? `httpx.get(${JSON.stringify(url(sample))}${keyed}).content`
    : `Path(${JSON.stringify(name)}).read_bytes()`;
  const literal = (value) => (value === "true" ? "True" : value);
  const params = Object.entries(query).map(
    ([n, value]) => `"${n}": ${n === "model" ? JSON.stringify(value) : literal(value)}`,
  );
  const imports = [...(key.get() ? ["import os"] : []), ...(sample ? [] : ["from pathlib import Path"])];
  return [
    ...imports,
    ...(imports.length ? [""] : []),
    "import httpx",
    "",
    ...(key.get() ? [`headers = {"Authorization": f"Bearer {os.environ['KEY']}"}`] : []),
    `picture = ${picture}`,
    `answer = httpx.post(`,
    `    ${JSON.stringify(url(path))},`,
    `    params={${params.join(", ")}},`,
    `    content=picture,${key.get() ? "\n    headers=headers," : ""}`,
    `)`,
    `print(answer.raise_for_status().json())`,
  ].join("\n");
}
