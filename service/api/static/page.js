"use strict";
// Keeps the part of the page that changes fresh: asks for the same fragment again and puts it in place.
(() => {
  const live = document.getElementById("live");
  const note = document.getElementById("refresh");
  if (!live || !note) return;
  let tag = "";
  let failures = 0;

  const put = (html) => {
    const focused = document.activeElement && live.contains(document.activeElement) ? document.activeElement.id : "";
    live.innerHTML = html; // our own server's page: escaped there
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const refresh = async () => {
    if (document.hidden || window.getSelection()?.type === "Range") return; // nobody looks, or somebody copies
    try {
      const answer = await fetch(live.dataset.fragment, {
        headers: tag ? { "If-None-Match": tag } : {},
        cache: "no-store",
        redirect: "error",
        signal: AbortSignal.timeout(20000),
      });
      if (answer.status === 401 || answer.status === 403) return location.reload();
      if (answer.status !== 304) {
        if (!answer.ok) throw new Error(String(answer.status));
        tag = answer.headers.get("ETag") || "";
        put(await answer.text());
      }
      failures = 0;
      note.classList.remove("lost");
      note.textContent = "live";
    } catch {
      failures += 1;
      if (failures < 2) return;
      note.classList.add("lost");
      note.textContent = "connection lost: the figures are old";
    }
  };

  const again = async () => {
    await refresh();
    const seconds = Number(live.dataset.seconds || 5) * Math.min(10, 1 + failures);
    setTimeout(again, seconds * 1000);
  };
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  setTimeout(again, Number(live.dataset.seconds || 5) * 1000);
})();
