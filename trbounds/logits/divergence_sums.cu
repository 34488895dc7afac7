// The divergences of a row of logits from sums over its tokens: what a token adds to the sums, and
// what follows from them. Nothing here knows of threads: divergences.cu, which comes after this in
// one program, spreads the tokens over them.
//
// LOGIT  float, double, or unsigned short for the bits of 16-bit floats
// HALF   1 for float16, 2 for bfloat16, else 0
// VALUE  float, or double for double logits: what holds a logit exactly
// REAL   double or float: the precision of the terms; sums over threads are always double
//
// There are two passes, of which the first need not be exact. With t = x - peak, e = expm1(d),
// d = (y - x) - shift, the second sums m = exp(t), m (e - d), ... at the shift that the first one
// gave, and the sum of m e says by how much that shift was off. From these sums every divergence at
// the right shift follows without cancellation, except that pi - mu of tokens with e near 0 may
// change its sign: they are listed, and summed at the end. Rows too close for that are done once
// more, at the corrected shift.

#ifndef HOST_CHECK
#define INFINITY_D __longlong_as_double(0x7ff0000000000000LL)
#define NAN_D __longlong_as_double(0x7ff8000000000000LL)
#endif

#define NEAR 128  // tokens that a block can list

typedef decltype(VALUE() + REAL()) Wide;  // in which differences of logits are taken

// Sums over tokens of m, m t, m (e - d), m (e d - e + d), |m e|, m sign(e), m e, m e^2, and of what
// only pi and only mu gives mass; maxima of d and of -d; and how many tokens are listed.
enum { MASS, WEIGHTED, KL, REVERSE, ABSOLUTE, SIGNED, EXCESS, SQUARE, GAINED, LOST, ADDED };
enum { HIGHEST = ADDED, DEEPEST, LISTED, SUMS };

// What the terms of the second pass are relative to; in shared memory, for the sake of registers.
struct Frame {
  double peak, shift, correction;
  double near;     // tokens with |e| below it are listed
  Wide top;        // the peak
  REAL high, low;  // shift + correction
  REAL border;     // near
};

// Fill in what the second pass reads of the frame at every token, in its precision.
__device__ void round_frame(Frame* frame) {
  frame->top = (Wide)frame->peak;
  frame->high = (REAL)frame->shift;
  frame->low = (REAL)((frame->shift - (double)frame->high) + frame->correction);
  frame->border = (REAL)frame->near;
}

__device__ __forceinline__ VALUE widen(LOGIT value) {
#if HALF == 2
  return __uint_as_float((unsigned int)value << 16);
#elif HALF == 1 && defined(HOST_CHECK)
  return float_of_half(value);
#elif HALF == 1
  // Not by shifting bits into a float and scaling it: CuPy compiles with subnormals flushed to 0.
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
  return result;
#else
  return value;
#endif
}

__device__ __forceinline__ float exponential(float t) { return exp2f(t * 1.4426950408889634f); }

// Constant memory, because double-precision instructions cannot hold a constant themselves.
__constant__ double inverse_factorial[] = {
    1.0,           1.0,            1.0 / 2,         1.0 / 6,            1.0 / 24,
    1.0 / 120,     1.0 / 720,      1.0 / 5040,      1.0 / 40320,        1.0 / 362880,
    1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0, 1.0 / 87178291200.0};
__constant__ double exp_constant[] = {1.4426950408889634, 6755399441055744.0,
                                      -0.6931471803691238, -1.9082149292705877e-10};

// exp(t) for t <= 0; below -708 the smallest normal numbers. Relative error 1e-14.
__device__ __forceinline__ double exponential(double t) {
  if (t < -708.0) t = -708.0;
  const double shifted = t * exp_constant[0] + exp_constant[1];  // rounds to a whole number
  const double power = shifted - exp_constant[1];
  const double r = power * exp_constant[3] + (power * exp_constant[2] + t);
  double sum = inverse_factorial[11];
#pragma unroll
  for (int n = 10; n >= 0; --n) sum = sum * r + inverse_factorial[n];
  return sum * __hiloint2double((__double2loint(shifted) + 1023) << 20, 0);
}

// t = a - peak; of double logits not so low that t times the smallest exp(t) would count, or that t
// would be beyond float.
__device__ __forceinline__ REAL below_peak(Wide a, Wide peak) {
  const Wide t = a - peak;
  return (REAL)(sizeof(VALUE) == 8 ? fmax(t, (Wide)-1e4) : t);
}

// log rho = (b - a) - high - low. In float the rounding error of b - a is carried along.
__device__ __forceinline__ float log_ratio(float a, float b, float high, float low) {
  const float s = b - a, part = s - b;
  const float error = (b - (s - part)) - (a + part);
  return (s - high) + (error - low);
}
__device__ __forceinline__ double log_ratio(double a, double b, double high, double low) {
  return ((b - a) - high) - low;
}

// exp(d) - 1 - d for |d| <= 1/2, by its Taylor series.
__device__ __forceinline__ REAL expm1_minus(REAL d) {
  const int terms = sizeof(REAL) == 8 ? 14 : 8;
  REAL sum = (REAL)inverse_factorial[terms];
#pragma unroll
  for (int n = terms - 1; n >= 2; --n) sum = d * sum + (REAL)inverse_factorial[n];
  return d * (d * sum);
}

