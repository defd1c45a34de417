// The panel of what a picture is made from: seed, label, truncation, noise, mixing, transform.

import { button, choice, layerButtons, make, number, slider } from './dom.js';
import { change, model, watch } from './model.js';

const MAX_SEED = 2 ** 32 - 1;

/** Fill the panel. */
export function buildLatents(panel) {
  const at = (key) => (value, isFinal = true) => change({ [key]: value }, isFinal);
  const seed = number('Seed', { min: 0, max: MAX_SEED, value: 0, id: 'seed' }, (value) => change({ seed: clampSeed(value), x: 0, y: 0, kept: null }));
  const seeds = make('div', { className: 'row' }, seed,
    button('Previous', () => step(-1), { id: 'previous-seed' }), button('Next', () => step(1), { id: 'next-seed' }),
    button('Random', () => change({ seed: Math.floor(Math.random() * 100000), x: 0, y: 0, kept: null }), { id: 'random-seed' }));
  const x = slider('Right', { min: -4, max: 4, step: 0.01, value: 0, soft: true, id: 'plane-x' }, (value, isFinal) => change({ x: value, kept: null }, isFinal));
  const y = slider('Down', { min: -4, max: 4, step: 0.01, value: 0, soft: true, id: 'plane-y' }, (value, isFinal) => change({ y: value, kept: null }, isFinal));
  const snap = button('To the nearest seed', () => change({ x: Math.round(model.spec.x), y: Math.round(model.spec.y), kept: null }), { id: 'snap' });

  const psi = slider('Truncation', { min: -1, max: 1.5, step: 0.01, value: 1, soft: true, id: 'psi' }, at('psi'));
  const cutoff = slider('Cutoff (layers)', { min: 0, max: 18, step: 1, value: 18, id: 'cutoff' }, (value, isFinal) => change({ cutoff: value >= model.info.num_ws ? null : value }, isFinal));
  const center = choice('Towards the mean of', [['global', 'all images'], ['class', 'this class']], 'global', at('center'), 'center');

  const label = make('div', { id: 'label' });
  const noise = make('div', { id: 'noise' });
  const noiseMode = choice('Noise', [['const', 'of the network'], ['random', 'random'], ['none', 'none']], 'const', at('noise_mode'), 'noise-mode');
  const noiseSeed = number('Noise seed', { min: 0, max: MAX_SEED, value: '', id: 'noise-seed' }, at('noise_seed'));
  const ofSeed = button('That of the seed', () => change({ noise_seed: null }));
  const strength = slider('Noise strength', { min: 0, max: 3, step: 0.01, value: 1, soft: true, id: 'noise-strength' }, at('noise_strength'));
  noise.append(noiseMode, make('div', { className: 'row' }, noiseSeed, ofSeed), strength);

  const mix = make('div', { id: 'mix' });
  const addMix = button('Add a seed', () => change({ mix: [...model.spec.mix, { seed: model.spec.seed + 1 + model.spec.mix.length, layers: [] }] }), { id: 'add-mix' });

  const transform = make('div', { id: 'transform' },
    make('h2', {}, 'Position'),
    slider('Shift right', { min: -1, max: 1, step: 0.001, value: 0, soft: true, id: 'shift-x' }, (value, isFinal) => change({ shift: [value, model.spec.shift[1]] }, isFinal)),
    slider('Shift down', { min: -1, max: 1, step: 0.001, value: 0, soft: true, id: 'shift-y' }, (value, isFinal) => change({ shift: [model.spec.shift[0], value] }, isFinal)),
    slider('Rotation (degrees)', { min: -180, max: 180, step: 0.1, value: 0, soft: true, id: 'rotation' }, at('rotation')),
    button('Upright and centered', () => change({ shift: [0, 0], rotation: 0 })));

  panel.append(
    make('h2', {}, 'Seed'), seeds,
    make('p', { className: 'hint' }, 'Seeds lie on a plane: one step to the right is the next seed, one step down is 1000 further. Drag the picture to walk between them.'),
    x, y, snap,
    label,
    make('h2', {}, 'Truncation'), psi, cutoff, center,
    make('h2', {}, 'Mix seeds by layer'),
    make('p', { className: 'hint' }, 'Coarse layers (the first) decide about pose and shape, fine ones about color and texture.'), mix, addMix,
    make('h2', {}, 'Noise'), noise, transform);

  watch('info', () => {
    if (model.info.problem) return;
    fillLabel(label);
    for (const input of cutoff.querySelectorAll('input')) input.max = model.info.num_ws;
    noise.hidden = noise.previousSibling.hidden = !model.info.has_noise;
    transform.hidden = !model.info.has_transform;
    center.hidden = model.info.c_dim === 0;
    fillMix(mix);
  });
  watch('spec', (isFinal) => {
    const spec = model.spec;
    seed.set(spec.seed);
    x.set(spec.x); y.set(spec.y); psi.set(spec.psi);
    cutoff.set(spec.cutoff ?? (model.info && model.info.num_ws) ?? 18);
    center.set(spec.center);
    noiseMode.set(spec.noise_mode); noiseSeed.set(spec.noise_seed ?? ''); strength.set(spec.noise_strength);
    const [shiftX, shiftY, rotation] = transform.querySelectorAll('.field');
    shiftX.set(spec.shift[0]); shiftY.set(spec.shift[1]); rotation.set(spec.rotation);
    if (isFinal && model.info && !model.info.problem) { fillMix(mix); fillLabel(label); }
  });
}

