// The beginning of a file. What it holds is text to this page, never a part of it; a picture is only ever an <img>, in which nothing runs.
import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { bytes, count, exact } from "../format.js";
import { plain } from "./names.js";

const CHARSETS = [["auto", "as it looks"], ["utf-8", "UTF-8"], ["utf-16", "UTF-16"], ["latin-1", "Latin-1"], ["windows-1252", "Windows-1252"], ["shift_jis", "Shift JIS"], ["gb18030", "GB 18030"], ["euc-kr", "EUC-KR"], ["koi8-r", "KOI8-R"], ["bytes", "bytes"]];

export function preview(path, name) {
  const words = h("span.soft", { role: "status" });
  const choice = h("select", { "aria-label": "Shown as", onchange: load }, CHARSETS.map(([value, text]) => h("option", { value }, text)));
  const body = h("div");
  const element = h("section.card", h("div.head", h("h2", "Preview"), words, h("div.push", choice)), body);
  let turn = 0;

  async function load() {
    const mine = (turn += 1);
    words.textContent = "reading…";
    try {
      const told = await get("/files/preview", { path, charset: choice.value });
      if (mine === turn) draw(told);
    } catch (error) {
      if (mine !== turn) return;
      words.textContent = "";
      fill(body, h("p.note.bad", `It cannot be read: ${error.message}. ${error.hint ?? ""} `, h("button", { type: "button", onclick: load }, "Try again")));
    }
  }

  function draw(told) {
    words.textContent = told.kind === "parquet" ? (told.columns.length ? `Parquet, ${count(told.row_count)} rows, ${count(told.columns.length)} columns` : "Parquet") : told.kind === "empty" ? "" : told.kind === "picture" ? told.content_type : `${told.kind === "bytes" ? "bytes" : told.kind === "json" ? `JSON, ${told.charset}` : told.charset}${told.is_whole ? "" : `, the first part of ${bytes(told.size)}`}`;
    if (told.kind === "empty") fill(body, h("p.soft", "The file is empty."));
    else if (told.kind === "picture") {
      const picture = h("img.picture", { src: `/api/v1/files/picture?${new URLSearchParams({ path })}`, alt: `What ${plain(name)} shows`, onerror: () => fill(body, h("p.note.warn", "This browser cannot show the picture.")) });
      fill(body, picture);
    } else if (told.kind === "parquet") rows(told);
    else fill(body, h("pre.text", { tabIndex: 0, role: "region", "aria-label": "What the file holds", dir: told.kind === "bytes" ? "ltr" : "auto" }, told.text));
  }

  function rows(told) {
    fill(body, told.note ? h("p.note", told.note) : null);
    if (!told.columns.length) return;
    const columns = told.columns.slice(0, told.rows[0]?.length ?? told.columns.length);
    const grid = h("table", { "aria-label": "First rows" },
      h("thead", h("tr", columns.map((column) => h("th", { scope: "col" }, h("span", h("bdi", column.name), h("br"), h("code", column.type)))))),
      h("tbody", told.rows.map((row) => h("tr", row.map((value) => h("td", { title: value ?? "null" }, value === null ? h("span.soft", "null") : h("bdi", value)))))));
    body.append(h("div.scroll.rows", { tabIndex: 0, role: "region", "aria-label": "First rows" }, grid));
    const rest = told.columns.slice(columns.length);
    body.append(h("p.hint", told.is_whole ? `All ${exact(told.row_count)} rows.` : `The first ${exact(told.rows.length)} of ${exact(told.row_count)} rows.`));
    if (rest.length) body.append(h("details", h("summary", `${count(rest.length)} more columns`), h("ul.plain", rest.map((column) => h("li", h("bdi", column.name), " ", h("code", column.type))))));
  }

  return { element, load };
}
