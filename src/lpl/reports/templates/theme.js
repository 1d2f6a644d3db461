// Runs before the first paint, so that a remembered theme does not flash.
try {
  const remembered = localStorage.getItem("lpl-theme");
  if (remembered === "light" || remembered === "dark") document.documentElement.dataset.theme = remembered;
} catch { /* storage is closed to pages opened from disk in some browsers; the system's theme holds */ }
