// upfirdn2d on the CPU: zero insertion, padding, filter and downsampling, without computing on inserted zeros or pixels
// that are dropped.
//
// A filter that is an outer product, such as [1,3,3,1], is applied to rows and columns separately; outer products are
// detected here. Any other filter is a sum of outer products, one for each of its rows. For each row of the output, the
// input rows that its taps meet are combined (along y) into a buffer that stays in the cache, and the output is computed
// from that buffer (along x). Each input is read from memory once and each output is written once: (1 + up² / down²) s
// bytes per input pixel, with s the size of an element. Along x, vector instructions process the channels of a pixel if
// channels are last, else the pixels of a row: then the phases of a downsampling are separated first, and the phases of
// an upsampling are interleaved at the end.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <vector>

#include "cpu_finish.h"
#include "cpu_memory.h"
#include "cpu_threads.h"
#include "cpu_vectors.h"

const int64_t TILE = 4096;  // elements of the buffer; together with the other data in use, half of a small L1 cache
// Unless channels are last, several short rows are computed at once: this many outputs for upsampling and downsampling.
const int64_t OUTPUTS_GROWING = 1024, OUTPUTS_SHRINKING = 4096;

static inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && a < 0); }
static inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

// Output o reads input i through tap i * up + pad - o * down of the correlation kernel.
struct Axis {
    int64_t up, down, pad, taps, in, out;

    int64_t first(int64_t o) const { return ceil_div(o * down - pad, up); }
    int64_t last(int64_t o) const { return floor_div(o * down - pad + taps - 1, up); }
    int64_t tap(int64_t o, int64_t i) const { return i * up + pad - o * down; }
};

// The taps of the outputs m * periods + p for one p. Their inputs are first + m * advance + 0, 1, ...
template <class T> struct Phase {
    int64_t first;
    std::vector<T> taps;
};

template <class T> struct Resample {
    const T* in;
    T* out;
    int64_t n, c;
    int64_t in_n, in_c, in_h, out_n, out_c, out_h;  // strides; the stride along w is 1, or c with channels last
    bool channels_last;
    Axis x, y;
    const Finish* finish;  // applied to the results; for floats, channels last, in multiples of LANES; or null
};

// ---------------------------------------------------------------------------------------------------------------------
// Weighted sums of vectors, for `runs` vectors at a constant distance

template <int TAPS, bool ADD, class T>
static void combine_some(T* out, int64_t out_step, const T* const* in, int64_t in_step, const T* taps, int64_t runs, int64_t length) {
    T tap[TAPS];
    for (int k = 0; k < TAPS; ++k) tap[k] = taps[k];
    for (int64_t run = 0; run < runs; ++run) {
        T* target = out + run * out_step;
        const T* source[TAPS];
        for (int k = 0; k < TAPS; ++k) source[k] = in[k] + run * in_step;
#pragma omp simd
        for (int64_t i = 0; i < length; ++i) {
            T sum = tap[0] * source[0][i];
            for (int k = 1; k < TAPS; ++k) sum += tap[k] * source[k][i];
            target[i] = ADD ? target[i] + sum : sum;
        }
    }
}

template <int TAPS, bool ADD, bool STREAM>
static void combine_vectors(float* out, int64_t out_step, const float* const* in, int64_t in_step, const float* taps, int64_t runs,
                            int64_t length) {
    float tap[TAPS];
    const float* source[TAPS];
    for (int k = 0; k < TAPS; ++k) tap[k] = taps[k], source[k] = in[k];
    for (int64_t run = 0; run < runs; ++run) {
        for (int64_t i = 0; i < length; i += LANES) {
            Vec sum = tap[0] * load(source[0] + i);
#pragma GCC unroll 6
            for (int k = 1; k < TAPS; ++k) sum += tap[k] * load(source[k] + i);
            if (ADD) sum += load(out + i);
            (STREAM ? stream : store)(out + i, sum);
        }
        out += out_step;
        for (int k = 0; k < TAPS; ++k) source[k] += in_step;
    }
}

template <int TAPS>
static void combine_some(float* out, int64_t out_step, const float* const* in, int64_t in_step, const float* taps, int64_t runs,
                         int64_t length, bool add, bool past) {
    if (length % LANES != 0) {
        if (add) combine_some<TAPS, true>(out, out_step, in, in_step, taps, runs, length);
        else combine_some<TAPS, false>(out, out_step, in, in_step, taps, runs, length);
    } else if (add) {
        combine_vectors<TAPS, true, false>(out, out_step, in, in_step, taps, runs, length);
    } else if (past) {
        combine_vectors<TAPS, false, true>(out, out_step, in, in_step, taps, runs, length);
    } else {
        combine_vectors<TAPS, false, false>(out, out_step, in, in_step, taps, runs, length);
    }
}

