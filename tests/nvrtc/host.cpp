//! Runs the kernel rms_norm on the host, from the same source that NVRTC compiles, and holds it against arithmetic in f64. It shows that the kernel's sums,
//! strides and synchronisation are right; what it cannot show is the GPU itself (`cargo test -p engine-cuda --test gpu` does).
//
// A block is as many threads as it has on a GPU, blocks one after another. What CUDA adds to C++ is put in its place below: a barrier for the block, and for a
// shuffle an exchange between two barriers of the warp.

#include <array>
#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <deque>
#include <thread>
#include <vector>

using std::size_t;

struct Place {
    unsigned x;
};
static thread_local Place threadIdx, blockIdx;

static constexpr unsigned LANES = 32, THREADS_MAX = 1024;
static std::array<float, THREADS_MAX> exchanged;
static std::barrier<>* whole_block;
static std::deque<std::barrier<>>* warps;

static void __syncthreads() { whole_block->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned, float value, unsigned distance) {
    auto& warp = (*warps)[threadIdx.x / LANES];
    exchanged[threadIdx.x] = value;
    warp.arrive_and_wait();
    const float other = exchanged[threadIdx.x ^ distance];
    warp.arrive_and_wait();
    return other;
}

#define __global__
#define __device__ static
#define __shared__ static
#define __restrict__
#define __launch_bounds__(threads)
#include "../../engine/cuda/src/kernels/rms_norm.cu"

static std::vector<float> run(const std::vector<float>& in, const std::vector<float>& weight, float epsilon) {
    const unsigned columns = static_cast<unsigned>(weight.size()), rows = static_cast<unsigned>(in.size() / columns);
    // What the kernel does not write stays a number that no row has.
    std::vector<float> out(in.size(), NAN);
    for (unsigned row = 0; row < rows; ++row) {
        std::barrier<> block(THREADS);
        std::deque<std::barrier<>> of_warps;
        for (unsigned warp = 0; warp < THREADS / LANES; ++warp) of_warps.emplace_back(LANES);
        whole_block = &block;
        warps = &of_warps;
        std::vector<std::jthread> threads;
        for (unsigned thread = 0; thread < THREADS; ++thread) {
            threads.emplace_back([&, row, thread] {
                threadIdx.x = thread;
                blockIdx.x = row;
                rms_norm(out.data(), in.data(), weight.data(), columns, epsilon);
            });
        }
    }
    return out;
}

static float number(unsigned& state) {
    state = state * 1664525u + 1013904223u; // Numerical Recipes' generator.
    return static_cast<float>(state >> 8) / 4194304.0f - 2.0f;
}

/// The largest relative error of `rows` rows of made-up numbers, or a negative number where a row depends on the rows beside it.
static double worst_of(unsigned rows, unsigned columns) {
    unsigned state = rows * 31 + columns;
    std::vector<float> in(static_cast<size_t>(rows) * columns), weight(columns);
    for (auto& x : in) x = number(state);
    for (auto& x : weight) x = number(state);
    const auto out = run(in, weight, 1e-5f);
    double worst = 0;
    for (unsigned row = 0; row < rows; ++row) {
        double squares = 0;
        for (unsigned c = 0; c < columns; ++c) squares += std::pow(static_cast<double>(in[row * columns + c]), 2);
        const double factor = 1 / std::sqrt(squares / columns + static_cast<double>(1e-5f));
        for (unsigned c = 0; c < columns; ++c) {
            const double expected = in[row * columns + c] * factor * weight[c];
            const double error = std::abs((out[row * columns + c] - expected) / expected);
            if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;
        }
    }
    const std::vector<float> last(in.end() - columns, in.end());
    const auto alone = run(last, weight, 1e-5f);
    for (unsigned c = 0; c < columns; ++c) {
        if (alone[c] != out[(rows - 1) * static_cast<size_t>(columns) + c]) return -1;
    }
    return worst;
}

int main() {
    constexpr double ERROR_MAX = 2e-6; // As in engine/cuda/src/rms_norm.rs.
    bool right = true;
    for (const auto [rows, columns] : {std::pair{1u, 1u}, {3u, 31u}, {2u, 256u}, {5u, 1000u}, {4u, 4096u}, {2u, 14336u}}) {
        const double worst = worst_of(rows, columns);
        const bool good = worst >= 0 && worst <= ERROR_MAX;
        std::printf("nvrtc: rms_norm on the host, %u x %u: relative error %.1e, %s\n", rows, columns, worst, good ? "right" : "WRONG");
        right = right && good;
    }
    return right ? 0 : 1;
}
