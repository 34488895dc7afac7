// The kernel: rows of logits, spread over blocks and threads. divergence_sums.cu comes before this
// in one program; see trbounds/logits/cuda.py for that, and for the launch.
//
// LANES    logits per load, as wide as the alignment of both arrays allows
// WORD     a type of that width, which is loaded at once: uint4, uint2, ...
// THREADS  of a block, a power of 2
// BLOCKS   that share a multiprocessor
//
// A row belongs to a group of blocks, each of which keeps its slice of both policies in shared
// memory, so that every logit crosses the memory bus once although it is used twice: |pi - mu|
// cannot be summed before both normalisers are known. The blocks of a group exchange the
// normalisers of their slices through global memory and wait for one another, so all blocks must be
// resident: a cooperative launch. The last block of a group to finish a row adds up the slices.

#ifndef HOST_CHECK
#define SHARED(type, name, count) __shared__ type name[count]
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

#define LOWEST ((VALUE)-3e38)  // where maxima start: finite, so that differences are numbers

// What a block tells the others of its group: two peaks and totals, the sums, the listed tokens.
enum { SHARE = 4 + SUMS + 2 * NEAR };

union Pack {
  WORD word;
  LOGIT item[LANES];
};

// The part of a row that a block has: its first `kept` packs are in shared memory, x before y.
struct Slice {
  const Pack* x;
  const Pack* y;
  Pack* cache;
  int kept, count;
};

// A run of it in one memory: the part that is kept, or the rest.
struct Run {
  const Pack* x;
  const Pack* y;
  int count;
};

__device__ __forceinline__ Run run_of(const Slice& slice, int rest) {
  const int kept = min(slice.kept, slice.count);
  if (rest) return {slice.x + kept, slice.y + kept, slice.count - kept};
  return {slice.cache, slice.cache + slice.kept, kept};
}

// All of a pack in one load.
__device__ __forceinline__ Pack load(const Pack* place) {
  Pack pack;
  pack.word = place->word;
  return pack;
}

// Leave in thread 0 the sums over the block of the first `added` values, the maxima of the others.
template <int count>
__device__ __forceinline__ void reduce(double (&values)[count], int added, double* exchange) {
  const int thread = threadIdx.x;
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (thread >= half && thread < 2 * half)
      for (int k = 0; k < count; ++k) exchange[k * half + thread - half] = values[k];
    __syncthreads();
    if (thread < half)
      for (int k = 0; k < count; ++k) {
        const double other = exchange[k * half + thread];
        values[k] = k < added ? values[k] + other : fmax(values[k], other);
      }
    __syncthreads();
  }
}

// Copy what thread 0 has to all threads.
template <int count>
__device__ __forceinline__ void broadcast(double (&values)[count], double* exchange) {
  if (threadIdx.x == 0)
    for (int k = 0; k < count; ++k) exchange[k] = values[k];
  __syncthreads();
  for (int k = 0; k < count; ++k) values[k] = exchange[k];
  __syncthreads();
}

// Peaks, and sums of exponentials relative to them, of both policies over all threads.
__device__ void combine(double (&peak)[2], double (&total)[2], double* exchange) {
  const double own[2] = {peak[0], peak[1]};
  reduce(peak, 0, exchange);
  broadcast(peak, exchange);
  for (int k = 0; k < 2; ++k) total[k] *= exp(own[k] - peak[k]);
  reduce(total, 2, exchange);
  broadcast(total, exchange);
}

// Announce that this block has written its part, and wait for the others of its group.
__device__ void wait_for_group(unsigned int* arrived, unsigned int expected) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicAdd(arrived, 1u);
    while (*(volatile unsigned int*)arrived < expected) __nanosleep(32);
    __threadfence();
  }
  __syncthreads();
}

// Copy a load to shared memory; where the device can, without passing through registers, so that a
// whole slice is under way at once.
__device__ __forceinline__ void copy(Pack* to, const Pack* from) {
#if !defined(HOST_CHECK) && __CUDA_ARCH__ >= 800
  if constexpr (sizeof(WORD) >= 4) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(
                     (unsigned int)__cvta_generic_to_shared(to)),
                 "l"(__cvta_generic_to_global(from)), "n"((int)sizeof(WORD))
                 : "memory");
    return;
  }
#endif
  to->word = from->word;
}

