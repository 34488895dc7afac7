// Enough of CUDA to run the kernel of trbounds/logits/cuda.py on the host: every thread of every
// block is a thread of this process, so waiting, atomics and barriers are the real thing.

#include <sched.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define HOST_CHECK
#define __device__
#define __global__
#define __constant__ static const
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(threads, blocks)
#define BLOCK_LIMIT 16
#define SHARED(type, name, count)          \
  static type name##_of[BLOCK_LIMIT][count]; \
  type* const name = name##_of[blockIdx.x]
#define DYNAMIC_SHARED(name)                                  \
  alignas(16) static unsigned char name##_of[BLOCK_LIMIT][1 << 16]; \
  unsigned char* const name = name##_of[blockIdx.x]
#define INFINITY_D HUGE_VAL
#define NAN_D ((double)NAN)

struct Dim {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
static thread_local Dim threadIdx, blockIdx;
static Dim blockDim, gridDim;
static std::vector<std::unique_ptr<std::barrier<>>> barriers;

static void __syncthreads() { barriers[blockIdx.x]->arrive_and_wait(); }
static void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static void __nanosleep(unsigned) { sched_yield(); }
static unsigned atomicAdd(unsigned* place, unsigned value) {
  return __atomic_fetch_add(place, value, __ATOMIC_SEQ_CST);
}
static int __ffs(unsigned value) { return __builtin_ffs(value); }
static int __double2loint(double value) {
  long long bits;
  std::memcpy(&bits, &value, 8);
  return (int)bits;
}
static double __hiloint2double(int high, int low) {
  const unsigned long long bits = (unsigned long long)(unsigned)high << 32 | (unsigned)low;
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}
static float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static float float_of_half(unsigned short bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                          : exponent == 0 ? std::ldexp((float)fraction, -24)
                                          : std::ldexp((float)(fraction + 1024), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}
using std::copysign;
using std::exp;
using std::expm1;
using std::fabs;
using std::fmax;
using std::fmin;
using std::log;
using std::log1p;
using std::min;

#include SOURCE

extern "C" void launch(unsigned blocks, const Pack* x, const Pack* y, long long rows, int packs,
                       int slices, int kept, double near, int again, double* scratch,
                       unsigned* arrived, unsigned* redo, double* state, double* columns) {
  blockDim = {THREADS, 1, 1};
  gridDim = {blocks, 1, 1};
  barriers.clear();
  for (unsigned block = 0; block < blocks; ++block)
    barriers.push_back(std::make_unique<std::barrier<>>(THREADS));
  std::vector<std::thread> threads;
  for (unsigned block = 0; block < blocks; ++block)
    for (unsigned thread = 0; thread < THREADS; ++thread)
      threads.emplace_back([=] {
        blockIdx = {block, 0, 0};
        threadIdx = {thread, 0, 0};
        divergences(x, y, rows, packs, slices, kept, near, again, scratch, arrived, redo, state,
                    columns);
      });
  for (std::thread& thread : threads) thread.join();
}
