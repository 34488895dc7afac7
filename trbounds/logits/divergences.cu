// Divergences of rows of logits: see trbounds/logits/cuda.py for the launches, and
// trbounds/divergences/exact.py for the formulas.
//
// LOGIT  float, double, or unsigned short for the bits of 16-bit floats
// HALF   1 for float16, 2 for bfloat16, else 0
// REAL   double or float: the precision of exponentials; sums over threads are always double
//
// A row is cut into gridDim.x slices, one block of THREADS threads each. Every block writes its own partial results, so
// that nothing depends on the order in which blocks finish.

#define SUMS 8  // kl, kl reverse, tv, chi2, entropy, max |log rho|, unsupported mass, excess
#define THREADS 256

#ifndef HOST_CHECK
#define INFINITY_D __longlong_as_double(0x7ff0000000000000LL)
#else
#define INFINITY_D HUGE_VAL
#endif

__device__ __forceinline__ double widen(LOGIT value) {
#if HALF == 2
  return (double)__uint_as_float((unsigned int)value << 16);
#elif HALF == 1
  // The exponents differ by 112: shifted bits times 2^112, subnormal numbers included.
  unsigned int bits = (unsigned int)(value & 0x7fff) << 13;
  float magnitude = __uint_as_float(bits) * 5.192296858534828e33f;
  if ((value & 0x7c00) == 0x7c00)
    magnitude = __uint_as_float((value & 0x3ff) ? 0x7fc00000u : 0x7f800000u);
  return (double)((value & 0x8000) ? -magnitude : magnitude);
#else
  return (double)value;
#endif
}

// exp(d) - 1 - d, given rise = expm1(d): the Taylor series where the subtraction would cancel.
__device__ __forceinline__ REAL expm1_minus(REAL d, REAL rise) {
  if (d > (REAL)0.5 || d < (REAL)-0.5) return rise - d;
  const int terms = sizeof(REAL) == 8 ? 16 : 9;
  REAL sum = (REAL)1;
#pragma unroll
  for (int n = terms; n > 2; --n) sum = (REAL)1 + sum * d * ((REAL)1 / (REAL)n);
  return (REAL)0.5 * d * d * sum;
}

// Replace a by the sum (or, for `largest`, the maximum) of a over the block, in thread 0.
__device__ double reduce_block(double a, bool largest) {
  __shared__ double shared[THREADS];
  __syncthreads();
  shared[threadIdx.x] = a;
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      double b = shared[threadIdx.x + half];
      a = largest ? (a != a || a > b ? a : b) : a + b;
      shared[threadIdx.x] = a;
    }
  }
  __syncthreads();
  return shared[0];
}

__device__ void online_softmax(double value, double* peak, double* total) {
  if (value <= *peak) {
    // Also when both are -inf: nothing to add.
    if (value > -INFINITY_D) *total += (double)exp((REAL)(value - *peak));
  } else {
    *total = *total * (double)exp((REAL)(*peak - value)) + 1.0;
    *peak = value;
  }
}

// First pass: peak and sum of exponentials of each slice, of both policies.
// partial[row][slice] = {peak x, total x, peak y, total y}
extern "C" __global__ void normalisers(const LOGIT* __restrict__ x, const LOGIT* __restrict__ y,
                                       long long width, double* __restrict__ partial) {
  const long long row = blockIdx.y;
  const long long step = (long long)gridDim.x * blockDim.x;
  double result[4];
  for (int side = 0; side < 2; ++side) {
    const LOGIT* logits = (side ? y : x) + row * width;
    double peak = -INFINITY_D, total = 0.0;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < width; i += step) {
      double value = widen(logits[i]);
      if (value != value || value == INFINITY_D) total = value - value;  // NaN: reported by the host
      online_softmax(value, &peak, &total);
    }
    double top = reduce_block(peak, true);
    double scaled = top > -INFINITY_D && peak > -INFINITY_D ? total * exp(peak - top) : total;
    result[2 * side] = top;
    result[2 * side + 1] = reduce_block(scaled, false);
  }
  if (threadIdx.x == 0)
    for (int k = 0; k < 4; ++k) partial[(row * gridDim.x + blockIdx.x) * 4 + k] = result[k];
}

// Combine the slices of one policy into its log-normaliser.
__device__ double log_normaliser(const double* partial, int slices, int side) {
  double peak = -INFINITY_D, total = 0.0;
  for (int s = 0; s < slices; ++s)
    if (partial[4 * s + 2 * side] > peak) peak = partial[4 * s + 2 * side];
  for (int s = 0; s < slices; ++s) {
    double own = partial[4 * s + 2 * side];
    if (own > -INFINITY_D) total += partial[4 * s + 2 * side + 1] * exp(own - peak);
    else total += partial[4 * s + 2 * side + 1];  // 0, or NaN
  }
  return peak + log(total);
}

