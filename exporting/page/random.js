// The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998) and normal numbers by Marsaglia's polar method, in the
// order in which numpy.random.RandomState draws them.

const SIZE = 624;
const SHIFT = 397;

class Twister {
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    this.state[0] = seed;
    for (let i = 1; i < SIZE; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(before, 1812433253) + i;
    }
    this.next = SIZE;
  }

  refill() {
    const { state } = this;
    for (let i = 0; i < SIZE; i++) {
      const joined = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % SIZE] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  bits() {
    if (this.next === SIZE) this.refill();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  uniform() { // 53 bits, in [0, 1)
    const high = this.bits() >>> 5;
    const low = this.bits() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }
}

export function normals(seed, count) {
  const twister = new Twister(seed);
  const result = new Float64Array(count + 1);
  for (let i = 0; i < count; i += 2) {
    let a;
    let b;
    let square;
    do {
      a = 2 * twister.uniform() - 1;
      b = 2 * twister.uniform() - 1;
      square = a * a + b * b;
    } while (square >= 1 || square === 0);
    const scale = Math.sqrt((-2 * Math.log(square)) / square);
    result[i] = scale * b;
    result[i + 1] = scale * a;
  }
  return result.subarray(0, count);
}