// Take logits into their maximum so far, and the sum of exponentials relative to it.
template <int count>
__device__ void online_softmax(const LOGIT (&logits)[count], VALUE* peak, VALUE* total) {
  VALUE value[count], top = *peak;
#pragma unroll
  for (int j = 0; j < count; ++j) {
    value[j] = widen(logits[j]);
    top = fmax(top, value[j]);
  }
  if (top > *peak) {
    *total *= exponential(*peak - top);
    *peak = top;
  }
#pragma unroll
  for (int j = 0; j < count; ++j) *total += exponential(value[j] - top);  // NaN stays NaN
}

// Add a token, given m, t, d, e and more = e - d.
__device__ __forceinline__ void add(REAL m, REAL t, REAL d, REAL e, REAL more, REAL* sums) {
  const REAL difference = m * e;
  sums[MASS] += m;
  sums[WEIGHTED] += m * t;
  sums[KL] += m * more;
  sums[REVERSE] += difference * d;  // the KL is taken off at the end
  sums[ABSOLUTE] += fabs(difference);
  sums[SIGNED] += copysign(m, e);
  sums[EXCESS] += difference;
  sums[SQUARE] += difference * e;
  sums[HIGHEST] = fmax(sums[HIGHEST], d);
  sums[DEEPEST] = fmax(sums[DEEPEST], -d);
}

// Add, in double, a token that one policy cannot produce, or whose ratio has powers that overflow
// REAL. Its share of the KL, which may be so large that the reverse KL would drown in it, is apart.
__device__ void add_unusual(double a, double b, double peak, double shift, REAL* sums,
                            double* far_kl, double* far_square) {
  const bool in_mu = a > -INFINITY_D, in_pi = b > -INFINITY_D;
  const double t = a - peak, d = (b - a) - shift;
  const double m = in_mu ? exp(t) : 0.0, pi = in_pi ? exp(b - peak - shift) : 0.0;
  const double difference = pi - m;
  sums[MASS] += m;
  sums[ABSOLUTE] += fabs(difference);
  sums[SIGNED] += difference > 0.0 ? m : -m;
  sums[EXCESS] += difference;
  if (in_mu) sums[WEIGHTED] += m * t;
  if (in_mu && in_pi) {
    *far_kl += difference - m * d;
    sums[REVERSE] += pi * d - difference;
    *far_square += exp(t + 2.0 * d) - 2.0 * pi + m;  // may be beyond what REAL holds
    sums[HIGHEST] = fmax((double)sums[HIGHEST], d);
    sums[DEEPEST] = fmax((double)sums[DEEPEST], -d);
  } else {
    sums[SQUARE] += m;
    if (m > 0.0) sums[LOST] += fmax(m, 1e-37);  // positive also in float
    if (pi > 0.0) sums[GAINED] += fmax(pi, 1e-37);
    if (m > 0.0 || pi > 0.0) sums[HIGHEST] = INFINITY_D;
  }
}

// Write the divergences of a row from its sums and from `crossing`, which ABSOLUTE misses of listed
// tokens. Tell how far off the shift was if that matters.
__device__ double finish(const double* s, const Frame& frame, double crossing, long long row,
                         long long rows, double* columns) {
  const double mass = s[MASS], excess = s[EXCESS] / mass, rise = 1.0 + excess;
  const double change = log1p(excess), square = s[SQUARE] / mass;
  // excess - log1p(excess), and log1p(excess) - excess / (1 + excess)
  const bool tiny = fabs(excess) < 1e-4;
  const double half = 0.5 * excess * excess;
  const double above = tiny ? half * (1.0 - excess / 1.5) : excess - change;
  const double below = tiny ? half * (1.0 - excess / 0.75) : change - excess / rise;
  const double kl = (s[KL] + s[GAINED]) / mass - above;
  const double reverse = (s[REVERSE] + s[LOST]) / mass / rise - below;
  const double tv = 0.5 * (s[ABSOLUTE] - excess * s[SIGNED] + crossing) / mass / rise;
  const double chi2 = (square - excess * excess) / rise / rise;
  const double norm = frame.peak + log(mass);
  const bool lost = s[LOST] > 0.0, gained = s[GAINED] > 0.0;
  const double value[] = {lost ? INFINITY_D : fmax(kl, 0.0),
                          gained ? INFINITY_D : fmax(reverse, 0.0),
                          fmin(fmax(tv, 0.0), 1.0),
                          gained ? INFINITY_D : fmax(chi2, 0.0),
                          log(mass) - s[WEIGHTED] / mass,
                          fmax(s[HIGHEST] - change, s[DEEPEST] + change),
                          s[GAINED] / mass / rise,
                          norm,
                          norm + frame.shift + frame.correction + change};
  const bool valid = mass > 0.0 && mass < INFINITY_D && rise > 0.0 && rise < INFINITY_D;
  for (int k = 0; k < 9; ++k) columns[k * rows + row] = valid ? value[k] : NAN_D;
  const bool off =
      s[LISTED] > NEAR || fabs(excess) >= frame.near || excess * excess > 0.01 * square;
  return valid && excess != 0.0 && off ? change : 0.0;
}
