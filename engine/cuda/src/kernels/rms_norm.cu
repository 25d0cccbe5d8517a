//! RMS norm of rows (Zhang and Sennrich, 2019): out[r][c] = in[r][c] * weight[c] / sqrt(mean of in[r]² + epsilon), all f32.
//
// One block of THREADS per row; rows are dense, `columns` apart. It is bound by memory: each element is read twice, the second time from cache. The sum is
// taken in an order that depends on `columns` alone, so a row's result does not depend on the rows beside it.

constexpr unsigned THREADS = 256; // As in rms_norm.rs.
constexpr unsigned WARP = 32;

__device__ float sum_of_warp(float value) {
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm(float* __restrict__ out, const float* __restrict__ in, const float* __restrict__ weight, unsigned columns, float epsilon) {
    const float* row = in + static_cast<size_t>(blockIdx.x) * columns;
    float* out_row = out + static_cast<size_t>(blockIdx.x) * columns;

    float squares = 0.0f;
    for (unsigned column = threadIdx.x; column < columns; column += THREADS) {
        squares = fmaf(row[column], row[column], squares);
    }
    squares = sum_of_warp(squares);

    __shared__ float of_warps[THREADS / WARP];
    if (threadIdx.x % WARP == 0) {
        of_warps[threadIdx.x / WARP] = squares;
    }
    __syncthreads();
    // Every thread adds the few sums itself, in one order, instead of waiting for one that does.
    float total = 0.0f;
    for (unsigned warp = 0; warp < THREADS / WARP; ++warp) {
        total += of_warps[warp];
    }
    const float factor = 1.0f / sqrtf(total / static_cast<float>(columns) + epsilon);

    for (unsigned column = threadIdx.x; column < columns; column += THREADS) {
        out_row[column] = row[column] * factor * weight[column];
    }
}
