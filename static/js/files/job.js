// The job that is at a path, while it is: how far it is, and where to steer it.
import { fill, h, meter } from "../dom.js";
import { exact, seconds } from "../format.js";
import { watch } from "../live.js";
import { shown } from "./names.js";

export function jobLine() {
  const element = h("div", { role: "status" });
  let number = 0;
  let leave = () => {};

  function show(job) {
    if ((job?.number ?? 0) === number) return;
    leave();
    leave = () => {};
    number = job?.number ?? 0;
    if (!job) { fill(element); return; }
    const share = h("div");
    const words = h("span.soft");
    fill(element, h("div.note.job", h("span", `A job is at it: ${job.kind} of `, shown(job.path), ", ", h("a", { href: `/jobs/${job.number}` }, `job ${job.number}`), " ", words), share));
    leave = watch(`job:${job.number}`, (now, topic) => {
      if (!now || topic.error) return;
      words.textContent = `${now.state}, ${exact(now.done)}${now.total >= 0 ? ` of ${exact(now.total)}` : ""}${now.eta_s ? `, ${seconds(now.eta_s)} left` : ""}${now.failed ? `, ${exact(now.failed)} failed` : ""}`;
      fill(share, now.total > 0 ? meter(`${exact(now.done)} of ${exact(now.total)}`, [now.done / now.total, ""]) : null);
    });
  }
  return { element, show, end: () => leave() };
}
