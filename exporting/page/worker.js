// The network. Seeds give the same latents as `numpy.random.RandomState(seed).randn`, and so the same images as
// generate.py.

import * as ort from './onnxruntime/ort.js';
import { normals } from './random.js';

let network;
let mapping;
let synthesis;

async function load() {
  ort.env.wasm.wasmPaths = {
    mjs: new URL('onnxruntime/ort-wasm.js', import.meta.url).href,
    wasm: new URL('onnxruntime/ort-wasm.wasm', import.meta.url).href,
  };
  // Browsers allow threads only where the host isolates the page (COOP and COEP headers).
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  const response = await fetch('network.json');
  if (!response.ok) throw new Error(`network.json: ${response.status} ${response.statusText}`);
  network = await response.json();
  const options = { executionProviders: ['wasm'] };
  mapping = await ort.InferenceSession.create('mapping.onnx', options);
  synthesis = await ort.InferenceSession.create('synthesis.onnx', options);
}

async function latents(seed, psi, index) {
  const feeds = {
    z: new ort.Tensor('float32', Float32Array.from(normals(seed, network.z_dim)), [1, network.z_dim]),
    truncation_psi: new ort.Tensor('float32', Float32Array.of(psi), []),
  };
  if (network.c_dim > 0) {
    const label = new Float32Array(network.c_dim);
    label[index] = 1;
    feeds.c = new ort.Tensor('float32', label, [1, network.c_dim]);
  }
  return (await mapping.run(feeds)).w.data; // num_ws rows of w_dim numbers
}

function toPixels(image) {
  const [, channels, height, width] = image.dims;
  const size = height * width;
  const pixels = new Uint8ClampedArray(4 * size);
  const isColor = channels >= 3;
  const hasAlpha = channels % 2 === 0;
  const value = (channel, i) => Math.trunc(Math.min(Math.max(image.data[channel * size + i] * 127.5 + 128, 0), 255));
  for (let i = 0; i < size; i++) {
    for (let channel = 0; channel < 3; channel++) pixels[4 * i + channel] = value(isColor ? channel : 0, i);
    pixels[4 * i + 3] = hasAlpha ? value(channels - 1, i) : 255;
  }
  return { pixels, width, height };
}

async function render({ seed, second, first, psi, index }) {
  const start = performance.now();
  const w = Float32Array.from(await latents(seed, psi, index));
  if (second !== null) {
    const from = first * network.w_dim;
    w.set((await latents(second, psi, index)).subarray(from), from);
  }
  const { image } = await synthesis.run({ w: new ort.Tensor('float32', w, [1, network.num_ws, network.w_dim]) });
  const result = toPixels(image);
  return { kind: 'image', ...result, milliseconds: performance.now() - start };
}

const loaded = load();
loaded.then(
  () => self.postMessage({ kind: 'ready', network }),
  (error) => self.postMessage({ kind: 'error', message: `The network cannot be loaded: ${error.message}` }),
);
self.onmessage = async ({ data }) => {
  try {
    await loaded;
    self.postMessage(await render(data));
  } catch (error) {
    self.postMessage({ kind: 'error', message: `The image cannot be computed: ${error.message}` });
  }
};
