// Before the first paint: the theme that was chosen on this machine, where one was.
// A classic script, since modules run only after the page has been drawn.
try {
  const theme = localStorage.getItem("alpage.theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is closed to this page: the system's theme stays.
}