// No barrier follows: a thread reads from the cache only what it has put there itself.
__device__ void fetch(const Slice& slice) {
  for (int i = threadIdx.x; i < min(slice.kept, slice.count); i += blockDim.x) {
    copy(&slice.cache[i], &slice.x[i]);
    copy(&slice.cache[slice.kept + i], &slice.y[i]);
  }
#if !defined(HOST_CHECK) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// First pass: write the peaks and sums of exponentials of the slice to share[4].
__device__ void take_softmax(const Slice& slice, double* exchange, double* share) {
  VALUE top[2] = {LOWEST, LOWEST}, sum[2] = {0, 0};
#pragma unroll 1
  for (int rest = 0; rest < 2; ++rest) {
    const Run run = run_of(slice, rest);
    for (int i = threadIdx.x; i < run.count; i += blockDim.x) {
      const Pack x = load(&run.x[i]), y = load(&run.y[i]);
      online_softmax(x.item, &top[0], &sum[0]);
      online_softmax(y.item, &top[1], &sum[1]);
    }
  }
  double peak[2] = {top[0], top[1]}, total[2] = {sum[0], sum[1]};
  combine(peak, total, exchange);
  if (threadIdx.x == 0)
    for (int k = 0; k < 2; ++k) share[k] = peak[k], share[2 + k] = total[k];
}

// Combine what the blocks of a group found in the first pass.
__device__ void find_shift(const volatile double* shares, int slices, double* exchange,
                           Frame* frame) {
  double peak[2] = {LOWEST, LOWEST}, total[2] = {0.0, 0.0};
  for (int s = threadIdx.x; s < slices; s += blockDim.x)
    for (int k = 0; k < 2; ++k) {
      const volatile double* other = shares + (long long)s * SHARE;
      const double top = fmax(peak[k], other[k]);
      total[k] = total[k] * exp(peak[k] - top) + other[2 + k] * exp(other[k] - top);
      peak[k] = top;
    }
  combine(peak, total, exchange);
  if (threadIdx.x == 0) {
    frame->peak = peak[0];
    frame->shift = (peak[1] - peak[0]) + log(total[1] / total[0]);
  }
}

// List a token, if there is room: its e may have the wrong sign.
__device__ __forceinline__ void list(REAL m, REAL e, unsigned int* listed, double* entries) {
  const unsigned int place = atomicAdd(listed, 1u);
  if (place < NEAR) {
    entries[2 * place] = m;
    entries[2 * place + 1] = e;
  }
}

// Second pass: write the sums over the slice to share[4 + SUMS], and list tokens after them.
__device__ void take_sums(const Slice& slice, const Frame* frame, unsigned int* listed,
                          double* exchange, double* share) {
  REAL local[SUMS] = {};  // about a hundred terms each: float is enough for them
  local[HIGHEST] = local[DEEPEST] = -INFINITY_D;
  double far_kl = 0.0, far_square = 0.0;
  const Wide peak = frame->top;
  const REAL high = frame->high, low = frame->low, border = frame->border;
  const REAL limit = sizeof(REAL) == 8 ? 300 : 20;  // of |d|, well before e^2 overflows
#pragma unroll 1
  for (int rest = 0; rest < 2; ++rest) {
    const Run run = run_of(slice, rest);
    for (int i = threadIdx.x; i < run.count; i += blockDim.x) {
      const Pack x = load(&run.x[i]), y = load(&run.y[i]);
      unsigned int distant = 0;
#pragma unroll
      for (int j = 0; j < LANES; ++j) {
        const Wide a = widen(x.item[j]), b = widen(y.item[j]);
        const REAL d = (REAL)log_ratio(a, b, (Wide)high, (Wide)low);
        if (fabs(d) <= (REAL)0.5) {
          const REAL t = below_peak(a, peak), more = expm1_minus(d), e = d + more;
          const REAL m = exponential(t);
          add(m, t, d, e, more, local);
          if (fabs(e) < border) list(m, e, listed, share + 4 + SUMS);
        } else {
          distant |= 1u << j;  // also NaN, from -inf
        }
      }
      for (; distant; distant &= distant - 1) {
        const int j = __ffs(distant) - 1;
        const Wide a = widen(run.x[i].item[j]), b = widen(run.y[i].item[j]);
        const REAL d = (REAL)log_ratio(a, b, (Wide)high, (Wide)low);
        if (fabs(d) < limit) {
          const REAL t = below_peak(a, peak), e = expm1(d);
          add(exponential(t), t, d, e, e - d, local);
        } else {
          add_unusual(a, b, frame->peak, frame->shift + frame->correction, local, &far_kl,
                      &far_square);
        }
      }
    }
  }
  double sums[SUMS];
  for (int k = 0; k < SUMS; ++k) sums[k] = local[k];
  sums[REVERSE] -= sums[KL];
  sums[KL] += far_kl;
  sums[SQUARE] += far_square;
  reduce(sums, ADDED, exchange);
  if (threadIdx.x == 0) {
    sums[LISTED] = *listed;
    for (int k = 0; k < SUMS; ++k) share[4 + k] = sums[k];
  }
}

// Add up the slices of a row.
__device__ double conclude(const volatile double* shares, int slices, const Frame* frame,
                           double* exchange, long long row, long long rows, double* columns) {
  double sums[SUMS] = {};
  sums[HIGHEST] = sums[DEEPEST] = -INFINITY_D;
  for (int s = threadIdx.x; s < slices; s += blockDim.x)
    for (int k = 0; k < SUMS; ++k) {
      const double other = shares[(long long)s * SHARE + 4 + k];
      sums[k] = k < ADDED ? sums[k] + other : fmax(sums[k], other);
    }
  reduce(sums, ADDED, exchange);
  broadcast(sums, exchange);
  // Listed tokens were taken to lie on their side of 0; the excess says on which they do.
  const double excess = sums[EXCESS] / sums[MASS];
  double crossing[1] = {0.0};
  for (int s = 0; s < slices; ++s) {
    const volatile double* other = shares + (long long)s * SHARE + 4;
    for (int k = threadIdx.x; k < min((int)other[LISTED], NEAR); k += blockDim.x) {
      const double m = other[SUMS + 2 * k], e = other[SUMS + 2 * k + 1];
      crossing[0] += m * (fabs(e - excess) - fabs(e) + excess * copysign(1.0, e));
    }
  }
  reduce(crossing, 1, exchange);
  return threadIdx.x == 0 ? finish(sums, *frame, crossing[0], row, rows, columns) : 0.0;
}

// columns[9][rows]: the columns of trbounds.logits.numpy_kernel
// state[3][rows]: peak, shift, and by how much the shift must be corrected
// redo[1 + rows]: how many rows must be done again, 0 at first, and which
// scratch[groups][2][slices][SHARE], for two rows in turn; arrived[groups][2], zeros
//
// near: the excess that the first pass may leave. With `again` the rows of `redo` are corrected.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    divergences(const Pack* __restrict__ x, const Pack* __restrict__ y, long long rows, int packs,
                int slices, int kept, double near, int again, double* scratch,
                unsigned int* arrived, unsigned int* redo, double* state, double* columns) {
  DYNAMIC_SHARED(dynamic);
  SHARED(double, exchange, SUMS * (THREADS / 2));
  SHARED(Frame, frame, 1);
  SHARED(unsigned int, listed, 1);
  SHARED(bool, last, 1);
  const int thread = threadIdx.x, place = blockIdx.x % slices;
  const long long group = blockIdx.x / slices, groups = gridDim.x / slices;
  const int length = (packs + slices - 1) / slices, begin = place * length;
  unsigned int round = 0;
  if (group >= groups) return;
  arrived += 2 * group;

  const long long todo = again ? redo[0] : rows;
  for (long long k = group; k < todo; k += groups) {
    const long long row = again ? redo[1 + k] : k;
    ++round;
    double* const shares = scratch + (group * 2 + round % 2) * slices * SHARE;
    double* const share = shares + place * SHARE;
    const long long first = row * packs + begin;
    const Slice slice = {x + first, y + first, (Pack*)dynamic, kept, min(length, packs - begin)};
    fetch(slice);
    if (!again) take_softmax(slice, exchange, share);
    // Also when done again: nobody may write the shares of the next row but one before this.
    wait_for_group(&arrived[0], slices * round);
    if (thread == 0) {
      listed[0] = 0;
      frame[0].correction = again ? state[2 * rows + row] : 0.0;
      frame[0].near = again ? 1e-4 * fabs(frame[0].correction) : near;
      if (again) frame[0].peak = state[row], frame[0].shift = state[rows + row];
    }
    if (!again) find_shift(shares, slices, exchange, frame);
    if (thread == 0) round_frame(frame);
    __syncthreads();
    take_sums(slice, frame, listed, exchange, share);
    __threadfence();
    __syncthreads();
    if (thread == 0) last[0] = atomicAdd(&arrived[1], 1u) == slices * round - 1;
    __syncthreads();
    if (!last[0]) continue;

    __threadfence();
    const double change = conclude(shares, slices, frame, exchange, row, rows, columns);
    if (thread == 0 && !again && change != 0.0) {
      state[row] = frame[0].peak;
      state[rows + row] = frame[0].shift;
      state[2 * rows + row] = change;
      redo[1 + atomicAdd(&redo[0], 1u)] = (unsigned int)row;
    }
  }
}