template <int TAPS>
static void combine_some(double* out, int64_t out_step, const double* const* in, int64_t in_step, const double* taps, int64_t runs,
                         int64_t length, bool add, bool) {
    if (add) combine_some<TAPS, true>(out, out_step, in, in_step, taps, runs, length);
    else combine_some<TAPS, false>(out, out_step, in, in_step, taps, runs, length);
}

const int MOST_AT_ONCE = 6;

// `past`: store the results past the caches, if all taps can be processed at once.
template <class T>
static void combine(T* out, int64_t out_step, const T* const* in, int64_t in_step, const T* taps, int64_t count, int64_t runs,
                    int64_t length, bool add, bool past = false) {
    if (count == 0 && !add)
        for (int64_t run = 0; run < runs; ++run) std::fill(out + run * out_step, out + run * out_step + length, T(0));
    while (count > 0) {
        const int64_t some = count > MOST_AT_ONCE ? std::min<int64_t>(MOST_AT_ONCE, (count + 1) / 2) : count;
#define COMBINE(TAPS) case TAPS: \
        combine_some<TAPS>(out, out_step, in, in_step, taps, runs, length, add, past && some == count); break;
        switch (some) { COMBINE(1) COMBINE(2) COMBINE(3) COMBINE(4) COMBINE(5) COMBINE(6) }
#undef COMBINE
        in += some, taps += some, count -= some;
        add = true;
    }
}

template <int STEP, class T> static void join(T* out, const T* in, int64_t pitch, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i)
        for (int k = 0; k < STEP; ++k) out[i * STEP + k] = in[k * pitch + i];
}

template <int STEP, class T> static void separate(T* out, const T* in, int64_t pitch, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i)
        for (int k = 0; k < STEP; ++k) out[k * pitch + i] = in[i * STEP + k];
}

// ---------------------------------------------------------------------------------------------------------------------
// Filters as products along the axes

template <class T> struct Product {
    std::vector<T> along_y;           // empty: use only row `row` of the kernel
    std::vector<Phase<T>> along_x;
    int64_t row;
};

template <class T> struct Plan {
    int64_t periods, advance;          // the taps of outputs along x repeat with this period, in which the input advances by `advance`
    int64_t nearest, farthest;         // first and last input along x of the outputs 0 ... periods - 1
    std::vector<Product<T>> products;

    void add(const Axis& x, std::vector<T> along_y, const std::vector<T>& taps_x, int64_t row) {
        std::vector<Phase<T>> phases(periods);
        for (int64_t p = 0; p < periods; ++p) {
            phases[p].first = x.first(p);
            for (int64_t i = x.first(p); i <= x.last(p); ++i) phases[p].taps.push_back(taps_x[x.tap(p, i)]);
        }
        products.push_back({std::move(along_y), std::move(phases), row});
    }
};

// Return whether `kernel` [rows, columns] is an outer product up to rounding errors, and if so its factors.
static bool is_outer_product(const std::vector<double>& kernel, int64_t rows, int64_t columns, double tolerance,
                             std::vector<double>& along_y, std::vector<double>& along_x) {
    size_t peak = 0;
    for (size_t k = 0; k < kernel.size(); ++k) {
        if (!std::isfinite(kernel[k])) return false;
        if (std::fabs(kernel[k]) > std::fabs(kernel[peak])) peak = k;
    }
    const double top = kernel[peak];
    const int64_t row = peak / columns, column = peak % columns;
    for (int64_t k = 0; k < columns; ++k) along_x.push_back(kernel[row * columns + k]);
    for (int64_t k = 0; k < rows; ++k) along_y.push_back(top == 0 ? 0 : kernel[k * columns + column] / top);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
            if (std::fabs(kernel[r * columns + c] - along_y[r] * along_x[c]) > tolerance * std::fabs(top)) return false;
    return true;
}