__device__ void add_one_sided(double mu, double pi, REAL* sums) {
  // Exactly one of the two is positive.
  if (mu > 0.0) {
    sums[0] = INFINITY_D;
    sums[1] += mu;
    sums[3] += mu;
  } else {
    sums[0] += pi;
    sums[1] = sums[3] = INFINITY_D;
    sums[6] += pi;
  }
  sums[2] += 0.5 * (mu + pi);
  sums[5] = INFINITY_D;
  sums[7] += pi - mu;
}

__device__ void add_far(double log_mu, double d, REAL* sums, double* chi2) {
  // |log rho| so large that products overflow or cancel: through logarithms, in double.
  double mu = exp(log_mu), pi = exp(log_mu + d), difference = pi - mu;
  sums[0] += difference - mu * d;
  sums[1] += pi * d - difference;
  sums[2] += 0.5 * fabs(difference);
  *chi2 += exp(log_mu + 2.0 * d) - 2.0 * pi + mu;  // may be beyond what REAL holds
  sums[7] += difference;
}

// previous: the sums of the second pass, in the third; out[row][slice][SUMS].
//
// Second pass: the normalisers must be known before |pi - mu| can be summed, so the logits are read
// again; the host launches few enough rows at a time for them to be in the second-level cache still.
// With correct_below > 0 this is the third pass: it redoes the rows whose total variation is smaller
// than that, with the normalisers corrected by the excess, and leaves the others.
extern "C" __global__ void sums(const LOGIT* __restrict__ x, const LOGIT* __restrict__ y,
                                long long width, const double* __restrict__ partial,
                                const double* __restrict__ previous, double correct_below,
                                double* __restrict__ out, double* __restrict__ log_normalisers) {
  const long long row = blockIdx.y;
  const long long place = (row * gridDim.x + blockIdx.x) * SUMS;
  __shared__ double norms[3];
  if (threadIdx.x == 0) {
    const double* mine = partial + row * gridDim.x * 4;
    norms[0] = log_normaliser(mine, gridDim.x, 0);
    norms[1] = log_normaliser(mine, gridDim.x, 1) - norms[0];
    double tv = 0.0, excess = 0.0;
    if (correct_below > 0.0)
      for (int s = 0; s < gridDim.x; ++s) {
        tv += previous[(row * gridDim.x + s) * SUMS + 2];
        excess += previous[(row * gridDim.x + s) * SUMS + 7];
      }
    norms[2] = tv < correct_below ? log1p(excess) : 0.0;
    if (correct_below > 0.0 && !(tv < correct_below)) norms[2] = INFINITY_D;  // leave the row
    if (blockIdx.x == 0 && norms[2] < INFINITY_D) {
      log_normalisers[2 * row] = norms[0];
      log_normalisers[2 * row + 1] = norms[0] + norms[1] + norms[2];
    }
  }
  __syncthreads();
  const double norm = norms[0], shift = norms[1], correction = norms[2];
  if (correction == INFINITY_D) {
    for (int k = threadIdx.x; k < SUMS; k += blockDim.x) out[place + k] = previous[place + k];
    return;
  }
  const double limit = sizeof(REAL) == 8 ? 300.0 : 20.0;
  const long long step = (long long)gridDim.x * blockDim.x;
  REAL local[SUMS] = {};  // about sixty terms each: float is enough for them where REAL is float
  double far_chi2 = 0.0;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < width; i += step) {
    const double a = widen(x[row * width + i]), b = widen(y[row * width + i]);
    const double log_mu = a - norm;
    const bool in_mu = a > -INFINITY_D, in_pi = b > -INFINITY_D;
    if (in_mu) local[4] -= exp((REAL)log_mu) * log_mu;
    if (in_mu != in_pi) {
      double one = in_mu ? log_mu : b - norm - shift - correction;
      add_one_sided(in_mu ? exp(one) : 0.0, in_mu ? 0.0 : exp(one), local);
    } else if (in_mu) {
      const double d = b - a - shift - correction;
      if (!(fabs(d) <= local[5])) local[5] = (REAL)fabs(d);
      if (!(fabs(d) < limit)) {
        add_far(log_mu, d, local, &far_chi2);
        continue;
      }
      const REAL rise = expm1((REAL)d), mu = exp((REAL)log_mu);
      const REAL difference = mu * rise, kl = mu * expm1_minus((REAL)d, rise);
      local[0] += kl;
      local[1] += difference * (REAL)d - kl;
      local[2] += (REAL)0.5 * fabs(difference);
      local[3] += difference * rise;
      local[7] += difference;
    }
  }
  for (int k = 0; k < SUMS; ++k) {
    double total = reduce_block(k == 3 ? local[k] + far_chi2 : (double)local[k], k == 5);
    if (threadIdx.x == 0) out[place + k] = total;
  }
}
