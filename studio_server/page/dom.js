// Elements and the controls that panels are made of.

let count = 0;

/** Make an element: properties, `on…` handlers, `aria-…`/`data-…` attributes, and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name.includes('-') || ['role', 'for', 'list', 'colspan'].includes(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A labeled slider with a number beside it. `changed(value, isFinal)` is called while it moves and at the end. */
export function slider(label, { min, max, step, value, soft = false, id = `control-${++count}` }, changed) {
  const range = make('input', { type: 'range', id, min, max, step, value });
  const number = make('input', { type: 'number', step, value, 'aria-label': `${label} (number)` });
  if (!soft) Object.assign(number, { min, max });
  const tell = (source, isFinal) => {
    const value = Number(source.value);
    if (source.value === '' || Number.isNaN(value)) return;
    (source === range ? number : range).value = value;
    changed(value, isFinal);
  };
  for (const source of [range, number]) {
    source.addEventListener('input', () => tell(source, false));
    source.addEventListener('change', () => tell(source, true));
  }
  const element = make('div', { className: 'field' }, make('label', { for: id }, label), range, number);
  element.set = (value) => {
    range.value = value;
    if (document.activeElement !== number) number.value = +Number(value).toFixed(4);
  };
  element.enable = (isEnabled) => { range.disabled = number.disabled = !isEnabled; };
  return element;
}

/** A labeled number without a slider. */
export function number(label, { min, max, step = 1, value, id = `control-${++count}` }, changed) {
  const input = make('input', { type: 'number', id, min, max, step, value });
  input.addEventListener('change', () => input.value !== '' && changed(Number(input.value)));
  const element = make('div', { className: 'row' }, make('label', { for: id }, label), input);
  element.set = (value) => { if (document.activeElement !== input) input.value = value; };
  element.input = input;
  return element;
}

/** A labeled choice. `options` are [value, text]. */
export function choice(label, options, value, changed, id = `control-${++count}`) {
  const select = make('select', { id });
  select.addEventListener('change', () => changed(select.value));
  const element = make('div', { className: 'row' }, make('label', { for: id }, label), select);
  element.options = (options) => select.replaceChildren(...options.map(([value, text]) => make('option', { value }, text)));
  element.set = (value) => { select.value = value; };
  element.options(options);
  element.set(value);
  element.select = select;
  return element;
}

/** A labeled check box. */
export function check(label, value, changed, id = `control-${++count}`) {
  const input = make('input', { type: 'checkbox', id, checked: value });
  input.addEventListener('change', () => changed(input.checked));
  const element = make('div', { className: 'row' }, input, make('label', { for: id }, label));
  element.set = (value) => { input.checked = value; };
  return element;
}

/** A button. */
export function button(text, clicked, properties = {}) {
  return make('button', { type: 'button', onclick: clicked, ...properties }, text);
}

/** Buttons for layers; `chosen` is a set of their numbers, `changed(set)` is told of a new one. */
export function layerButtons(numLayers, chosen, changed) {
  const set = new Set(chosen);
  const buttons = Array.from({ length: numLayers }, (_, layer) => {
    const element = button(String(layer), () => {
      set.has(layer) ? set.delete(layer) : set.add(layer);
      element.setAttribute('aria-pressed', set.has(layer));
      changed([...set].sort((a, b) => a - b));
    }, { 'aria-pressed': set.has(layer), 'aria-label': `Layer ${layer}` });
    return element;
  });
  return make('div', { className: 'layers', role: 'group', 'aria-label': 'Layers, coarse to fine' }, ...buttons);
}

/** A line through values, as an SVG plot with its extremes. */
export function plot(values, label, { bars = false, low = 0, high = null } = {}) {
  const [width, height] = [400, 120];
  const least = Math.min(...values, bars ? 0 : Infinity), most = Math.max(...values);
  const y = (value) => height - 20 - (value - least) / (most - least || 1) * (height - 36);
  const x = (index) => 6 + index / Math.max(values.length - 1, 1) * (width - 12);
  const marks = bars
    ? values.map((value, index) => svg('rect', { x: x(index), y: y(value), width: (width - 12) / values.length, height: height - 20 - y(value) }))
    : [svg('path', { d: values.map((value, index) => `${index ? 'L' : 'M'}${x(index).toFixed(1)},${y(value).toFixed(1)}`).join('') })];
  const text = (at, y, anchor, content) => svg('text', { x: at, y, 'text-anchor': anchor }, content);
  return svg('svg', { class: 'plot', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${label}: lowest ${format(least)}, highest ${format(most)}` },
    ...marks, text(6, 14, 'start', `${label}; highest ${format(most)}`), text(6, height - 5, 'start', format(low)),
    text(width - 6, height - 5, 'end', high === null ? format(values.length - 1) : format(high)));
}

/** A number in few characters. */
export const format = (value) => Number.isInteger(value) ? String(value) : Number(value.toPrecision(4)).toString();

/** Draw a picture on a canvas of its own size, unless it is not wanted any more when it is decoded; return whether it was. */
export async function draw(canvas, blob, size = null, isWanted = () => true) {
  const bitmap = await createImageBitmap(blob, { premultiplyAlpha: 'none', colorSpaceConversion: 'none' });
  if (!isWanted()) return false;
  const width = size ? size.width : bitmap.width, height = size ? size.height : bitmap.height;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d');
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = bitmap.width !== width;
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  canvas.classList.toggle('small-image', Math.max(width, height) < 200);
  return true;
}