template <class T> static Plan<T> plan_of(const Axis& x, const Axis& y, const std::vector<double>& kernel, double tolerance) {
    Plan<T> plan;
    int64_t a = x.up, b = x.down;
    while (b) { const int64_t rest = a % b; a = b, b = rest; }
    plan.periods = x.up / a, plan.advance = x.down / a;
    plan.nearest = x.first(0), plan.farthest = x.last(plan.periods - 1);
    for (int64_t p = 0; p < plan.periods; ++p) plan.farthest = std::max(plan.farthest, x.last(p));
    plan.farthest = std::max(plan.farthest, plan.nearest);

    std::vector<double> along_y, along_x;
    if (is_outer_product(kernel, y.taps, x.taps, tolerance, along_y, along_x)) {
        plan.add(x, std::vector<T>(along_y.begin(), along_y.end()), std::vector<T>(along_x.begin(), along_x.end()), -1);
    } else {
        for (int64_t row = 0; row < y.taps; ++row)
            plan.add(x, {}, std::vector<T>(kernel.begin() + row * x.taps, kernel.begin() + (row + 1) * x.taps), row);
    }
    return plan;
}

// ---------------------------------------------------------------------------------------------------------------------
// The work of one thread

template <class T> struct Worker {
    const Resample<T>& a;
    const Plan<T>& plan;
    const int64_t pixel;              // elements from one pixel of a row to the next
    const bool past;                  // store results past the caches
    const bool direct;                // as they are computed
    const bool buffered;              // or from a buffer of complete rows
    std::vector<T> staged, buffer, separated, joined, line;
    std::vector<const T*> rows;
    std::vector<std::vector<const T*>> sources;  // for each phase along x, the addresses that its taps read
    // Rows at once; elements from row to row of the buffer, of a separated phase, of a phase to be interleaved.
    int64_t batch = 1, pitch = 0, pitch_in = 0, pitch_out = 0;
    std::array<int64_t, 5> placed = {};

    Worker(const Resample<T>& a, const Plan<T>& plan) : a(a), plan(plan), pixel(a.channels_last ? a.c : 1),
        past(past_caches(a.n * a.c * a.y.out * a.x.out * (int64_t)sizeof(T))), direct(past && !a.finish && can_be_direct()),
        buffered(a.finish || (past && !direct)) {}

    // Return whether `along_x` writes only whole, aligned vectors, each of them once.
    bool can_be_direct() const {
        if (!std::is_same<T, float>::value || !a.channels_last || pixel % LANES != 0 || plan.products[0].row >= 0) return false;
        for (const Phase<T>& phase : plan.products[0].along_x)
            if (phase.taps.empty() || (int64_t)phase.taps.size() > MOST_AT_ONCE) return false;
        return is_aligned(a.out) && a.out_h % LANES == 0 && a.out_n % LANES == 0;
    }

    // Return how many periods of outputs to compute from one buffer.
    int64_t tile() const {
        const int64_t all = ceil_div(a.x.out, plan.periods);
        return std::min(all, std::max<int64_t>(1, TILE / (pixel * plan.advance)));
    }

    bool shrinks() const { return a.y.down > a.y.up; }

    // Return how many rows of outputs to compute at once: several if rows are short and the filter is an outer product.
    int64_t rows_at_once(int64_t outputs) const {
        if (a.channels_last || plan.products[0].row >= 0) return 1;
        return std::max<int64_t>(1, (shrinks() ? OUTPUTS_SHRINKING : OUTPUTS_GROWING) / outputs);
    }

    // Compute rows [first, last) of image n of the output and, unless channels are last, of channel c.
    void run(int64_t n, int64_t c, int64_t first, int64_t last) {
        const T* in = a.in + n * a.in_n + c * a.in_c;
        T* out = a.out + n * a.out_n + c * a.out_c;
        const int64_t step = tile(), all = ceil_div(a.x.out, plan.periods);
        for (int64_t m = 0; m < all; m += step) {
            const int64_t periods = std::min(step, all - m), origin = plan.nearest + m * plan.advance;
            const int64_t width = (periods - 1) * plan.advance + plan.farthest - plan.nearest + 1;
            const int64_t outputs = std::min(periods * plan.periods, a.x.out - m * plan.periods);
            const int64_t left = std::min(std::max<int64_t>(origin, 0), a.x.in), right = std::max(left, std::min(origin + width, a.x.in));
            const std::array<int64_t, 5> layout = {width, periods, std::min(rows_at_once(outputs), last - first), left - origin,
                                                   right - left};
            if (layout != placed) place(width, periods, layout[2]);  // Most planes have the same layout.
            placed = layout;
            // Unless they are buffered, rows are written to the output directly.
            const int64_t out_step = buffered ? outputs * pixel : a.out_h;
            if (buffered) line.resize(batch * outputs * pixel);
            for (int64_t row = first; row < last; row += batch) {
                const int64_t count = std::min(batch, last - row);
                T* target = out + row * a.out_h + m * plan.periods * pixel;
                make_rows(in + left * pixel, buffered ? line.data() : target, out_step, row, count, (left - origin) * pixel,
                          (right - left) * pixel, outputs);
                if (!buffered) continue;
                if (a.finish) finish_row(target, n, row * a.x.out + m * plan.periods, outputs);
                else if (out_step == a.out_h) store_past_caches(target, line.data(), count * out_step);
                else
                    for (int64_t r = 0; r < count; ++r) store_past_caches(target + r * a.out_h, line.data() + r * out_step, out_step);
            }
        }
        finish_stores();
    }

    // Write the pixels [first, first + count) of image n from `line`.
    void finish_row(T* target, int64_t n, int64_t first, int64_t count) {
        if constexpr (std::is_same<T, float>::value) {
            const Finish finish = *a.finish;  // a copy, to keep the constants in registers
            const float* factors = finish.scale_of(n);
            const bool aligned = past && is_aligned(a.out);
            for (int64_t o = 0; o < count; ++o) {
                const float noise = finish.noise_at(n, first + o);
                for (int64_t c = 0; c < pixel; c += LANES) {
                    const Vec y = finish(load(line.data() + o * pixel + c), load(factors + c), load(finish.bias + c) + noise);
                    (aligned ? stream : store)(target + o * pixel + c, y);
                }
            }
        }
    }

    // Allocate buffers for tiles of this width and `rows` rows, and find the addresses in them that the taps along x read.
    void place(int64_t width, int64_t periods, int64_t rows) {
        batch = rows, pitch_in = ceil_div(width, plan.advance), pitch_out = periods, pitch = pitch_in * plan.advance * pixel;
        buffer.assign(batch * pitch, T(0));  // Later, only the part inside the image is written.
        if (!a.channels_last && plan.advance > 1) separated.resize(batch * plan.advance * pitch_in);
        if (!a.channels_last && plan.periods > 1) joined.resize(batch * plan.periods * pitch_out);
        sources.resize(plan.periods);
        for (int64_t p = 0; p < plan.periods; ++p) {
            const Phase<T>& phase = plan.products[0].along_x[p];  // all products have the same positions, but other taps
            sources[p].clear();
            for (int64_t k = 0; k < (int64_t)phase.taps.size(); ++k) {
                const int64_t at = phase.first + k - plan.nearest;
                sources[p].push_back(a.channels_last || plan.advance == 1 ? buffer.data() + at * pixel
                                     : separated.data() + at % plan.advance * batch * pitch_in + at / plan.advance);
            }
        }
    }

    // Compute rows [row, row + count), which are `out_step` elements apart.
    void make_rows(const T* in, T* out, int64_t out_step, int64_t row, int64_t count, int64_t margin, int64_t length, int64_t outputs) {
        bool add = false;
        if (plan.products[0].row < 0) {
            const T* near = stage(in, first_row(row), last_row(row + count - 1), length);
            for (int64_t r = 0; r < count; ++r) along_y(near, buffer.data() + r * pitch + margin, row + r, length);
            along_x(plan.products[0], out, out_step, count, outputs, false);
            add = true;
        } else {
            for (int64_t i = first_row(row); i <= last_row(row); ++i) {
                std::copy(in + i * a.in_h, in + i * a.in_h + length, buffer.data() + margin);
                along_x(plan.products[a.y.tap(row, i)], out, out_step, count, outputs, add);
                add = true;
            }
        }
        if (!add)
            std::fill(out, out + outputs * pixel, T(0));
        else if (!a.channels_last && plan.periods > 1)
            join_phases(out, out_step, count, outputs);
    }

    // Copy rows [first, last] to the cache if that is worthwhile; return the address that row 0 would have. The copy reads
    // memory sequentially, which the processor prefetches; with the short rows that the taps read in turn, it would wait
    // for memory most of the time.
    const T* stage(const T* in, int64_t first, int64_t last, int64_t length) {
        if (batch == 1 || last < first || !shrinks() || a.in_h > 2 * length) return in;
        const int64_t size = (last - first) * a.in_h + length;
        staged.resize(std::max<size_t>(staged.size(), size));
        std::copy(in + first * a.in_h, in + first * a.in_h + size, staged.data());
        return staged.data() - first * a.in_h;
    }

    // The first and last input row, within the image, that an output row reads.
    int64_t first_row(int64_t row) const { return std::max<int64_t>(a.y.first(row), 0); }
    int64_t last_row(int64_t row) const { return std::min(a.y.last(row), a.y.in - 1); }

    void along_y(const T* in, T* out, int64_t row, int64_t length) {
        rows.clear();
        taps_y.clear();
        for (int64_t i = first_row(row); i <= last_row(row); ++i) {
            rows.push_back(in + i * a.in_h);
            taps_y.push_back(plan.products[0].along_y[a.y.tap(row, i)]);
        }
        combine(out, 0, rows.data(), 0, taps_y.data(), (int64_t)rows.size(), 1, length, false);
    }

    void along_x(const Product<T>& product, T* out, int64_t out_step, int64_t count, int64_t outputs, bool add) {
        if (plan.advance > 1 && !a.channels_last) separate_phases(count);
        const int64_t in_step = plan.advance > 1 ? pitch_in : pitch;  // elements from row to row
        for (int64_t p = 0; p < plan.periods; ++p) {
            const Phase<T>& phase = product.along_x[p];
            const int64_t taps = (int64_t)phase.taps.size(), runs = outputs > p ? (outputs - p - 1) / plan.periods + 1 : 0;
            if (runs == 0) continue;
            if (a.channels_last && (plan.advance > 1 || plan.periods > 1))
                combine(out + p * pixel, plan.periods * pixel, sources[p].data(), plan.advance * pixel, phase.taps.data(), taps, runs,
                        pixel, add, direct);
            else if (plan.periods > 1)
                combine(joined.data() + p * batch * pitch_out, pitch_out, sources[p].data(), in_step, phase.taps.data(), taps, count,
                        runs, add);
            else
                combine(out, out_step, sources[p].data(), in_step, phase.taps.data(), taps, count, runs * pixel, add, direct);
        }
    }

    void separate_phases(int64_t count) {
        const int64_t all = count * pitch_in, between = batch * pitch_in;
        switch (plan.advance) {
            case 2: return separate<2>(separated.data(), buffer.data(), between, all);
            case 4: return separate<4>(separated.data(), buffer.data(), between, all);
        }
        for (int64_t i = 0; i < all * plan.advance; ++i)
            separated[i % plan.advance * between + i / plan.advance] = buffer[i];
    }

    void join_phases(T* out, int64_t out_step, int64_t count, int64_t outputs) {
        if (outputs == out_step && outputs == plan.periods * pitch_out) return join_row(out, joined.data(), count * outputs);
        for (int64_t r = 0; r < count; ++r) join_row(out + r * out_step, joined.data() + r * pitch_out, outputs);
    }

    void join_row(T* out, const T* in, int64_t outputs) {
        const int64_t whole = outputs / plan.periods, between = batch * pitch_out;
        switch (plan.periods) {
            case 2: join<2>(out, in, between, whole); break;
            case 4: join<4>(out, in, between, whole); break;
            default:
                for (int64_t i = 0; i < whole * plan.periods; ++i) out[i] = in[i % plan.periods * between + i / plan.periods];
        }
        for (int64_t i = whole * plan.periods; i < outputs; ++i) out[i] = in[i % plan.periods * between + i / plan.periods];
    }

    std::vector<T> taps_y;
};

template <class T> static void resample(const Resample<T>& a, const std::vector<double>& kernel, double tolerance, int threads) {
    const Plan<T> plan = plan_of<T>(a.x, a.y, kernel, tolerance);
    const int64_t planes = a.channels_last ? a.n : a.n * a.c;
    const int64_t work = a.n * a.c * std::max(a.y.out * a.x.out, a.y.in * a.x.in);
    const int workers = threads_for(work, threads);
    // Split planes into bands of rows if there are too few planes to keep all threads busy.
    const int64_t wanted = workers == 1 ? 1 : 4 * workers;
    const int64_t bands = std::max<int64_t>(1, std::min(ceil_div(wanted, planes), a.y.out / 8));
    const int64_t groups = std::max<int64_t>(1, std::min(planes, wanted));  // groups of planes
    in_parallel(groups * bands, workers, [&](int64_t item) {
        Worker<T> worker(a, plan);
        const int64_t group = item / bands, band = item % bands;
        for (int64_t plane = planes * group / groups; plane < planes * (group + 1) / groups; ++plane)
            worker.run(a.channels_last ? plane : plane / a.c, a.channels_last ? 0 : plane % a.c, a.y.out * band / bands,
                       a.y.out * (band + 1) / bands);
    });
}
