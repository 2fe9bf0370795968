"""How the page looks, and the few lines that filter its transcripts."""

STYLE = """
:root { --ink: #1f2328; --soft: #5f6670; --line: #e3e5e8; --accent: #2a6f97; --yes: #b23a2e;
  --no: #2d6a4f; }
body { color: var(--ink); background: #fff; font: 16px/1.55 system-ui, sans-serif; margin: 0; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 80px; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid var(--line);
  padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; } h5 { margin: .6rem 0 .2rem; }
h4 { font-size: .95rem; margin: 1.4rem 0 .3rem; }
small, p.note { color: var(--soft); font-weight: 400; } p.note { font-size: .9rem; }
svg { width: 100%; height: auto; } .grid { stroke: var(--line); }
.tick { font: 11px system-ui; fill: var(--soft); text-anchor: middle; }
.label { font: 12px system-ui; text-anchor: end; fill: var(--ink); }
.key { margin-right: 1.2rem; font-size: .88rem; } .key i { display: inline-block; width: .7rem;
  height: .7rem; border-radius: 50%; margin-right: .4rem; }
table { border-collapse: collapse; font-size: .86rem; margin: .6rem 0; }
th, td { text-align: left; padding: .28rem .8rem .28rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } summary { cursor: pointer; }
details.item { border-left: 3px solid var(--line); padding: .15rem .7rem; margin: .25rem 0; }
details.prompt { font-size: .85rem; color: var(--soft); }
summary b { display: inline-block; min-width: 2.2rem; } b.yes { color: var(--yes); }
b.no { color: var(--no); } b.open { color: var(--soft); }
summary i { font-style: normal; font-size: .76rem; background: #eef0f2; border-radius: 3px;
  padding: .05rem .35rem; } summary i.alarm { background: #fbe3df; color: var(--yes); }
pre { background: #f6f7f8; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .8rem; margin: .4rem 0; }
pre .thinking { color: #8a9099; } pre .scratchpad { background: #e4edf6; }
mark { background: #ffe9a8; color: inherit; } mark.bad { background: #f8c9c2; }
mark.thinking, mark.scratchpad { outline: 1px dashed var(--soft); }
p.reason { font-size: .86rem; white-space: pre-wrap; border-left: 3px solid var(--accent);
  padding-left: .6rem; margin: .4rem 0; }
.filters { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; font-size: .88rem; position: sticky;
  top: 0; background: #fff; padding: .5rem 0; border-bottom: 1px solid var(--line); }
[hidden] { display: none; }
"""

SCRIPT = """
const form = document.querySelector(".filters");
const apply = () => {
  const value = (name) => form.elements[name].value;
  const on = (name) => form.elements[name].checked;
  const text = value("text").toLowerCase();
  document.querySelectorAll("section.condition").forEach((section) => {
    let any = false;
    section.querySelectorAll("details.item").forEach((item) => {
      const data = item.dataset;
      const show = (!value("state") || data.state === value("state"))
        && (!on("acts") || data.acts === "1") && (!on("apart") || data.apart === "1")
        && (!text || item.textContent.toLowerCase().includes(text));
      item.hidden = !show;
      any = any || show;
    });
    section.hidden = !any || (value("arm") && section.dataset.arm !== value("arm"));
  });
};
form.addEventListener("input", apply);
form.addEventListener("submit", (event) => event.preventDefault());
"""
