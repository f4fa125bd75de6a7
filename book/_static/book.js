// A part that scrolls sideways has to be reached by keyboard (WCAG 2.1.1); one that does not is no stop for it.
function stops() {
  for (const part of document.querySelectorAll("article pre, article .output, article .table-wrapper, div.math")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}
addEventListener("load", stops);
addEventListener("resize", stops);
addEventListener("toggle", stops, true);