const clampSeed = (value) => Math.min(Math.max(Math.round(value), 0), MAX_SEED);
const step = (by) => change({ seed: clampSeed(model.spec.seed + by), x: 0, y: 0, kept: null });

let shownLabel = '';
function fillLabel(element) {
  const { c_dim: size, class_names: names } = model.info;
  const now = JSON.stringify([size, names, model.spec.class, model.spec.label]);
  if (now === shownLabel || element.contains(document.activeElement) && document.activeElement.type !== 'checkbox') return;
  shownLabel = now;
  element.replaceChildren();
  if (size === 0) return;
  const options = Array.from({ length: Math.min(size, 2000) }, (_, index) => [`#${index}`, names[index] === undefined ? `class ${index}` : `${names[index]}`]);
  const isVector = model.spec.label !== null;
  const kind = choice('Label', [['class', 'a class'], ['vector', 'numbers']], isVector ? 'vector' : 'class', (value) => {
    const index = Number((model.spec.class || '#0').slice(1));
    change(value === 'class' ? { class: model.spec.class || '#0', label: null }
      : { class: null, label: Array.from({ length: size }, (_, at) => Number(at === index)) });
  }, 'label-kind');
  element.append(make('h2', {}, 'Label'), kind);
  if (!isVector) {
    element.append(choice('Class', options, model.spec.class ?? '#0', (value) => change({ class: value }), 'class'));
    return;
  }
  model.spec.label.slice(0, 64).forEach((value, index) => {
    const name = names[index] === undefined ? `Number ${index}` : `${names[index]}`;
    element.append(slider(name, { min: -1, max: 2, step: 0.01, value, soft: true, id: `label-${index}` }, (number, isFinal) => {
      change({ label: model.spec.label.map((old, at) => at === index ? number : old) }, isFinal);
    }));
  });
}

let shownMix = '';
function fillMix(element) {
  const now = JSON.stringify([model.spec.mix, model.info.num_ws]);
  if (now === shownMix) return;
  shownMix = now;
  const set = (index, values) => {
    const mix = model.spec.mix.map((part, at) => at === index ? { ...part, ...values } : part);
    shownMix = JSON.stringify([mix, model.info.num_ws]); // its buttons are up to date
    change({ mix });
  };
  element.replaceChildren(...model.spec.mix.map((part, index) => make('div', { className: 'card' },
    make('div', { className: 'row' },
      number('Seed', { min: 0, max: MAX_SEED, value: part.seed, id: `mix-seed-${index}` }, (seed) => set(index, { seed: clampSeed(seed) })),
      button('Remove', () => change({ mix: model.spec.mix.filter((_, at) => at !== index) }))),
    layerButtons(model.info.num_ws, part.layers, (layers) => set(index, { layers })))));
}
