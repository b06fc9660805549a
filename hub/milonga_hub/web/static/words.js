// Texts of scripts in the reader's language. The page loads words.LANGUAGE.js before where that is not English; `make translations`
// makes it of the same catalogue from which the hub's own texts come.
"use strict";
(() => {
  const { plural, texts } = window.MilongaWords || { plural: null, texts: {} };
  // %(name)s is what stands for the name.
  const filled = (text, values) => text.replace(/%\((\w+)\)s/g, (_whole, name) => values[name]);
  const _ = (text, values = {}) => filled(texts[text] ? texts[text][0] : text, values);
  // %(num)s is the number, by which one of the forms is chosen.
  const ngettext = (one, many, num, values = {}) => {
    const text = texts[one] ? texts[one][plural(num)] : num === 1 ? one : many;
    return filled(text, { num, ...values });
  };
  window.Milonga = { _, ngettext, language: document.documentElement.lang };
})();
