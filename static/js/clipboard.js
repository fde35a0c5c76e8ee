// Text into the clipboard, also where the browser lets no page use its newer door: without https.
import { toast } from "./dialog.js";
import { h } from "./dom.js";

export async function copyText(text, done) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea.sr", { value: text, readOnly: true });
    (document.querySelector("dialog[open]") ?? document.body).append(area); // what lies behind a dialog cannot be selected
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    if (!isDone) { toast("This browser does not let the page copy", "bad"); return; }
  }
  toast(done);
}
