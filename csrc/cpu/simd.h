// Vectors as wide as the instruction set a kernel file is compiled for, and other small tools of the kernel files.
//
// Everything is in an unnamed namespace: a shared inline function compiled for AVX-512 could be the copy that the
// linker keeps for the baseline too. For the same reason kernel files use no templates of the standard library.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/runtime.h"
#include "metric.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

#ifdef __clang__
#define BIMT_UNROLL _Pragma("unroll")
#else
#define BIMT_UNROLL _Pragma("GCC unroll 32")
#endif
#define BIMT_INLINE inline __attribute__((always_inline))

namespace bimt {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T, int N>
struct VectorOf {
  typedef T Type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::Type;

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));
template <class T>
using Full = Vector<T, kLanes<T>>;

template <size_t Bytes>
struct IntegerOf;
template <>
struct IntegerOf<4> {
  using Type = int32_t;
};
template <>
struct IntegerOf<8> {
  using Type = int64_t;
};
// The integer as wide as T: what comparisons of vectors of T yield, and what can be an index beside them.
template <class T>
using IntegerLike = typename IntegerOf<sizeof(T)>::Type;

template <class V, class T>
BIMT_INLINE V load(const T* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}

template <class V, class T>
BIMT_INLINE void store(T* to, V v) {
  __builtin_memcpy(to, &v, sizeof(V));
}

template <class V, class T>
BIMT_INLINE V splat(T x) {
  return x - V{};
}

template <class T, class V>
using BitsOf = Vector<IntegerLike<T>, sizeof(V) / sizeof(T)>;

template <class T, class V>
BIMT_INLINE BitsOf<T, V> sign_bit() {
  return BitsOf<T, V>{} + static_cast<IntegerLike<T>>(uint64_t(1) << (8 * sizeof(T) - 1));
}

template <class T, class V>
BIMT_INLINE V magnitude(V v) {
  return (V)((BitsOf<T, V>)v & ~sign_bit<T, V>());
}

// x * sign(v), where sign is 0 for 0 and NaN.
template <class T, class V>
BIMT_INLINE V times_sign(V x, V v) {
  const V flipped = (V)((BitsOf<T, V>)x ^ ((BitsOf<T, V>)v & sign_bit<T, V>()));
  return magnitude<T>(v) > 0 ? flipped : V{};
}

template <class V>
BIMT_INLINE V square_root(V v) {
  for (size_t lane = 0; lane < sizeof(V) / sizeof(v[0]); ++lane) {
    v[lane] = sizeof(v[0]) == 4 ? __builtin_sqrtf(v[lane]) : __builtin_sqrt(v[lane]);
  }
  return v;
}

#if defined(__AVX512F__)
BIMT_INLINE Full<float> square_root(Full<float> v) { return (Full<float>)_mm512_maskz_sqrt_ps(0xffff, (__m512)v); }
BIMT_INLINE Full<double> square_root(Full<double> v) { return (Full<double>)_mm512_maskz_sqrt_pd(0xff, (__m512d)v); }
#elif defined(__AVX2__)
BIMT_INLINE Full<float> square_root(Full<float> v) { return (Full<float>)_mm256_sqrt_ps((__m256)v); }
BIMT_INLINE Full<double> square_root(Full<double> v) { return (Full<double>)_mm256_sqrt_pd((__m256d)v); }
#elif defined(__SSE2__)
BIMT_INLINE Full<float> square_root(Full<float> v) { return (Full<float>)_mm_sqrt_ps((__m128)v); }
BIMT_INLINE Full<double> square_root(Full<double> v) { return (Full<double>)_mm_sqrt_pd((__m128d)v); }
#endif

// Stores past the caches where the CPU can; `to` must then be aligned to the vector. Finish with stream_fence().
template <class V, class T>
BIMT_INLINE void stream(T* to, V v) {
#if defined(__AVX512F__)
  __m512i bits;
  __builtin_memcpy(&bits, &v, sizeof(V));
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), bits);
#elif defined(__AVX2__)
  __m256i bits;
  __builtin_memcpy(&bits, &v, sizeof(V));
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bits);
#elif defined(__SSE2__)
  __m128i bits;
  __builtin_memcpy(&bits, &v, sizeof(V));
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), bits);
#else
  store(to, v);
#endif
}

BIMT_INLINE void stream_fence() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// Into the second-level cache: rows of a matrix often fall into one set of the first.
BIMT_INLINE void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

template <int... I>
struct Indices {};
template <int N, int... I>
struct CountTo : CountTo<N - 1, N - 1, I...> {};
template <int... I>
struct CountTo<0, I...> {
  using Type = Indices<I...>;
};

// a[0] b[0] a[1] b[1] ... of the lower (Offset 0) or upper (Offset N / 2) halves.
template <int Offset, class T, class V, int... I>
BIMT_INLINE V zip(V a, V b, Indices<I...>) {
  constexpr int kCount = sizeof...(I);
#ifdef __clang__
  return __builtin_shufflevector(a, b, (Offset + I / 2 + I % 2 * kCount)...);
#else
  const Vector<IntegerLike<T>, kCount> order = {(Offset + I / 2 + I % 2 * kCount)...};
  return __builtin_shuffle(a, b, order);
#endif
}

// Two vectors of half the length as one, and back. Without the builtin (GCC before 12) this goes through memory.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define BIMT_HAS_SHUFFLEVECTOR
#endif
#endif

template <class V, class Half, int... I>
BIMT_INLINE V join(Half low, Half high, Indices<I...>) {
#ifdef BIMT_HAS_SHUFFLEVECTOR
  return __builtin_shufflevector(low, high, I...);
#else
  V both;
  __builtin_memcpy(&both, &low, sizeof(Half));
  __builtin_memcpy(reinterpret_cast<char*>(&both) + sizeof(Half), &high, sizeof(Half));
  return both;
#endif
}

template <class Half, class V, int... I>
BIMT_INLINE void split(V both, Half* halves, Indices<I...>) {
#ifdef BIMT_HAS_SHUFFLEVECTOR
  halves[0] = __builtin_shufflevector(both, both, I...);
  halves[1] = __builtin_shufflevector(both, both, (I + int(sizeof...(I)))...);
#else
  __builtin_memcpy(halves, &both, sizeof(V));
#endif
}

// Transposes an N x N tile held in N vectors, by log2(N) rounds of zipping the first half with the second.
template <class T>
BIMT_INLINE void transpose(Full<T>* rows) {
  constexpr int kCount = kLanes<T>;
  using All = typename CountTo<kCount>::Type;
  BIMT_UNROLL
  for (int round = 1; round < kCount; round *= 2) {
    Full<T> zipped[kCount];
    BIMT_UNROLL
    for (int i = 0; i < kCount / 2; ++i) {
      zipped[2 * i] = zip<0, T>(rows[i], rows[i + kCount / 2], All());
      zipped[2 * i + 1] = zip<kCount / 2, T>(rows[i], rows[i + kCount / 2], All());
    }
    BIMT_UNROLL
    for (int i = 0; i < kCount; ++i) rows[i] = zipped[i];
  }
}

template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : data_(static_cast<T*>(allocate(count * sizeof(T)))) {}
  ~Scratch() { release(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_;
};

template <class F>
void parallel(int threads, int64_t blocks, F body) {
  parallel_for(
      threads, blocks, [](void* f, int64_t block, int thread) { (*static_cast<F*>(f))(block, thread); }, &body);
}

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace
}  // namespace bimt
