//! The vector operations that packed products are written in: eight lanes, one per output.

/// Outputs side by side in a strip: lanes of a vector.
pub(crate) const OUTPUTS: usize = 8;

/// Integer dot products and f32 chains of eight outputs in one instruction set. Integers are exact and every f32 operation is rounded
/// as IEEE 754 says, so all implementations give the same bits.
///
/// # Safety
/// As [`Simd`](crate::kernel::simd::Simd): every method needs a processor with the instruction set, and methods that take pointers read
/// or write as many elements as they say.
pub(crate) trait Lanes: Copy + 'static {
    /// Four bytes for each output.
    type Bytes: Copy;
    /// Running sums of a few products of bytes, not yet one number per output.
    type Sum: Copy;
    /// One `i32` for each output.
    type Ints: Copy;
    /// One f32 for each output.
    type Floats: Copy;
    /// A scale of a part of a block, as [`add_scaled`](Self::add_scaled) multiplies by it.
    type Scale: Copy;

    unsafe fn bytes(from: *const u8) -> Self::Bytes;
    /// The same four bytes for each output.
    unsafe fn four(from: *const i8) -> Self::Bytes;
    /// Each byte's lower four bits, and its upper four.
    unsafe fn nibbles(packed: Self::Bytes) -> [Self::Bytes; 2];
    /// `16 ×` one bit of each byte of `bits`, added to nibbles.
    unsafe fn with_fifth_bit(nibbles: Self::Bytes, bits: Self::Bytes, bit: i32) -> Self::Bytes;
    /// `16 ×` two bits, from `first_bit` on, of each byte of `bits`, added to nibbles, less 32: −32 ..= 31.
    unsafe fn with_sixth_bits(nibbles: Self::Bytes, bits: Self::Bytes, first_bit: i32) -> Self::Bytes;
    /// Magnitudes of signed bytes, as unsigned ones.
    unsafe fn magnitudes(bytes: Self::Bytes) -> Self::Bytes;

    unsafe fn no_sum() -> Self::Sum;
    /// Adds the products of unsigned `w` and signed `x`. Sums of eight such additions hold any `w ≤ 15`, sums of four any `w ≤ 31`,
    /// for `|x| ≤ 127`.
    unsafe fn dot_unsigned(sum: Self::Sum, w: Self::Bytes, x: Self::Bytes) -> Self::Sum;
    /// Adds the products of signed `w`, whose magnitudes are `size`, and signed `x`. Sums of four such additions hold `|w| ≤ 32`.
    unsafe fn dot_signed(sum: Self::Sum, w: Self::Bytes, size: Self::Bytes, x: Self::Bytes) -> Self::Sum;

    unsafe fn no_ints() -> Self::Ints;
    /// Adds a sum to each output's number.
    unsafe fn add_sum(ints: Self::Ints, sum: Self::Sum) -> Self::Ints;
    /// Adds the products of signed `w`, any byte whose magnitudes are `size`, and `|x| ≤ 127`.
    unsafe fn add_dot(ints: Self::Ints, w: Self::Bytes, size: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    unsafe fn subtract(ints: Self::Ints, value: i32) -> Self::Ints;
    /// Reads eight signed bytes.
    unsafe fn scale(from: *const i8) -> Self::Scale;
    /// Adds `scale ×` a sum to each output's number.
    unsafe fn add_scaled(ints: Self::Ints, scale: Self::Scale, sum: Self::Sum) -> Self::Ints;

    unsafe fn splat(value: f32) -> Self::Floats;
    unsafe fn floats(ints: Self::Ints) -> Self::Floats;
    /// Reads eight f16.
    unsafe fn halves(from: *const u8) -> Self::Floats;
    /// Reads eight unsigned bytes.
    unsafe fn small(from: *const u8) -> Self::Floats;
    unsafe fn load(from: *const f32) -> Self::Floats;
    unsafe fn store(to: *mut f32, v: Self::Floats);
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a × b + c`, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `c − a × b`, rounded once.
    unsafe fn fnma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Fetches the cache line of an address that need not be mapped.
    unsafe fn prefetch(at: *const u8);
}
